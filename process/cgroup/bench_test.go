package cgroup

import (
	"slices"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// BenchmarkGroup reports the medians of each step, in microseconds, with time
// between the iterations: without it, most grace periods of the kernel would
// not be seen.
func BenchmarkGroup(b *testing.B) {
	needRoot(b)
	times := make(map[string][]float64)
	limits := &specs.Linux{Resources: resources(b, `{
		"memory": {"limit": 268435456, "reservation": 134217728, "swap": 268435456},
		"cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"},
		"pids": {"limit": 100}}`)}
	var g *Group
	steps := []struct {
		name string
		do   func() error
	}{
		{"create", func() (err error) { g, err = Create(location(b, "bench"), nil); return err }},
		{"open-join", func() error {
			j, err := g.Join()
			if err == nil {
				j.Close()
			}
			return err
		}},
		{"watch", func() error { return g.WatchOOM(func(uint64) {}) }},
		{"set-devices", func() error { return g.Set(nil) }},
		{"set-all", func() error { return g.Set(limits) }},
		{"update", func() error { return g.Update(limits.Resources) }},
		{"stats", func() error { _, err := g.Stats(); return err }},
		{"pids", func() error { _, err := g.Pids(); return err }},
		{"freeze", func() error { return g.Freeze(b.Context()) }},
		{"thaw", func() error { return g.Thaw() }},
		{"kill", func() error { return g.Kill() }},
		{"delete", func() error { return g.Delete(b.Context()) }},
	}
	for range b.N {
		time.Sleep(25 * time.Millisecond)
		for _, s := range steps {
			if s.name == "kill" {
				time.Sleep(25 * time.Millisecond)
			}
			began := time.Now()
			ok(b, s.do())
			times[s.name] = append(times[s.name], float64(time.Since(began).Nanoseconds())/1000)
		}
	}
	for _, s := range steps {
		slices.Sort(times[s.name])
		b.ReportMetric(times[s.name][len(times[s.name])/2], s.name+"-µs")
	}
	b.ReportMetric(0, "ns/op")
}
