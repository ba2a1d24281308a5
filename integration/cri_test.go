package integration

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/myshim/myshim/integration/harness"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The pod's containers share a shim, and the namespaces that the pod has.
func TestCRIPod(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		p := k.runPod(func(c *cri.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "40000 50000"}
		})
		if ip := p.status().Network.Ip; ip != "192.0.2.7" {
			k.Errorf("the pod has the address %q", ip)
		}
		sandbox := k.box(p.id)
		var all []*member
		for i := range 5 {
			c := p.launch(fmt.Sprint("c", i), []string{"/bin/testbox", "trap"})
			c.await("stdout: ready\n")
			if shim := k.box(c.id).shimPid(); shim != sandbox.shimPid() {
				k.Errorf("a container is a child of %d, the sandbox one of %d", shim, sandbox.shimPid())
			}
			all = append(all, c)
		}
		// The host has one of each, and most are not the pod's.
		namespaces := map[string]int{"net": 2, "ipc": 2, "uts": 2, "pid": 2 + len(all), "mnt": 2 + len(all), "cgroup": 1}
		if unifiedOnly() {
			namespaces["cgroup"] += len(all)
		}
		for name, want := range namespaces {
			seen := map[string]bool{namespace("self", name): true, namespace(sandbox.Pid(), name): true}
			for _, c := range all {
				seen[namespace(c.info().Pid, name)] = true
			}
			if len(seen) != want {
				k.Errorf("%d %s namespaces, want %d", len(seen), name, want)
			}
		}
		if r := all[0].exec("put", "/dev/shm/shared", "by the first"); r.code != 0 {
			k.Errorf("%+v", r)
		}
		if r := all[1].exec("cat", "/dev/shm/shared", "/etc/resolv.conf", "/etc/hostname"); r.out != "by the firstnameserver 192.0.2.1\npod\n" {
			k.Errorf("%+v", r)
		}
		got := all[2].report("sysctl", "kernel.hostname", "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start")
		if want := (facts{".kernel.hostname": "pod", ".kernel.shm_rmid_forced": "1", ".net.ipv4.ip_local_port_range": "40000\t50000", ".net.ipv4.ip_unprivileged_port_start": "0"}); !maps.Equal(got, want) {
			k.Errorf("%v, want %v", got, want)
		}

		p.stop()
		if s := p.status(); s.State != cri.PodSandboxState_SANDBOX_NOTREADY {
			k.Errorf("a stopped pod is %v", s)
		}
		for _, c := range all {
			c.ended(137, "Error")
		}
		p.stop()
		p.remove()
		list, err := k.ListContainers(k.ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: p.id}})
		if err != nil || len(list.Containers) > 0 {
			k.Errorf("after the removal: %v, %v", list, err)
		}
	})
}

func namespace(pid any, name string) string {
	return procFS{dir: fmt.Sprint("/proc/", pid)}.link("ns/" + name)
}

// How a container ends is told with its reason, and the next attempt has a log and
// a root of its own.
func TestCRIRestartPolicy(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		p := k.runPod()
		failed := p.launch("job", []string{"/bin/testbox", "all", "echo", "first", "--", "put", "/work/mark", "", "--", "warn", "fails", "--", "exit", "3"})
		failed.ended(3, "Error")
		if log := failed.log(); log != "stdout: first\nstderr: fails\n" && log != "stderr: fails\nstdout: first\n" {
			k.Errorf("log %q", log)
		}
		again := p.launch("job", []string{"/bin/testbox", "all", "stat", "/work/mark", "--", "echo", "second"})
		again.ended(0, "Completed")
		if log := again.log(); !strings.Contains(log, "ENOENT") || !strings.HasSuffix(log, "stdout: second\n") {
			k.Errorf("log %q", log)
		}
		failed.remove()
		failed.remove()
		list, err := k.ListContainers(k.ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: p.id}})
		if err != nil || len(list.Containers) != 1 || list.Containers[0].Id != again.id {
			k.Errorf("after the removal of the first: %v, %v", list, err)
		}

		for _, program := range []string{"/bin/missing", "/etc/not-executable"} {
			c := p.create("wrong", []string{program})
			if err := c.start(); err == nil || !strings.Contains(err.Error(), program) {
				k.Errorf("%s: %v", program, err)
			}
			if s := c.exit(); s.ExitCode != 128 || s.Reason != "StartError" || !strings.Contains(s.Message, program) {
				k.Errorf("%s: %v", program, s)
			}
		}
		if s := p.status(); s.State != cri.PodSandboxState_SANDBOX_READY {
			k.Errorf("the pod of containers that end is %v", s)
		}
	})
}

// A container is asked to end, in the way that its image or its pod prefers, and
// made to when it doesn't in time.
func TestCRIStop(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		p := k.runPod()
		polite := p.launch("polite", []string{"/bin/testbox", "trap"})
		polite.await("ready")
		polite.halt(30)
		polite.ended(0, "Completed")
		if log := polite.log(); !strings.HasSuffix(log, "stdout: SIGTERM\n") {
			k.Errorf("log %q", log)
		}

		own := p.launch("own signal", []string{"/bin/testbox", "trap", "USR2"}, func(c *cri.ContainerConfig) { c.StopSignal = cri.Signal_SIGNAL_SIGUSR2 })
		own.await("ready")
		own.halt(30)
		own.ended(0, "Completed")

		stubborn := p.launch("stubborn", []string{"/bin/testbox", "trap", "USR1"})
		stubborn.await("ready")
		stubborn.halt(1)
		stubborn.ended(137, "Error")
		if log := stubborn.log(); !strings.HasSuffix(log, "stdout: SIGTERM\n") {
			k.Errorf("log %q", log)
		}
		stubborn.halt(1)

		now := p.launch("now", []string{"/bin/testbox", "trap"})
		now.await("ready")
		now.halt(0)
		now.ended(137, "Error")
		if log := now.log(); log != "stdout: ready\n" {
			k.Errorf("log %q", log)
		}
		running := p.launch("removed while it runs", []string{"/bin/still"})
		running.remove()
	})
}

// With shareProcessNamespace, pause is process 1 for all. What a container leaves
// there ends with it.
func TestCRISharedPids(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		p := k.runPod(sharedPids)
		looks := p.launch("looks", []string{"/bin/still"})
		dies := p.launch("dies", []string{"/bin/testbox", "all", "background", "sleep", "inf", "--", "wait-for", "/work/go"})
		dies.await("background")
		// Pause, the container, and the exec that looks; what is in the background.
		if got, want := looks.report("report", "proc"), (facts{".proc.still": "1", ".proc.testbox": "3", ".proc.exe": "1"}); !maps.Equal(got, want) {
			k.Errorf("processes %v, want %v", got, want)
		}
		if r := looks.exec("cat", "/proc/1/cmdline"); r.out != "/testbox\x00pause\x00" {
			k.Errorf("process 1: %+v", r)
		}
		dies.exec("mkdir", "/work/go")
		dies.ended(0, "Completed")
		if got, want := looks.report("report", "proc"), (facts{".proc.still": "1", ".proc.testbox": "2"}); !maps.Equal(got, want) {
			k.Errorf("processes %v, want %v", got, want)
		}
	})
}

// Kubectl debug --target joins the pid namespace of another container.
func TestCRIEphemeralContainer(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		p := k.runPod()
		target := p.launch("target", []string{"/bin/hello"})
		debug := p.launch("debugger", []string{"/bin/still"}, func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: target.id}
			c.Linux.SecurityContext.Capabilities = &cri.Capability{AddCapabilities: []string{"SYS_PTRACE"}}
		})
		if r := debug.exec("cat", "/proc/1/cmdline", "/proc/1/root/etc/hostname"); r.out != "/bin/hello\x00pod\n" {
			k.Errorf("%+v", r)
		}
		target.halt(0)
		target.ended(137, "Error")
		debug.ended(137, "Error") // the end of a namespace's process 1 is that of all
	})
}

// HostNetwork, hostPID and hostIPC.
func TestCRIHostNamespaces(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		p := k.runPod(hostNetwork, func(c *cri.PodSandboxConfig) {
			o := c.Linux.SecurityContext.NamespaceOptions
			o.Pid, o.Ipc = cri.NamespaceMode_NODE, cri.NamespaceMode_NODE
		})
		c := p.launch("agent", []string{"/bin/testbox", "trap"})
		c.await("ready")
		for _, name := range []string{"net", "uts", "ipc", "pid"} {
			if namespace(c.info().Pid, name) != namespace("self", name) {
				k.Errorf("the %s namespace is not the host's", name)
			}
		}
		if r := c.exec("kill", "USR1", fmt.Sprint(c.info().Pid)); r.out != "ok\n" {
			k.Errorf("%+v", r)
		}
		c.await("SIGUSR1")
		// What a container leaves among the host's processes ends with it.
		c = p.launch("parent", []string{"/bin/testbox", "background", "sleep", "inf"})
		c.ended(0, "Completed")
		var child uint32
		if _, err := fmt.Sscanf(c.log(), "stdout: background %d\n", &child); err != nil {
			k.Fatalf("%v in %q", err, c.log())
		}
		k.must(waitGone(child))
	})
}

func confined(c *cri.ContainerConfig) {
	s := c.Linux.SecurityContext
	s.RunAsUser, s.RunAsGroup = &cri.Int64Value{Value: 1000}, &cri.Int64Value{Value: 3000}
	s.SupplementalGroups = []int64{4000}
	s.ReadonlyRootfs = true
	s.NoNewPrivs = true
	s.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}}
}

func sharedPids(c *cri.PodSandboxConfig) {
	c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
}

// HostNetwork leaves the hostname to the host as well.
func hostNetwork(c *cri.PodSandboxConfig) {
	c.Hostname = ""
	c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
}

func userNamespaced(c *cri.PodSandboxConfig) {
	c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: podIDs, Gids: podIDs}
}

var podIDs = []*cri.IDMapping{{HostId: 200_000, ContainerId: 0, Length: 65_536}}

func privilegedPod(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true }

func privileged(c *cri.ContainerConfig) {
	s := c.Linux.SecurityContext
	s.Privileged = true
	s.MaskedPaths, s.ReadonlyPaths, s.Seccomp = nil, nil, &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
}

// What the security context of a container asks for holds in it, and for execs.
func TestCRISecurityContext(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		p := k.runPod(privilegedPod)
		c := p.launch("confined", []string{"/bin/still"}, confined, func(c *cri.ContainerConfig) {
			c.WorkingDir = "/data"
			c.Envs = []*cri.KeyValue{{Key: "FLAVOUR", Value: []byte("own")}, {Key: "EMPTY"}}
		})
		got := c.report("report", "ids", "cwd", "status")
		for name, want := range map[string]string{
			".ids.UID[0]": "1000", ".ids.UID[2]": "1000", ".ids.GID[1]": "3000", ".cwd": "/data",
			".status.NoNewPrivs": "1", ".status.Seccomp": "2", ".status.CapEff": "0000000000000000", ".status.CapBnd": "0000000000000400",
			".status.Groups": "2000 2001 3000 4000", // two are from the image
		} {
			if got[name] != want {
				k.Errorf("%s: %q, want %q", name, got[name], want)
			}
		}
		if r := c.exec("env"); !strings.Contains(r.out, "FLAVOUR=own\n") || !strings.Contains(r.out, "EMPTY=\n") || !strings.Contains(r.out, "HOSTNAME=pod\n") {
			k.Errorf("%+v", r)
		}
		for path, got := range c.report("write", "/", "/work", "/etc/hosts", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/fs/cgroup") {
			if got != "EROFS" && got != "EACCES" && got != "ENOENT" {
				k.Errorf("write %s: %s", path, got)
			}
		}
		if got := c.report("read", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/acpi"); got["./proc/keys"] != "0" || got["./proc/timer_list"] != "0" {
			k.Errorf("masked: %v", got)
		}
		for call, want := range map[int]string{unix.SYS_KEYCTL: "EPERM", unix.SYS_UNSHARE: "EPERM", 1000: "ENOSYS"} {
			if r := c.exec("syscall", fmt.Sprint(call), fmt.Sprint(unix.CLONE_NEWUSER)); r.out != want+"\n" {
				k.Errorf("system call %d: %+v", call, r)
			}
		}

		root := p.launch("privileged", []string{"/bin/still"}, privileged)
		if got, want := root.report("report", "status")[".status.CapEff"], fmt.Sprintf("%016x", hostBounding()); got != want {
			k.Errorf("capabilities %s, want %s", got, want)
		}
		if r := root.exec("mount", "tmpfs", "tmpfs", "/data", "rw"); r.out != "ok\n" {
			k.Errorf("mount: %+v", r)
		}
		if got := root.report("write", "/proc/sys/kernel/hostname", "/sys/fs/cgroup", "/dev/kmsg"); got["./proc/sys/kernel/hostname"] != "ok" || got["./dev/kmsg"] != "ok" {
			k.Errorf("%v", got)
		}
	})
}

// Volumes, and how mounts on one side get to the other.
func TestCRIVolumes(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		dir := k.dir()
		volume := func(name string, change func(m *cri.Mount)) *cri.Mount {
			host := filepath.Join(dir, name)
			k.must(os.MkdirAll(filepath.Join(host, "below"), 0o755))
			k.must(unix.Mount("tmpfs", filepath.Join(host, "below"), "tmpfs", 0, ""))
			k.Cleanup(func() { k.must(unix.Unmount(filepath.Join(host, "below"), unix.MNT_DETACH)) })
			m := &cri.Mount{HostPath: host, ContainerPath: "/" + name}
			change(m)
			return m
		}
		p := k.runPod(privilegedPod)
		termination := filepath.Join(dir, "termination")
		k.must(os.WriteFile(termination, nil, 0o666))
		c := p.launch("volumes", []string{"/bin/still"}, privileged, func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{
				volume("rw", func(*cri.Mount) {}),
				volume("ro", func(m *cri.Mount) { m.Readonly = true }),
				volume("rro", func(m *cri.Mount) { m.Readonly, m.RecursiveReadOnly = true, true }),
				volume("slave", func(m *cri.Mount) { m.Propagation = cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER }),
				volume("shared", func(m *cri.Mount) { m.Propagation = cri.MountPropagation_PROPAGATION_BIDIRECTIONAL }),
				{HostPath: termination, ContainerPath: "/dev/termination-log"},
				{Image: &cri.ImageSpec{Image: baseImage}, ContainerPath: "/image", Readonly: true},
			}
			c.Devices = []*cri.Device{{HostPath: "/dev/null", ContainerPath: "/dev/nothing", Permissions: "rw"}}
		})
		want := facts{"./rw": "ok", "./rw/below": "ok", "./ro": "EROFS", "./ro/below": "ok", "./rro": "EROFS", "./rro/below": "EROFS",
			"./slave": "ok", "./shared": "ok", "./image": "EROFS", "./dev/termination-log": "ok", "./dev/nothing": "ok"}
		if got := c.report("write", "/rw", "/rw/below", "/ro", "/ro/below", "/rro", "/rro/below", "/slave", "/shared", "/image", "/dev/termination-log", "/dev/nothing"); !maps.Equal(got, want) {
			k.Errorf("writable: %v, want %v", got, want)
		}
		if r := c.exec("cat", "/image/etc/secret"); r.out != "secret\n" {
			k.Errorf("a file of an image volume: %+v", r)
		}
		c.exec("put", "/dev/termination-log", "the reason")
		if text, err := os.ReadFile(termination); err != nil || string(text) != "the reason" {
			k.Errorf("termination log: %q, %v", text, err)
		}

		for _, name := range []string{"rw", "slave"} {
			late := filepath.Join(dir, name, "late")
			k.must(os.Mkdir(late, 0o755))
			k.must(unix.Mount("tmpfs", late, "tmpfs", 0, ""))
			k.must(os.WriteFile(filepath.Join(late, "file"), nil, 0o644))
			k.Cleanup(func() { k.must(unix.Unmount(late, unix.MNT_DETACH)) })
		}
		if got := c.report("read", "/rw/late/file", "/slave/late/file"); got["./rw/late/file"] != "ENOENT" || got["./slave/late/file"] != "0" {
			k.Errorf("what the host has mounted since: %v", got)
		}
		for _, name := range []string{"slave", "shared"} {
			c.exec("mkdir", "/"+name+"/made")
			if r := c.exec("mount", "tmpfs", "tmpfs", "/"+name+"/made", "rw"); r.out != "ok\n" {
				k.Errorf("mount: %+v", r)
			}
		}
		points, err := harness.MountPoints(dir)
		k.must(err)
		if !slices.Contains(points, filepath.Join(dir, "shared/made")) || slices.Contains(points, filepath.Join(dir, "slave/made")) {
			k.Errorf("what the container has mounted since, on the host: %v", points)
		}
		if r := c.exec("umount", "/shared/made"); r.out != "ok\n" {
			k.Errorf("umount: %+v", r)
		}
	})
}

// Probes and lifecycle hooks.
func TestCRIExec(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		p := k.runPod()
		c := p.launch("probed", []string{"/bin/testbox", "pause"})
		if r := c.exec("all", "echo", "out", "--", "warn", "err", "--", "exit", "3"); r != (result{"out\n", "err\n", 3}) {
			k.Errorf("%+v", r)
		}
		if _, err := c.tryExec(k.ctx, 0, "/bin/missing"); err == nil || !strings.Contains(err.Error(), "/bin/missing") {
			k.Errorf("a missing program: %v", err)
		}
		if _, err := c.tryExec(k.ctx, 1, "/bin/testbox", "sleep", "inf"); !errdefs.IsDeadlineExceeded(err) {
			k.Errorf("a probe that is too slow: %v", err)
		}
		// Output that a child holds open is waited for, but not for ever.
		if r := c.exec("background", "echo", "late"); !strings.HasSuffix(r.out, "late\n") || r.code != 0 {
			k.Errorf("a child that ends: %+v", r)
		}
		k.until("the end of what the probes have started", func() bool {
			return maps.Equal(c.report("report", "proc"), facts{".proc.testbox": "2"}) // the container's and this one
		})
		if *long {
			if r, err := c.tryExec(k.ctx, 0, "/bin/testbox", "background", "sleep", "inf"); err == nil || !strings.Contains(err.Error(), "held by other processes") {
				k.Errorf("a child that holds the output: %+v, %v", r, err)
			}
		}
		c.halt(0)
		if _, err := c.tryExec(k.ctx, 0, "/bin/quick"); err == nil {
			k.Error("an exec in a container that has ended")
		}
	})
}

// Kubectl exec and kubectl attach, with and without a terminal.
func TestCRIStreams(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		p := k.runPod()
		c := p.launch("c", []string{"/bin/still"})
		s := c.kubectlExec(false, "all", "cat", "--", "warn", "ends", "--", "exit", "7")
		s.write("there and ")
		s.write("back")
		k.must(s.stdin.Close())
		if r := s.end(); r != (result{"there and back", "ends\n", 7}) {
			k.Errorf("exec: %+v", r)
		}
		s = c.kubectlExec(true, "all", "winch")
		s.resize(81, 24)
		s.await("81x24\r\n")
		s.resize(100, 50)
		s.await("100x50\r\n")
		s.write("\x03") // Ctrl-C
		if r := s.end(); r.code != 130 {
			k.Errorf("exec with a terminal: %+v", r)
		}

		pipe := p.launch("pipe", []string{"/bin/testbox", "cat"}, func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
		s = pipe.kubectlAttach()
		s.write("in and out")
		s.await("in and out")
		k.must(s.stdin.Close())
		s.end()
		pipe.ended(0, "Completed")

		shell := p.launch("shell", []string{"/bin/testbox", "tty-lines"}, func(c *cri.ContainerConfig) { c.Stdin, c.Tty = true, true })
		for _, word := range []string{"first", "second"} {
			s = shell.kubectlAttach()
			s.write(word + "\n")
			s.await("[" + word + "]\r\n")
			s.detach()
		}
		s = shell.kubectlAttach()
		s.write("\x04") // Ctrl-D
		s.end()
		shell.ended(0, "Completed")
	})
}

// Many probes at the same time don't get in each other's way, and leave nothing
// in the shim.
func TestCRIProbeStorm(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		p := k.runPod()
		var all []*member
		for i := range 2 {
			all = append(all, p.launch(fmt.Sprint("probed", i), []string{"/bin/still"}))
		}
		shim := k.box(p.id).shimPid()
		rounds := count(25, 250)
		if k.oracle() && patience() > 1 {
			rounds = 5
		}
		storm := func() {
			var probes sync.WaitGroup
			queue := make(chan int)
			for range 10 {
				probes.Go(func() {
					for i := range queue {
						word := strconv.Itoa(i)
						r, err := all[i%len(all)].tryExec(k.ctx, 30, "/bin/testbox", "all", "echo", word, "--", "exit", word)
						if err != nil || r != (result{out: word + "\n", code: i}) {
							k.Errorf("probe %d: %+v, %v", i, r, err)
						}
					}
				})
			}
			for i := range rounds {
				queue <- i
			}
			close(queue)
			probes.Wait()
		}
		storm()
		before := k.vitals(shim)
		storm()
		k.notGrown(before, shim)
	})
}

// Where systemd has the cgroups, a container is a scope in its pod's slice. Only
// our shim needs no option for that.
func TestCRISystemd(t *testing.T) {
	needSystemd(t)
	eachCRI(t, func(k *kubelet) {
		slice := k.slice()
		handlers := []string{k.runtime.Name, k.runtime.Name + "-systemd"}
		if k.oracle() {
			handlers = handlers[1:]
		}
		for _, k.handler = range handlers {
			p := k.runPod(func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = "/" + slice })
			c := p.launch("c", []string{"/bin/testbox", "trap"}, func(c *cri.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 64 << 20 })
			c.await("ready")
			scope := "cri-containerd-" + c.id + ".scope"
			if got := (procFS{dir: fmt.Sprint("/proc/", c.info().Pid)}).read("cgroup"); !strings.HasSuffix(got, "/"+slice+"/"+scope+"\n") {
				k.Errorf("%s: the container is in %q", k.handler, got)
			}
			var shown bytes.Buffer
			show := exec.CommandContext(k.ctx, "systemctl", "show", "--property=MemoryMax", scope)
			show.Stdout = &shown
			k.must(harness.Run(show))
			if got, want := shown.String(), fmt.Sprintf("MemoryMax=%d\n", 64<<20); got != want {
				k.Errorf("%s: systemd has %q, want %q", k.handler, got, want)
			}
			if r := c.exec("echo", "exec"); r.out != "exec\n" {
				k.Errorf("%s: %+v", k.handler, r)
			}
			c.halt(30)
			c.ended(0, "Completed")
			p.stop()
			k.until("the end of the scopes", func() bool {
				left, err := filepath.Glob("/sys/fs/cgroup/" + slice + "/*.scope")
				k.must(err)
				return len(left) == 0
			})
		}
	})
}

// A container that is too big is killed, and that is the reason that its status
// has as soon as it has ended. When a child was killed, an event tells.
func TestCRIOutOfMemory(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		p := k.runPod()
		limit := func(c *cri.ContainerConfig) {
			c.Linux.Resources.MemoryLimitInBytes = 32 << 20
		}
		whole := func(c *cri.ContainerConfig) { // as the kubelet has it on cgroup v2
			limit(c)
			if unifiedOnly() {
				c.Linux.Resources.Unified = map[string]string{"memory.oom.group": "1"}
			}
		}
		other := p.launch("other", []string{"/bin/still"})
		p.launch("hog", []string{"/bin/testbox", "memhog", fmt.Sprint(128 << 20)}, whole).ended(137, "OOMKilled")
		p.launch("hog", []string{"/bin/testbox", "exit", "1"}, whole).ended(1, "Error")
		parent := p.launch("parent", []string{"/bin/testbox", "spawn", "1", "memhog", fmt.Sprint(128 << 20)}, limit)
		k.until("the reason for a child's end", func() bool { return parent.exit().Reason == "OOMKilled" })
		parent.ended(0, "OOMKilled")
		if s := other.status(); s.State != cri.ContainerState_CONTAINER_RUNNING {
			k.Errorf("the pod's other container: %v", s)
		}
	})
}

// What kubectl top and the kubelet's eviction look at.
func TestCRIStats(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		const used, limit = 24 << 20, 100 << 20
		p := k.runPod()
		c := p.launch("busy", []string{"/bin/testbox", "all", "cpuhog", "0.2", "--", "memhog", fmt.Sprint(used), "inf"},
			func(c *cri.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = limit })
		idle := p.launch("idle", []string{"/bin/still"})
		c.await("touched")
		var seconds float64 // of CPU time, by the container's own account
		if _, err := fmt.Sscanf(c.log(), "stdout: %g\n", &seconds); err != nil {
			k.Fatalf("%v in %q", err, c.log())
		}
		burnt := uint64(0.9e9 * seconds)

		check := func(what string, s *cri.ContainerStats) {
			k.Helper()
			m := s.GetMemory()
			if cpu := s.GetCpu().GetUsageCoreNanoSeconds().GetValue(); cpu < burnt {
				k.Errorf("%s: %d ns of CPU time, want %d", what, cpu, burnt)
			}
			if m.GetWorkingSetBytes().GetValue() < used || m.GetUsageBytes().GetValue() < used || m.GetRssBytes().GetValue() < used || m.GetPageFaults().GetValue() == 0 {
				k.Errorf("%s: memory %v", what, m)
			}
			if free := m.GetAvailableBytes().GetValue(); free == 0 || free+m.GetWorkingSetBytes().GetValue() != limit {
				k.Errorf("%s: memory %v of %d", what, m, limit)
			}
		}
		one, err := k.ContainerStats(k.ctx, &cri.ContainerStatsRequest{ContainerId: c.id})
		k.must(err)
		check("ContainerStats", one.Stats)
		two, err := k.ListContainerStats(k.ctx, &cri.ListContainerStatsRequest{Filter: &cri.ContainerStatsFilter{PodSandboxId: p.id}})
		k.must(err)
		pod, err := k.PodSandboxStats(k.ctx, &cri.PodSandboxStatsRequest{PodSandboxId: p.id})
		k.must(err)
		pods, err := k.ListPodSandboxStats(k.ctx, &cri.ListPodSandboxStatsRequest{Filter: &cri.PodSandboxStatsFilter{Id: p.id}})
		k.must(err)
		if len(pods.Stats) != 1 {
			k.Fatalf("stats of %d pods", len(pods.Stats))
		}
		for what, list := range map[string][]*cri.ContainerStats{
			"ListContainerStats": two.Stats, "PodSandboxStats": pod.Stats.Linux.Containers, "ListPodSandboxStats": pods.Stats[0].Linux.Containers,
		} {
			if len(list) != 2 {
				k.Errorf("%s: %v", what, list)
			}
			for _, s := range list {
				if s.Attributes.Id == c.id {
					check(what, s)
				} else if s.Attributes.Id != idle.id || s.GetMemory().GetUsageBytes().GetValue() == 0 {
					k.Errorf("%s: %v", what, s)
				}
			}
		}
		for _, s := range []*cri.LinuxPodSandboxStats{pod.Stats.Linux, pods.Stats[0].Linux} {
			if s.GetMemory().GetWorkingSetBytes().GetValue() < used || s.GetCpu().GetUsageCoreNanoSeconds().GetValue() < burnt || s.GetProcess().GetProcessCount().GetValue() < 2 {
				k.Errorf("of the pod: %v", s)
			}
		}
		// The rate needs two samples.
		k.until("a rate of CPU usage", func() bool {
			r, err := k.PodSandboxStats(k.ctx, &cri.PodSandboxStatsRequest{PodSandboxId: p.id})
			k.must(err)
			return !slices.ContainsFunc(r.Stats.Linux.Containers, func(s *cri.ContainerStats) bool { return s.GetCpu().GetUsageNanoCores() == nil })
		})
		c.halt(0)
		if _, err := k.ContainerStats(k.ctx, &cri.ContainerStatsRequest{ContainerId: c.id}); err == nil {
			k.Error("stats of a container that has ended")
		}
	})
}

// A pod is resized in place.
func TestCRIUpdate(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		p := k.runPod()
		c := p.launch("resized", []string{"/bin/still"}, func(c *cri.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 64 << 20 })
		resize := func(r *cri.LinuxContainerResources) error {
			_, err := k.UpdateContainerResources(k.ctx, &cri.UpdateContainerResourcesRequest{ContainerId: c.id, Linux: r})
			return errgrpc.ToNative(err)
		}
		k.must(resize(&cri.LinuxContainerResources{MemoryLimitInBytes: 128 << 20, CpuPeriod: 100_000, CpuQuota: 50_000, CpuShares: 512}))
		want := map[[3]string]string{{"memory", "memory.limit_in_bytes", "memory.max"}: fmt.Sprint(128 << 20)}
		if unifiedOnly() {
			want[[3]string{"", "", "cpu.max"}] = "50000 100000"
		} else {
			want[[3]string{"cpu", "cpu.cfs_quota_us", ""}] = "50000"
			want[[3]string{"cpu", "cpu.shares", ""}] = "512"
		}
		for file, value := range want {
			if got := c.cgroupFile(file[0], file[1], file[2]); got != value {
				k.Errorf("%v: %s, want %s", file, got, value)
			}
		}
		if r := c.status().Resources.GetLinux(); r.GetMemoryLimitInBytes() != 128<<20 || r.GetCpuQuota() != 50_000 {
			k.Errorf("status %v", r)
		}
	})
}

// Pods don't notice a restart of containerd, and what happens meanwhile is known
// after it.
func TestCRIContainerdRestart(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		p := k.runPod()
		c := p.launch("stays", []string{"/bin/testbox", "trap"})
		c.await("ready")
		ends := p.launch("ends", []string{"/bin/testbox", "trap"})
		ends.await("ready")
		done := p.launch("done", []string{"/bin/testbox", "exit", "4"})
		done.ended(4, "Error")
		pid, ending := c.info().Pid, ends.info().Pid
		k.restart(func() {
			k.must(unix.Kill(int(pid), unix.SIGUSR1))
			k.must(unix.Kill(int(ending), unix.SIGKILL))
			k.must(waitGone(ending))
		})
		if s := p.status(); s.State != cri.PodSandboxState_SANDBOX_READY || s.Network.Ip != "192.0.2.7" {
			k.Errorf("the pod is %v", s)
		}
		if s := c.status(); s.State != cri.ContainerState_CONTAINER_RUNNING || c.info().Pid != pid {
			k.Errorf("with pid %d, want %d: %v", c.info().Pid, pid, s)
		}
		done.ended(4, "Error")
		if k.oracle() { // it has no pids, and containerd throws it away
			ends.ended(255, "Unknown")
		} else {
			ends.ended(137, "Error")
		}
		c.await("SIGUSR1")
		if r := c.exec("echo", "exec"); r.out != "exec\n" {
			k.Errorf("%+v", r)
		}
		p.launch("new", []string{"/bin/testbox", "exit", "5"}).ended(5, "Error")
		c.halt(30)
		c.ended(0, "Completed")
		if log := c.log(); log != "stdout: ready\nstdout: SIGUSR1\nstdout: SIGTERM\n" {
			k.Errorf("log %q", log)
		}
	})
}

// A shim that is killed takes its pod along; the kubelet sees that and can clean up.
func TestCRIShimKilled(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		k.oracleLeaves("/s/", "the socket of a killed shim stays until the same id returns")
		p := k.runPod()
		c := p.launch("victim", []string{"/bin/testbox", "spawn", "3", "sleep", "inf"})
		pid, sandbox := c.info().Pid, k.box(p.id)
		k.must(unix.Kill(sandbox.shimPid(), unix.SIGKILL))
		if s := c.exit(); s.ExitCode == 0 {
			k.Errorf("%v", s)
		}
		k.must(waitGone(pid))
		k.until("the end of the pod", func() bool { return p.status().State == cri.PodSandboxState_SANDBOX_NOTREADY })
		k.must(waitGone(sandbox.Pid()))
	})
}

// Pods with hostUsers: false, of both kinds of network. Their volumes have the ids
// that the containers see.
func TestCRIUserNamespace(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		for _, opts := range [][]podOpt{{userNamespaced}, {userNamespaced, hostNetwork}} {
			volume := k.dir()
			k.must(os.WriteFile(filepath.Join(volume, "file"), nil, 0o600))
			k.must(os.Chown(filepath.Join(volume, "file"), 1000, 3000))
			p, err := k.tryPod(opts...)
			if err != nil && strings.Contains(err.Error(), "idmap") {
				k.Skipf("*** PODS WITH USER NAMESPACES NOT TESTED: %v ***", err)
			}
			k.must(err)
			mount := func(c *cri.ContainerConfig) {
				c.Mounts = []*cri.Mount{{HostPath: volume, ContainerPath: "/volume", UidMappings: podIDs, GidMappings: podIDs}}
			}
			c := p.launch("root", []string{"/bin/still"}, mount)
			if u := namespace(c.info().Pid, "user"); u == namespace("self", "user") || u != namespace(k.box(p.id).Pid(), "user") {
				k.Errorf("user namespace %s", u)
			}
			if got := c.report("report", "ids", "userns"); got[".ids.UID[1]"] != "0" || strings.Join(strings.Fields(got[".userns.uid[0]"]), " ") != "0 200000 65536" {
				k.Errorf("%v", got)
			}
			if got := c.report("stat", "/", "/etc/secret", "/volume/file", "/data/owned", "/dev/mqueue"); got["./volume/file.Owner"] != "1000:3000" ||
				got["./.Owner"] != "0:0" || got["./etc/secret.Owner"] != "0:0" || got["./data/owned.Owner"] != "1000:2000" ||
				!strings.HasPrefix(got["./dev/mqueue.Owner"], "0:") {
				k.Errorf("%v", got)
			}
			if got, want := c.report("write", "/", "/dev/shm", "/dev/null"), (facts{"./": "ok", "./dev/shm": "ok", "./dev/null": "ok"}); !maps.Equal(got, want) {
				k.Errorf("%v", got)
			}
			c.exec("put", "/volume/new", "")
			var made unix.Stat_t
			if err := unix.Stat(filepath.Join(volume, "new"), &made); err != nil || made.Uid != 0 {
				k.Errorf("the pod's root has made a file of %d in a volume, %v", made.Uid, err)
			}
			user := p.launch("user", []string{"/bin/testbox", "put", "/volume/file", "by the user"}, confined, mount)
			user.ended(0, "Completed")
			if text, err := os.ReadFile(filepath.Join(volume, "file")); err != nil || string(text) != "by the user" {
				k.Errorf("%q, %v", text, err)
			}
		}
	})
}

// PodComparison is a container in a pod, for TestCompare.
type podComparison struct {
	name      string
	pod       []podOpt
	container []memberOpt
}

var podComparisons = []podComparison{
	{"pod", nil, nil},
	{"pod, confined", []podOpt{sharedPids}, []memberOpt{confined}},
	{"pod, privileged", []podOpt{privilegedPod}, []memberOpt{privileged}},
	{"pod, host network", []podOpt{hostNetwork}, []memberOpt{confined}},
	{"pod, hostUsers: false", []podOpt{userNamespaced}, nil},
	{"pod, hostUsers: false, host network", []podOpt{userNamespaced, hostNetwork}, []memberOpt{confined}},
}

// Collect looks at the sandbox and a container from outside, and lets an exec look
// around in the container.
func (c podComparison) collect(e *env) facts {
	p := e.kubelet().runPod(c.pod...)
	m := p.launch("c", []string{"/bin/still"}, c.container...)
	f := facts{}
	f.outside("init", m.info().Pid)
	f.outside("sandbox", p.box(p.id).Pid())
	// What the pause of the tests changes itself.
	for _, own := range []string{"Threads", "SigCgt", "SigIgn"} {
		delete(f, "sandbox.status."+own)
	}
	r := m.exec(inside[1:]...)
	e.must(f.addJSON("inside", r.out))
	f.metrics("metrics", p)
	return f.neutral(neutralFor(m.id, p.id, p.config.Metadata.Name))
}

// Metrics are what Prometheus is told of a pod; those that are never the same
// twice have to be there. Without an eth0, only pods in the host's network have any.
func (f facts) metrics(name string, p *pod) {
	r, err := p.ListPodSandboxMetrics(p.ctx, &cri.ListPodSandboxMetricsRequest{})
	p.must(err)
	steady := regexp.MustCompile("^container_(spec|fs_limit|processes|threads|file_descriptors|sockets|ulimits)")
	for _, pod := range r.PodMetrics {
		for _, c := range pod.ContainerMetrics {
			for _, m := range c.Metrics {
				key := fmt.Sprintf("%s.%s%q", name, m.Name, m.LabelValues)
				f[key] = "there"
				if steady.MatchString(m.Name) {
					f[key] = fmt.Sprint(m.Value.GetValue())
				}
			}
		}
	}
}

// The handlers tell the kubelet what it may ask for. One that takes the place of
// runc's shim serves pods likewise.
func TestCRIHandlers(t *testing.T) {
	eachCRI(t, func(k *kubelet) {
		status, err := k.Status(k.ctx, &cri.StatusRequest{})
		k.must(err)
		for _, c := range status.Status.Conditions {
			if !c.Status && (c.Type == cri.RuntimeReady || c.Type == cri.NetworkReady) {
				k.Errorf("%v", c)
			}
		}
		for _, name := range []string{k.runtime.Name, k.runtime.Name + "-as-runc"} {
			i := slices.IndexFunc(status.RuntimeHandlers, func(h *cri.RuntimeHandler) bool { return h.Name == name })
			if i < 0 {
				k.Fatalf("no %s in %v", name, status.RuntimeHandlers)
			}
			if f := status.RuntimeHandlers[i].Features; !f.GetRecursiveReadOnlyMounts() || !f.GetUserNamespaces() {
				k.Errorf("%s has %v", name, f)
			}
		}
		k.handler += "-as-runc"
		p := k.runPod()
		c := p.launch("c", []string{"/bin/testbox", "trap"}, confined)
		c.await("ready")
		exe, err := os.Stat(fmt.Sprintf("/proc/%d/exe", k.box(c.id).shimPid()))
		k.must(err)
		shim, err := os.Stat(k.runtime.Shim)
		k.must(err)
		if !os.SameFile(exe, shim) {
			k.Error("this is not the shim's pod")
		}
		if r := c.exec("echo", "exec"); r.out != "exec\n" {
			k.Errorf("%+v", r)
		}
		c.halt(30)
		c.ended(0, "Completed")
	})
}
