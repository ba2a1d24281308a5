package process

import (
	"os"
	"strings"
	"testing"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Limits that are not to be had are in the log, at a creation and at an update.
func TestIgnoredLimits(t *testing.T) {
	var said strings.Builder
	log.L.Logger.SetOutput(&said)
	defer log.L.Logger.SetOutput(os.Stderr)
	hierarchy := false
	limits := &specs.LinuxResources{Memory: &specs.LinuxMemory{UseHierarchy: &hierarchy}}
	cfg, _ := config(t, func(s *specs.Spec) { s.Linux.Resources = limits }, "sleep")
	c := create(t, cfg)
	if err := c.Update(limits); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"container ", "update container "} {
		if want := `msg="` + what + c.ID + `: linux.resources.memory.useHierarchy is ignored: `; strings.Count(said.String(), want) != 1 {
			t.Errorf("the log has not, once, %s\n%s", want, said.String())
		}
	}
}
