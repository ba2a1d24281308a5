package process

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/stdio"
)

// An interface of the host is in the container, and an error when it is not.
func TestNetDevices(t *testing.T) {
	// The host's namespace, for this test: of the thread which Create is called on.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "link", "add", "host0", "type", "veth", "peer", "name", "peer0").CombinedOutput(); err != nil {
		t.Skipf("no interface to move: %v: %s", err, out)
	}
	change := func(name, inside string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{name: {Name: inside}}
		}
	}
	for name, inside := range map[string]string{"nothing": "", "host0": "lo"} {
		cfg, _ := config(t, change(name, inside), "sleep")
		if _, err := Create(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "linux.netDevices["+name+"]") {
			t.Errorf("%s as %s: %v", name, inside, err)
		}
	}
	cfg, _ := config(t, func(s *specs.Spec) {
		change("host0", "in%d")(s)
		s.Linux.Sysctl = map[string]string{"net.ipv4.conf.in0.forwarding": "1"}
	}, "sleep")
	c := create(t, cfg)
	start(t, c)
	if got := execOutput(t, c, &specs.Process{Cwd: "/", Args: []string{"/test", "cat", "/proc/sys/net/ipv4/conf/in0/forwarding"}, Env: []string{"INSIDE=1"}}); got != "1\n" {
		t.Errorf("its sysctl: %q", got)
	}
	if _, err := net.InterfaceByName("host0"); err == nil {
		t.Error("it is still the host's")
	}
	if got := execOutput(t, c, &specs.Process{Cwd: "/", Args: []string{"/test", "cat", "/proc/net/dev"}, Env: []string{"INSIDE=1"}}); !strings.Contains(got, "in0:") {
		t.Errorf("interfaces: %s", got)
	}
}

func TestExecCPUAffinity(t *testing.T) {
	// As if the shim were confined to one CPU.
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	if all.Count() < 2 {
		t.Skip("this machine has one CPU")
	}
	runtime.LockOSThread()
	one.Set(0)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.SchedSetaffinity(0, &all); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	}()
	every := strings.TrimSpace(output(t, nil, "status", "Cpus_allowed_list"))
	if every == "Cpus_allowed_list 0" {
		t.Error("the init is confined as the shim is")
	}
	cfg, _ := config(t, func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "1", Final: "0"} }, "sleep")
	c := create(t, cfg)
	start(t, c)
	for _, test := range []struct {
		affinity *specs.CPUAffinity
		want     string
	}{
		{nil, "Cpus_allowed_list 0"}, // the container's
		{&specs.CPUAffinity{Final: "1"}, "Cpus_allowed_list 1"},
		{&specs.CPUAffinity{Initial: "0-1", Final: "0,1"}, "Cpus_allowed_list 0-1"},
		{&specs.CPUAffinity{Initial: "1"}, "Cpus_allowed_list 1"},
	} {
		p := &specs.Process{Cwd: "/", Args: []string{"/test", "status", "Cpus_allowed_list"}, Env: []string{"INSIDE=1"}, ExecCPUAffinity: test.affinity}
		if got := strings.TrimSpace(execOutput(t, c, p)); got != test.want {
			t.Errorf("%+v: %s, want %s", test.affinity, got, test.want)
		}
	}
	p := &specs.Process{Cwd: "/", Args: []string{"/test", "true"}, ExecCPUAffinity: &specs.CPUAffinity{Final: "8000"}}
	process, err := c.Exec("e", p, stdio.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.StartExec(t.Context(), process); err == nil || !strings.Contains(err.Error(), "process.execCPUAffinity.final") || !errors.Is(err, unix.EINVAL) {
		t.Errorf("a CPU that is not there: %v", err)
	}
}

func TestMemoryPolicy(t *testing.T) {
	if _, err := os.Stat("/proc/self/numa_maps"); err != nil {
		t.Skip("this kernel has no NUMA")
	}
	policy := func(mode specs.MemoryPolicyModeType, nodes string) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: mode, Nodes: nodes} }
	}
	if got := output(t, policy(specs.MpolInterleave, "0"), "cat", "/proc/self/numa_maps"); !strings.Contains(got, " interleave:0 ") {
		t.Errorf("numa_maps:\n%s", got)
	}
	cfg, _ := config(t, policy(specs.MpolBind, "1000"), "true")
	if _, err := Create(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "linux.memoryPolicy") {
		t.Errorf("a node that is not there: %v", err)
	}
}

// Policies are those of the process, whether it is an exec that clones on its way
// or the init.
func TestScheduler(t *testing.T) {
	for name, s := range map[string]*specs.Scheduler{
		"fifo":     {Policy: specs.SchedFIFO, Priority: 5},
		"reset":    {Policy: specs.SchedBatch, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}},
		"batch":    {Policy: specs.SchedBatch, Nice: 7},
		"deadline": {Policy: specs.SchedDeadline, Runtime: 1e6, Deadline: 1e8, Period: 1e8, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"); err == nil && name == "fifo" {
				t.Skip("a new cgroup of this machine has no time for realtime policies")
			}
			change := func(spec *specs.Spec) { spec.Process.Scheduler = s }
			want := map[string]string{"fifo": "1\n", "reset": "1073741827\n", "batch": "3\n", "deadline": "1073741830\n"}[name]
			if got := output(t, change, "scheduler"); got != want {
				t.Errorf("the init: policy %q, want %q", got, want)
			}
			cfg, _ := config(t, nil, "sleep")
			c := create(t, cfg)
			start(t, c)
			if got := execOutput(t, c, &specs.Process{Cwd: "/", Args: []string{"/test", "scheduler"}, Env: []string{"INSIDE=1"}, Scheduler: s}); got != want {
				t.Errorf("the exec: policy %q, want %q", got, want)
			}
		})
	}
}

func TestNoResctrl(t *testing.T) {
	if text, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(text), " - resctrl ") {
		t.Skip("this machine has it")
	}
	cfg, _ := config(t, func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "x"} }, "true")
	if _, err := Create(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "linux.intelRdt") {
		t.Errorf("%v", err)
	}
}

// RLIMIT_NPROC counts the container's process, and not the one of the runtime that
// it is a clone of.
func TestProcessLimit(t *testing.T) {
	holder, _ := config(t, nil, "sleep")
	h := create(t, holder)
	start(t, h)
	nobodyElse := uint32(31000 + os.Getpid()%1000)
	limits := []specs.POSIXRlimit{{Type: "RLIMIT_NPROC", Soft: 1, Hard: 1}}
	cfg, _ := config(t, func(s *specs.Spec) {
		s.Process.User.UID, s.Process.Rlimits = nobodyElse, limits
		at(s, specs.PIDNamespace, fmt.Sprintf("/proc/%d/ns/pid", h.Init.State().PID))
	}, "sleep")
	c := create(t, cfg)
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", c.Init.State().PID)); err != nil || !regexp.MustCompile(`Max processes +1 +1 `).Match(text) {
		t.Errorf("%s (%v)", text, err)
	}
	start(t, c) // what becomes of a program that can have no threads is up to that
	exec, err := h.Exec("e", &specs.Process{
		Cwd: "/", Args: []string{"/test", "true"}, User: specs.User{UID: nobodyElse + 1000}, Rlimits: limits,
	}, stdio.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.StartExec(t.Context(), exec); err != nil {
		t.Error(err)
	}
}
