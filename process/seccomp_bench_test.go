package process

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/process/stdio"
)

// BenchmarkSeccomp is what containerd's default profile adds to create and start,
// and to an exec: containers with and without it take turns, and the quickest
// tenth of each is compared, which a busy machine disturbs least.
func BenchmarkSeccomp(b *testing.B) {
	text, err := os.ReadFile("seccomp/testdata/profiles/containerd-default.json")
	if err != nil {
		b.Fatal(err)
	}
	profile := &specs.LinuxSeccomp{}
	if err := json.Unmarshal(text, profile); err != nil {
		b.Fatal(err)
	}
	var starts, execs [2][]time.Duration
	for range b.N {
		for i, p := range []*specs.LinuxSeccomp{nil, profile} {
			cfg, _ := config(b, func(s *specs.Spec) { s.Linux.Seccomp = p }, "sleep")
			time.Sleep(20 * time.Millisecond) // idle, so that grace periods are paid
			began := time.Now()
			c, err := Create(b.Context(), cfg)
			if err == nil {
				err = c.Start(b.Context())
			}
			if err != nil {
				b.Fatal(err)
			}
			starts[i] = append(starts[i], time.Since(began))
			time.Sleep(20 * time.Millisecond)
			began = time.Now()
			e, err := c.Exec("e", &specs.Process{Cwd: "/", Args: []string{"/test", "true"}, Env: []string{"INSIDE=1"}, NoNewPrivileges: true}, stdio.Request{})
			if err == nil {
				err = c.StartExec(b.Context(), e)
			}
			if err != nil {
				b.Fatal(err)
			}
			execs[i] = append(execs[i], time.Since(began))
			if err := c.Destroy(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	for name, times := range map[string][2][]time.Duration{"create+start": starts, "exec": execs} {
		for _, t := range times {
			slices.Sort(t)
		}
		without, with := times[0][b.N/10], times[1][b.N/10]
		b.ReportMetric(float64(with)/float64(without), name+"-ratio")
		b.ReportMetric(float64(with.Microseconds()), "us-"+name)
	}
}
