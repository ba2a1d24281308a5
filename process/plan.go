package process

import (
	"path/filepath"

	"github.com/myshim/myshim/process/plan"
)

// Plan returns what Create would do with a bundle, without doing anything. The
// root file system is taken to be at root.path.
func Plan(bundle string) (*plan.Create, error) {
	bundle, err := filepath.Abs(bundle)
	if err != nil {
		return nil, err
	}
	_, _, p, err := compile(Config{ID: filepath.Base(bundle), Bundle: bundle})
	return p, err
}
