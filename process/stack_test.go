package process

import (
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// An exec's stack limit is not lost to the execve by which the init begins. To
// meet that it takes some luck, and something else that keeps the CPUs busy.
func TestStackLimitOfExecs(t *testing.T) {
	cfg, _ := config(t, nil, "sleep")
	c := create(t, cfg)
	start(t, c)
	var stop atomic.Bool
	defer stop.Store(true)
	for range 4 {
		go func() {
			for !stop.Load() {
				runtime.Gosched()
			}
		}()
	}
	for i := range 30 {
		got := execOutput(t, c, &specs.Process{
			Cwd: "/", Args: []string{"/test", "stack"}, Env: []string{"INSIDE=1"},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_STACK", Soft: 1 << 20, Hard: 2 << 20}},
		})
		if got != "1048576 2097152\n" {
			t.Fatalf("exec %d: stack limit %q", i, got)
		}
	}
}
