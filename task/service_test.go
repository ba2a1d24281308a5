package task

import (
	"testing"

	"github.com/myshim/myshim/process"
)

func TestStatuses(t *testing.T) {
	for s := process.Created; s <= process.Deleted; s++ {
		if _, ok := statuses[s]; !ok {
			t.Errorf("containerd is not told of %v", s)
		}
	}
}
