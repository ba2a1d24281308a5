package rdt

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// resctrl is a directory that looks like the file system, as far as a directory
// can: nothing appears in new ones.
func resctrl(t *testing.T, groups ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, g := range append(groups, ".") {
		dir := filepath.Join(root, g)
		if err := os.MkdirAll(filepath.Join(dir, "mon_groups"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"schemata": "    L3:0=7f;1=3f\n    MB:0=100;1= 20\n", "tasks": ""} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

func TestExistingGroup(t *testing.T) {
	root := resctrl(t, "gold")
	g, err := Create(root, "c", &specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=7f;1=3f", EnableMonitoring: true})
	if err != nil {
		t.Fatal(err)
	}
	monitor := filepath.Join(root, "gold/mon_groups/c")
	if err := os.WriteFile(filepath.Join(monitor, "tasks"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := g.Join(42); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"gold", "gold/mon_groups/c"} {
		if text, _ := os.ReadFile(filepath.Join(root, dir, "tasks")); string(text) != "42" {
			t.Errorf("%s/tasks: %q", dir, text)
		}
	}
	if err := os.Remove(filepath.Join(monitor, "tasks")); err != nil {
		t.Fatal(err)
	}
	if err := g.Delete(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(monitor); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the monitoring group: %v", err)
	}
	if _, err := os.Stat(filepath.Join(root, "gold")); err != nil {
		t.Errorf("a group of somebody else's: %v", err)
	}
}

// The same schema can be written in several ways, and need not be a whole one.
func TestSameSchema(t *testing.T) {
	root := resctrl(t, "gold")
	for _, r := range []specs.LinuxIntelRdt{
		{L3CacheSchema: "L3:1=3f;0=7f", MemBwSchema: "MB:0=100;1=20"},
		{L3CacheSchema: "L3: 0 = 07F ; 1=03f"},
		{L3CacheSchema: "L3:1=3f"},
		{MemBwSchema: "MB:01=020"},
	} {
		r.ClosID = "gold"
		if _, err := Create(root, "c", &r); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func TestSchemata(t *testing.T) {
	root := resctrl(t, "gold")
	if _, err := Create(root, "c", &specs.LinuxIntelRdt{ClosID: "gold", Schemata: []string{"MB:0=20"}}); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(filepath.Join(root, "gold/schemata")); !strings.HasPrefix(string(text), "MB:0=20\n") {
		t.Errorf("schemata: %q", text)
	}
}

func TestRefused(t *testing.T) {
	for name, test := range map[string]struct {
		rdt  specs.LinuxIntelRdt
		want string
	}{
		"no such group":    {specs.LinuxIntelRdt{ClosID: "silver"}, "linux.intelRdt.closID: "},
		"another schema":   {specs.LinuxIntelRdt{ClosID: "gold", MemBwSchema: "MB:0=10;1=10"}, `has not the schema "MB:0=10;1=10"`},
		"of another cache": {specs.LinuxIntelRdt{ClosID: "gold", MemBwSchema: "MB:2=100"}, `has not the schema "MB:2=100"`},
		"of nothing there": {specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3CODE:0=7f"}, `has not the schema "L3CODE:0=7f"`},
		"no schema":        {specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0"}, `linux.intelRdt: schema "L3:0": `},
		"its own, no file": {specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f"}, "linux.intelRdt.schemata: "},
	} {
		root := resctrl(t, "gold")
		_, err := Create(root, "c", &test.rdt)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if _, err := os.Stat(filepath.Join(root, "c")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a group is left: %v", name, err)
		}
	}
}

func TestCompile(t *testing.T) {
	for name, test := range map[string]struct {
		rdt  specs.LinuxIntelRdt
		want plan
	}{
		"nothing": {specs.LinuxIntelRdt{}, plan{Group: Group{Dir: "/r/c"}, mayMake: true}},
		"root":    {specs.LinuxIntelRdt{ClosID: "/"}, plan{Group: Group{Dir: "/r"}, mayExist: true}},
		"root, monitored": {specs.LinuxIntelRdt{ClosID: "/", EnableMonitoring: true},
			plan{Group: Group{Dir: "/r", Monitor: "/r/mon_groups/c"}, mayExist: true}},
	} {
		got := compile("/r", "c", &test.rdt)
		if got.Group != test.want.Group || got.mayExist != test.want.mayExist || got.mayMake != test.want.mayMake {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
	got := compile("/r", "c", &specs.LinuxIntelRdt{ClosID: "g", MemBwSchema: "MB:", L3CacheSchema: "L3:", Schemata: []string{"L2:"}})
	if lines := strings.Join(append(got.expect, got.schemata...), " "); lines != "L3: MB: L2:" || !got.mayMake {
		t.Errorf("%+v", got)
	}
}
