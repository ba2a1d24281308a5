package plan

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/caps"
	"github.com/myshim/myshim/process/seccomp"
	"github.com/myshim/myshim/process/spec"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// host is a machine with cgroup v1 and all capabilities.
var host = Host{Capabilities: caps.All(), Tasks: 2, Cgroup: []mounts.Hierarchy{{Name: "memory", Dir: "/sys/fs/cgroup/memory/c"}, {Name: "cpu,cpuacct", Dir: "/sys/fs/cgroup/cpu,cpuacct/c"}}}

// unified is one with cgroup v2.
var unified = Host{Capabilities: caps.All(), CgroupDir: true}

// TestGolden compiles testdata/*.json and compares what is printed.
func TestGolden(t *testing.T) {
	specs, err := filepath.Glob("testdata/*.json")
	if err != nil || len(specs) == 0 {
		t.Fatal("no specs", err)
	}
	for _, path := range specs {
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			c, err := spec.Parse(data, "/bundle")
			if err != nil {
				t.Fatal(err)
			}
			filter, err := seccomp.Compile(c.Linux.Seccomp)
			if err != nil {
				t.Fatal(err)
			}
			h := host
			if strings.Contains(name, "v2") {
				h = unified
			}
			options := Options{
				Null:       [3]bool{true, false, false},
				RootMounts: []mounts.RootMount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/l2:/l1", "upperdir=/u", "workdir=/w"}}},
			}
			create, err := NewCreate(c, "id", filter, h, options)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := create.Encode(); err != nil {
				t.Error(err)
			}
			golden(t, name+".create.golden", create.String())
			exec := NewExec(c, "id", c.Process, filter, h, options)
			if _, err := exec.Encode(); err != nil {
				t.Error(err)
			}
			golden(t, name+".exec.golden", exec.String())
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what is compiled now (make golden rewrites it; read the diff):\n%s", path, got)
	}
}

// What an image says of its program and its PATH does not cost more than it is
// long.
func TestLookupIsBounded(t *testing.T) {
	data, err := os.ReadFile("testdata/default.json")
	if err != nil {
		t.Fatal(err)
	}
	c, err := spec.Parse(data, "/bundle")
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for i := range 1000 {
		dirs = append(dirs, fmt.Sprintf("/%d", i))
	}
	for _, name := range []string{"x", strings.Repeat("x", nameMax), strings.Repeat("x", 128<<10)} {
		for _, path := range []string{strings.Join(dirs, ":"), strings.Repeat(":", 1000), "/" + strings.Repeat("y", 120<<10)} {
			p := *c.Process
			p.Args, p.Env = []string{name}, []string{"PATH=" + path}
			script, err := NewExec(c, "id", &p, nil, host, Options{}).Encode()
			if limit := 5*(len(name)+len(path)) + len(dirs)*2*nameMax + 1000*(5*64+32) + 64<<10; err != nil || len(script) > limit {
				t.Errorf("a name of %d and a PATH of %d bytes: %d, more than %d (%v)", len(name), len(path), len(script), limit, err)
			}
		}
	}
}
