package mounts

import (
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Which file systems get linux.mountLabel, and how: by an option, or, those that
// have none, by an attribute of their root. The kernel labels proc and sysfs.
func TestMountLabel(t *testing.T) {
	const label = "system_u:object_r:container_file_t:s0:c1,c2"
	s := container(func(s *specs.Spec) { s.Linux.MountLabel, s.Linux.MaskedPaths = label, []string{"/proc/acpi"} })
	for _, kind := range []string{"sysfs", "tmpfs", "devpts", "mqueue", "cgroup"} {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/" + kind, Type: kind, Source: kind})
	}
	p, err := Compile(Config{Spec: s, Rootfs: "/rootfs", Cgroup: []Hierarchy{{Name: "memory", Dir: "/sys/fs/cgroup/memory/x"}}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, op := range slices.Concat(p.Ops, p.Final) {
		switch op := op.(type) {
		case *mask:
			got["masked "+op.path] = op.label
		case *mount:
			got[op.dest] = ""
			if slices.Contains(op.newSuper().Params, Param{Key: "context", Value: label}) {
				got[op.dest] = label
			}
			if op.relabelled() {
				got[op.dest] = "relabelled"
			}
		}
	}
	for dest, want := range map[string]string{
		"/proc": "", "/sysfs": "", "/tmpfs": label, "/devpts": label, "/mqueue": "relabelled", "/cgroup": label, "masked /proc/acpi": label,
	} {
		if is, ok := got[dest]; !ok || is != want {
			t.Errorf("%s: label %q, want %q", dest, is, want)
		}
	}
}
