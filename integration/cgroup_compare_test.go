package integration

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestCompareCgroups gives a container of each runtime the same limits, and
// sixty others one after the other, and compares every file of their cgroups
// each time; for scopes of systemd what systemctl shows of them, too.
func TestCompareCgroups(t *testing.T) {
	reference, subject := pair(t)
	d, err := shared.containerd()
	if err != nil {
		t.Fatal(err)
	}
	for _, driver := range []string{"cgroupfs", "systemd"} {
		t.Run(driver, func(t *testing.T) {
			if driver == "systemd" {
				needSystemd(t)
			}
			var seen [2][]facts
			for i, r := range []harness.Runtime{reference, subject} {
				t.Run(r.Name, func(t *testing.T) {
					runOn(t, r, d, func(e *env) { seen[i] = e.limitHistory(driver == "systemd") })
				})
			}
			if t.Failed() {
				return
			}
			for i, want := range seen[0] {
				if diff := differ(seen[1][i], want); len(diff) > 0 {
					t.Fatalf("after update %d %s differs from %s:\n\t%s", i, subject.Name, reference.Name, strings.Join(diff, "\n\t"))
				}
			}
			t.Logf("%d times %d equal facts", len(seen[0]), len(seen[0][0]))
		})
	}
}

func needSystemd(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skip("*** SCOPES NOT TESTED: systemd doesn't run here ***")
	}
}

func differ(got, want facts) []string {
	var diff []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			diff = append(diff, fmt.Sprintf("%s: %q, want %q", name, got[name], want[name]))
		}
	}
	for name, value := range got {
		if _, ok := want[name]; !ok {
			diff = append(diff, fmt.Sprintf("%s: %q, which isn't there", name, value))
		}
	}
	return diff
}

// LimitHistory is what there is to see after create and after each update.
func (e *env) limitHistory(systemd bool) []facts {
	e.Helper()
	rng := rand.New(rand.NewPCG(5, 5))
	id := newID()
	opts := []opt{withID(id), still(), edit(func(s *specs.Spec) {
		limits := randomLimits(rng)
		limits.Devices = s.Linux.Resources.Devices
		s.Linux.Resources = limits
	})}
	unit := ""
	if systemd {
		unit = "test-" + id + ".scope"
		opts = append(opts, e.withScope(e.slice(), id))
	}
	b := e.launch(opts...)
	history := []facts{b.limits(unit)}
	for range 60 {
		e.must(b.task.Update(e.ctx, client.WithResources(randomLimits(rng))))
		history = append(history, b.limits(unit))
	}
	return history
}

// Slice is one of systemd's for the scopes of this test.
func (e *env) slice() string {
	e.Helper()
	slice := strings.ReplaceAll(harness.Tag, "-", "") + ".slice"
	e.Cleanup(func() {
		if out, err := exec.Command("systemctl", "stop", slice).CombinedOutput(); err != nil {
			e.Errorf("systemctl stop %s: %v: %s", slice, err, out)
		}
	})
	return slice
}

// WithScope has the container test-ID.scope for its cgroup. We tell by the path,
// as CRI has no way to say it to us; runc is told.
func (e *env) withScope(slice, id string) opt {
	return func(s *setup) {
		s.spec = append(s.spec, oci.WithCgroup(slice+":test:"+id))
		if e.oracle() {
			s.options = &runcoptions.Options{SystemdCgroup: true}
		}
	}
}

// RandomLimits can follow each other in any order.
func randomLimits(rng *rand.Rand) *specs.LinuxResources {
	const mb = 1 << 20
	pick := func(from ...int64) *int64 { n := from[rng.IntN(len(from))]; return &n }
	natural := func(from ...int64) *uint64 { n := uint64(*pick(from...)); return &n }
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: pick(-1, 64*mb, 128*mb, 256*mb), Swap: pick(-1, 256*mb, 512*mb)},
		CPU:    &specs.LinuxCPU{Shares: natural(2, 100, 1024, 100_000, 262_144)},
		Pids:   &specs.LinuxPids{Limit: pick(-1, 50, 1000)},
	}
	if *r.Memory.Limit == -1 {
		r.Memory.Swap = r.Memory.Limit
	}
	if rng.IntN(2) == 0 {
		r.Memory.Reservation = pick(16*mb, 32*mb)
	}
	if rng.IntN(2) == 0 {
		r.CPU.Period = natural(10_000, 100_000, 1_000_000)
		r.CPU.Quota = pick(-1, int64(*r.CPU.Period), int64(*r.CPU.Period)/2)
	}
	if rng.IntN(2) == 0 {
		r.CPU.Cpus, r.CPU.Mems = []string{"0", fmt.Sprint("0-", runtime.NumCPU()-1)}[rng.IntN(2)], "0"
	}
	return r
}

// Moving are files whose content changes by itself.
var moving = regexp.MustCompile(`stat|usage|current|peak|pressure|procs|tasks|threads|slabinfo|events|io_service|prioidx|failcnt`)

// MovingProperties of a unit tell it from others, or change by themselves. The
// rest are those of which we tell systemd more than runc does: no swap, and
// limits of devices, which it would otherwise undo when it is reloaded; and the
// files in which it keeps them.
var movingProperties = regexp.MustCompile(`Timestamp|NSec$|Current$|^(Id|Names|Description|InvocationID|ControlGroup.*|MemoryAvailable|Effective.*)$|^(MemorySwapMax|IO.*|BlockIO.*|DropInPaths)$`)

// Limits are the files of the container's cgroups, and what systemd says of its
// unit, if there is one.
func (b *box) limits(unit string) facts {
	b.e.Helper()
	f := facts{}
	for line := range strings.Lines((procFS{dir: fmt.Sprint("/proc/", b.Pid())}).read("cgroup")) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		name := strings.TrimPrefix(fields[1], "name=")
		if name == "" && !unifiedOnly() {
			name = "unified"
		}
		dir := filepath.Join("/sys/fs/cgroup", name, fields[2])
		if !strings.Contains(dir, b.c.ID()) {
			continue // a hierarchy that isn't mounted
		}
		entries, err := os.ReadDir(dir)
		b.e.must(err)
		for _, entry := range entries {
			if entry.IsDir() {
				f[name+"/"+entry.Name()+"/"] = "a directory"
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
			switch {
			case moving.MatchString(entry.Name()):
				data = nil
			case err != nil:
				data = []byte(errors.Unwrap(err).Error()) // without the path
			}
			if unit != "" && strings.HasPrefix(string(data), "max ") {
				data = []byte("max") // systemd forgets the period when there is no quota
			}
			f[name+"/"+entry.Name()] = string(data)
		}
	}
	if len(f) < 50 {
		b.e.Errorf("only %d files", len(f))
	}
	if unit == "" {
		return f
	}
	out, err := exec.CommandContext(b.e.ctx, "systemctl", "show", unit).Output()
	b.e.must(err)
	for line := range strings.Lines(string(out)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), "="); !movingProperties.MatchString(name) {
			f["systemd "+name] += strings.ReplaceAll(value, b.c.ID(), "ID") + "\n"
		}
	}
	return f
}
