package spec

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// handled is where each field of a process and of linux gets its effect. A field
// that a newer runtime-spec brings is missing here, and fails the test: nothing
// of a spec is ignored silently.
var handled = map[string]string{
	"Process.Terminal": "process", "Process.ConsoleSize": "process",
	"Process.User": "plan", "Process.Args": "plan", "Process.Env": "plan", "Process.Cwd": "plan",
	"Process.CommandLine":  "of Windows",
	"Process.Capabilities": "plan", "Process.NoNewPrivileges": "plan",
	"Process.Rlimits": "process", "Process.Scheduler": "process", "Process.IOPriority": "process",
	"Process.ApparmorProfile": "plan", "Process.SelinuxLabel": "plan", "Process.OOMScoreAdj": "plan",
	"Process.ExecCPUAffinity":       "plan",
	"Process.ConsoleSize.Height":    "process",
	"Process.ConsoleSize.Width":     "process",
	"Process.User.UID":              "plan",
	"Process.User.GID":              "plan",
	"Process.User.Umask":            "plan",
	"Process.User.AdditionalGids":   "plan",
	"Process.User.Username":         "of Windows",
	"Process.Capabilities.Bounding": "caps", "Process.Capabilities.Effective": "caps", "Process.Capabilities.Inheritable": "caps",
	"Process.Capabilities.Permitted": "caps", "Process.Capabilities.Ambient": "caps",
	"Process.Rlimits.Type": "process", "Process.Rlimits.Hard": "process", "Process.Rlimits.Soft": "process",
	"Process.Scheduler.Policy": "process", "Process.Scheduler.Nice": "process", "Process.Scheduler.Priority": "process",
	"Process.Scheduler.Flags": "process", "Process.Scheduler.Runtime": "process", "Process.Scheduler.Deadline": "process",
	"Process.Scheduler.Period": "process",
	"Process.IOPriority.Class": "process", "Process.IOPriority.Priority": "process",
	"Process.ExecCPUAffinity.Initial": "plan", "Process.ExecCPUAffinity.Final": "plan",

	"Linux.UIDMappings": "process", "Linux.GIDMappings": "process",
	"Linux.UIDMappings.ContainerID": "process", "Linux.UIDMappings.HostID": "process", "Linux.UIDMappings.Size": "process",
	"Linux.GIDMappings.ContainerID": "process", "Linux.GIDMappings.HostID": "process", "Linux.GIDMappings.Size": "process",
	"Linux.Sysctl": "plan", "Linux.CgroupsPath": "cgroup",
	"Linux.Resources":  "cgroup, with all in it",
	"Linux.Namespaces": "plan", "Linux.Namespaces.Type": "plan", "Linux.Namespaces.Path": "plan",
	"Linux.Devices": "mounts", "Linux.Devices.Path": "mounts", "Linux.Devices.Type": "mounts", "Linux.Devices.Major": "mounts",
	"Linux.Devices.Minor": "mounts", "Linux.Devices.FileMode": "mounts", "Linux.Devices.UID": "mounts", "Linux.Devices.GID": "mounts",
	"Linux.NetDevices": "process", "Linux.NetDevices.Name": "process",
	"Linux.Seccomp":                   "seccomp, as all in it",
	"Linux.Seccomp.DefaultAction":     "seccomp",
	"Linux.Seccomp.DefaultErrnoRet":   "seccomp",
	"Linux.Seccomp.Architectures":     "seccomp",
	"Linux.Seccomp.Flags":             "seccomp",
	"Linux.Seccomp.ListenerPath":      "seccomp",
	"Linux.Seccomp.ListenerMetadata":  "seccomp",
	"Linux.Seccomp.Syscalls":          "seccomp",
	"Linux.Seccomp.Syscalls.Names":    "seccomp",
	"Linux.Seccomp.Syscalls.Action":   "seccomp",
	"Linux.Seccomp.Syscalls.ErrnoRet": "seccomp",
	"Linux.Seccomp.Syscalls.Args":     "seccomp",

	"Linux.Seccomp.Syscalls.Args.Index": "seccomp", "Linux.Seccomp.Syscalls.Args.Value": "seccomp",
	"Linux.Seccomp.Syscalls.Args.ValueTwo": "seccomp", "Linux.Seccomp.Syscalls.Args.Op": "seccomp",
	"Linux.RootfsPropagation": "plan", "Linux.MaskedPaths": "mounts", "Linux.ReadonlyPaths": "mounts", "Linux.MountLabel": "mounts",
	"Linux.IntelRdt": "rdt", "Linux.IntelRdt.ClosID": "rdt", "Linux.IntelRdt.Schemata": "rdt", "Linux.IntelRdt.L3CacheSchema": "rdt",
	"Linux.IntelRdt.MemBwSchema": "rdt", "Linux.IntelRdt.EnableMonitoring": "rdt",
	"Linux.MemoryPolicy": "plan", "Linux.MemoryPolicy.Mode": "plan", "Linux.MemoryPolicy.Nodes": "plan", "Linux.MemoryPolicy.Flags": "plan",
	"Linux.Personality": "plan", "Linux.Personality.Domain": "plan", "Linux.Personality.Flags": "plan, a warning as under runc",
	"Linux.TimeOffsets": "process", "Linux.TimeOffsets.Secs": "process", "Linux.TimeOffsets.Nanosecs": "process",
}

func TestEveryFieldIsHandled(t *testing.T) {
	var all []string
	var walk func(prefix string, of reflect.Type)
	walk = func(prefix string, of reflect.Type) {
		for slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Slice, reflect.Map}, of.Kind()) {
			of = of.Elem()
		}
		if of.Kind() != reflect.Struct || of == reflect.TypeFor[specs.LinuxResources]() {
			return
		}
		for i := range of.NumField() {
			f := of.Field(i)
			name := prefix + "." + f.Name
			all = append(all, name)
			if handled[name] == "" {
				t.Errorf("%s (%s): nothing is done with it", name, f.Tag.Get("json"))
			}
			walk(name, f.Type)
		}
	}
	walk("Process", reflect.TypeFor[specs.Process]())
	walk("Linux", reflect.TypeFor[specs.Linux]())
	for name := range handled {
		if !slices.Contains(all, name) {
			t.Errorf("%s: there is no such field", name)
		}
	}
}

func TestFieldsRefused(t *testing.T) {
	for _, test := range []struct{ old, new, want string }{
		{`"args"`, `"execCPUAffinity": {"initial": "0-"}, "args"`, "process.execCPUAffinity.initial"},
		{`"args"`, `"execCPUAffinity": {"final": "3-1"}, "args"`, "process.execCPUAffinity.final"},
		{`"args"`, `"execCPUAffinity": {"final": "0,8192"}, "args"`, "process.execCPUAffinity.final"},
		{`"maskedPaths"`, `"memoryPolicy": {"mode": "MPOL_X"}, "maskedPaths"`, "linux.memoryPolicy.mode"},
		{`"maskedPaths"`, `"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "a"}, "maskedPaths"`, "linux.memoryPolicy.nodes"},
		{`"maskedPaths"`, `"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_X"]}, "maskedPaths"`, "linux.memoryPolicy.flags[0]"},
		{`{"type": "network", "path": "/run/netns/x"}`, `{"type": "cgroup"}`, "linux.sysctl"},
		{`"maskedPaths"`, `"netDevices": {"eth0": {"name": "a/b"}}, "maskedPaths"`, "linux.netDevices[eth0]"},
		{`"maskedPaths"`, `"netDevices": {"sixteen_letters_": {}}, "maskedPaths"`, "linux.netDevices[sixteen_letters_]"},
		{`"maskedPaths"`, `"netDevices": {"a": {"name": "x"}, "b": {"name": "x"}}, "maskedPaths"`, "linux.netDevices["},
		{`"maskedPaths"`, `"intelRdt": {"closID": "../x"}, "maskedPaths"`, "linux.intelRdt.closID"},
		{`"maskedPaths"`, `"intelRdt": {"memBwSchema": "L3:0=1"}, "maskedPaths"`, "linux.intelRdt.memBwSchema"},
		{`"maskedPaths"`, `"intelRdt": {"schemata": ["a\nb"]}, "maskedPaths"`, "linux.intelRdt.schemata[0]"},
	} {
		text := strings.Replace(valid, test.old, test.new, 1)
		if _, err := Parse([]byte(text), "/bundle"); !errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", test.new, err, test.want)
		}
	}
}

func TestCPUs(t *testing.T) {
	for list, want := range map[string]string{
		"0": "\x01\x00\x00\x00\x00\x00\x00\x00", "0-3,7": "\x8f\x00\x00\x00\x00\x00\x00\x00",
		"64":    "\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00",
		"1, 2,": "\x06\x00\x00\x00\x00\x00\x00\x00", ",": "",
	} {
		if got := string(CPUs(list)); got != want {
			t.Errorf("%s: %q", list, got)
		}
	}
}
