package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Advisories of container runtimes, as tests of the whole shim; those of the
// process alone are in package process. Each attack is also made where it has to
// succeed: against something naive, that is in the test itself.

// CVE-2019-5736: the host's binary is overwritten through /proc/PID/exe. The
// attacker waits for others, opens what they run, and writes when it is no longer
// being executed.
func TestOverwriteTheRuntime(t *testing.T) {
	each(t, func(e *env) {
		before := hashOf(e, e.runtime.Shim)
		b := e.launch(testbox("exe-writer", "600"))
		b.await("ready\n")
		rounds := count(40, 200)
		if e.oracle() && patience() > 1 {
			rounds = 10
		}
		for range rounds {
			if _, err := b.tryExec([]string{"/proc/self/exe"}); err != nil {
				e.Fatal(err)
			}
			p, err := b.tryExec([]string{"/proc/self/exe", "exit", "0"})
			e.must(err)
			if err := p.Start(e.ctx); err == nil { // what that is belongs to the runtime: it may not even start
				<-p.exit
			}
			_, err = p.Delete(e.ctx)
			e.must(err)
			p, err = b.tryExec([]string{"/bin/quick"})
			e.must(err)
			if err := p.Start(e.ctx); err == nil { // it may be open for writing just now
				<-p.exit
			}
			_, err = p.Delete(e.ctx)
			e.must(err)
		}
		b.kill(unix.SIGTERM)
		r := b.end()
		if after := hashOf(e, e.runtime.Shim); after != before {
			e.Error("the shim's binary is another one")
		}
		// A program of the image is no part of the runtime: the writer gets it.
		if !strings.Contains(r.out, "written /bin/quick\n") {
			e.Errorf("the attacker does not write: %q, %q", r.out, r.err)
		}
		for line := range strings.Lines(r.out) {
			if what, ok := strings.CutPrefix(strings.TrimSpace(line), "written "); ok && what != "/bin/quick" && what != "/bin/testbox" {
				e.Errorf("the attacker wrote to %q", what)
			}
		}
	})
}

func hashOf(e *env, path string) [32]byte {
	e.Helper()
	data, err := os.ReadFile(path)
	e.must(err)
	return sha256.Sum256(data)
}

// An image whose entry point is /proc/self/exe runs itself, or nothing.
func TestEntryPointIsTheRuntime(t *testing.T) {
	each(t, func(e *env) {
		before := hashOf(e, e.runtime.Shim)
		for _, words := range [][]string{{"/proc/self/exe"}, {"/proc/self/exe", "init"}, {"/proc/1/exe", "exit", "3"}} {
			b, err := e.tryCreate(args(words...))
			if err != nil {
				continue
			}
			if err := b.task.Start(e.ctx); err == nil {
				<-b.exit
			}
			if _, err := b.task.Delete(e.ctx); err != nil {
				e.Error(err)
			}
		}
		if hashOf(e, e.runtime.Shim) != before {
			e.Error("the shim's binary is another one")
		}
	})
}

// CVE-2020-15257: a container in the host's network namespace connects to the
// shim's abstract socket.
func TestNoAbstractSocket(t *testing.T) {
	each(t, func(e *env) {
		listener, err := net.Listen("unix", "@"+newID())
		e.must(err)
		defer listener.Close()
		b := e.launch(testbox("sleep", "inf"), withSpec(oci.WithHostNamespace(specs.NetworkNamespace)))
		r := b.execRun([]string{"cat", "/proc/net/unix"})
		var naive bool
		for line := range strings.Lines(r.out) {
			_, name, ok := strings.Cut(line, "@")
			switch {
			case !ok:
			case "@"+strings.TrimSpace(name) == listener.Addr().String():
				naive = true
			case strings.Contains(name, "containerd") || strings.Contains(name, "shim") || strings.Contains(name, harness.Tag):
				e.Errorf("an abstract socket: %s", line)
			}
		}
		if !naive {
			e.Errorf("the container does not see the test's own abstract socket: %s", r.out)
		}
		accepted := make(chan struct{})
		go func() {
			if conn, err := listener.Accept(); err == nil {
				_, _ = io.Copy(conn, conn)
				conn.Close()
				close(accepted)
			}
		}()
		b.execRun([]string{"dial", "unix", listener.Addr().String(), "x"})
		select {
		case <-accepted:
		case <-time.After(5 * time.Second):
			e.Error("the container cannot connect to the test's own abstract socket")
		}
	})
}

// CVE-2021-21334: what containers of a pod have, environment and descriptors, is
// none of the others'; and none of the shim's.
func TestPodMembersShareNothing(t *testing.T) {
	eachPeer(t, func(s *stage) {
		call := s.call()
		call.Env = []string{"SHIM_SECRET=1"}
		variable := func(name string) opt {
			return edit(func(spec *specs.Spec) { spec.Process.Env = []string{"PATH=/bin", name + "=1"} })
		}
		first := s.shimBy(call, still(), variable("FIRST"))
		first.launch()
		second := first.newMember(testbox("all", "env", "--", "report", "fds", "env"), variable("SECOND"))
		second.launch()
		_, err := second.wait("")
		s.must(err)
		s.awaitEOF(second.streams.out)
		out := second.streams.out.String()
		if !strings.Contains(out, "SECOND=1") {
			s.Errorf("its own variable is missing: %q", out)
		}
		for _, secret := range []string{"FIRST", "SHIM_SECRET", "TTRPC", "NAMESPACE", first.id} {
			if strings.Contains(out, secret) {
				s.Errorf("%s in %q", secret, out)
			}
		}
		// A runtime that handed on what it has would make this of it.
		naive := first.newMember(testbox("env"), variable("SHIM_SECRET"))
		naive.launch()
		_, err = naive.wait("")
		s.must(err)
		s.awaitEOF(naive.streams.out)
		if out := naive.streams.out.String(); !strings.Contains(out, "SHIM_SECRET=1") {
			s.Errorf("the secret cannot be seen even where it is: %q", out)
		}
		// And what is handed to one of them is not seen by the other.
		f := facts{}
		f.outside("init", first.running(""))
		for name, target := range f {
			if strings.HasPrefix(name, "init.fd.") && strings.Contains(target, second.id) {
				s.Errorf("%s of the first container: %s", name, target)
			}
		}
	})
}

func (s *stage) shimPid(t *task) int {
	s.Helper()
	state, err := t.state("")
	s.must(err)
	stat := procFS{dir: fmt.Sprint("/proc/", state.Pid)}.status()
	pid := 0
	_, err = fmt.Sscan(stat["PPid"], &pid)
	s.must(err)
	return pid
}

// CVE-2021-41103, CVE-2024-25621: directories that users of the host can look
// into.
func TestFilesArePrivate(t *testing.T) {
	each(t, func(e *env) {
		e.weakness("its state is where containerd's configuration has it")
		b := e.launch(still())
		asUser := func(path string) error {
			result := make(chan error)
			go func() {
				// The user's rights are those of this thread, which ends with it.
				runtime.LockOSThread()
				if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 1000, 1000, 1000); errno != 0 {
					result <- errno
					return
				}
				fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
				if err == nil {
					unix.Close(fd)
				}
				result <- err
			}()
			return <-result
		}
		open := filepath.Join(e.dir(), "open")
		e.must(os.WriteFile(open, nil, 0o644))
		if err := asUser(open); err != nil {
			e.Fatalf("the user cannot even read what is meant for all: %v", err)
		}
		for _, path := range []string{
			e.daemon.Bundle(b.c.ID()),
			filepath.Join(e.daemon.Bundle(b.c.ID()), "config.json"),
			filepath.Join(e.daemon.Bundle(b.c.ID()), "container.json"),
			b.IO().Config().Stdout,
		} {
			if _, err := os.Lstat(path); err != nil {
				e.Fatal(err)
			}
			if err := asUser(path); err == nil {
				e.Errorf("a user of the host opens %s", path)
			}
		}
		for _, path := range e.daemon.Watched() {
			_ = filepath.WalkDir(path, func(path string, entry os.DirEntry, err error) error {
				if err != nil || entry.Type() != os.ModeSocket {
					return nil
				}
				if info, err := entry.Info(); err == nil && info.Mode().Perm()&0o077 != 0 && asUser(filepath.Dir(path)) == nil {
					e.Errorf("socket %s is %v", path, info.Mode())
				}
				return nil
			})
		}
	})
}

// CVE-2022-23471: failed execs and resizes leave nothing in the shim.
func TestFailedExecsLeaveNothing(t *testing.T) {
	eachPeer(t, func(s *stage) {
		m := s.launch(still())
		pid := s.shimPid(m)
		fail := func(n int) {
			for i := range n {
				id := fmt.Sprint("x", n, "-", i)
				s.must(m.execProcess(id, nil, &specs.Process{Args: []string{"/missing"}, Cwd: "/", Env: []string{"PATH=/bin"}}))
				_ = resize(m, id)
				if err := m.start(id); err == nil {
					s.Fatal("/missing is started")
				}
				_ = resize(m, id)
				_, err := m.delete(id)
				s.must(err)
				_ = resize(m, id)
			}
		}
		fail(10)
		before, err := harness.ReadVitals(pid)
		s.must(err)
		// runc's shim leaves pidfds to its garbage collector.
		few := 0
		if s.oracle() {
			few = 50
		}
		var after harness.Vitals
		leaks := func() bool {
			after, err = harness.ReadVitals(pid)
			s.must(err)
			return len(after.FDs) > len(before.FDs)+few || after.Threads > before.Threads+4
		}
		fail(count(100, 1000))
		for range 50 {
			if !leaks() {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if leaks() {
			s.Fatalf("%d descriptors and %d threads, before %d and %d:\n%s", len(after.FDs), after.Threads, len(before.FDs), before.Threads, strings.Join(after.FDs, "\n"))
		}
		// A shim that keeps what it has opened for them would be found out.
		for i := range few + 5 {
			id := fmt.Sprint("kept", i)
			io := s.newStreams(newID(), false)
			defer io.close()
			s.must(m.exec(id, io, "/bin/still"))
			s.must(m.start(id))
		}
		if !leaks() {
			s.Errorf("execs that are there take no descriptors: %d, before %d", len(after.FDs), len(before.FDs))
		}
	})
}

// CVE-2026-53488: where output goes says the request, and nothing in the spec.
func TestLoggerOfAnAnnotation(t *testing.T) {
	each(t, func(e *env) {
		dir := e.dir()
		e.must(os.Chmod(dir, 0o777))
		uri := fmt.Sprintf("binary://%s?logger=%s", harness.Bin("testbox"), dir)
		var annotations = map[string]string{}
		for _, key := range []string{"io.containerd.log.uri", "io.kubernetes.cri.log-uri", "containerd.io/log-uri", "nerdctl/log-uri", "log_uri", "stdout"} {
			annotations[key] = uri
		}
		b := e.launch(testbox("echo", "here"), withSpec(oci.WithAnnotations(annotations)))
		if r := b.end(); r.out != "here\n" {
			e.Errorf("%+v", r)
		}
		if made, err := os.ReadDir(dir); err != nil || len(made) > 0 {
			e.Errorf("a logger ran: %v, %v", made, err)
		}
		// Who takes the annotation for the request runs what it names.
		id := newID()
		e.wantCtr(result{}, e.ctrRun("-d", "--log-uri", annotations["log_uri"], baseImage, id, "/bin/testbox", "echo", "here")...)
		e.wantCtr(result{}, "task", "rm", "-f", id)
		e.wantCtr(result{}, "container", "rm", id)
		if made, err := os.ReadDir(dir); err != nil || len(made) == 0 {
			e.Errorf("no logger runs even if it is asked for (%v)", err)
		}
	})
}

// A container with all capabilities in a user namespace is still a container.
func TestAdminOfAUserNamespace(t *testing.T) {
	each(t, func(e *env) {
		core, err := os.ReadFile("/proc/sys/kernel/core_pattern")
		e.must(err)
		attacks := [][]string{
			{"syscall", fmt.Sprint(unix.SYS_SWAPOFF), "0"},
			{"syscall", fmt.Sprint(unix.SYS_INIT_MODULE), "0", "0", "0"},
			{"syscall", fmt.Sprint(unix.SYS_ACCT), "0"},
			{"syscall", fmt.Sprint(unix.SYS_SETTIMEOFDAY), "0", "0"},
			{"syscall", fmt.Sprint(unix.SYS_SYSLOG), "5", "0", "0"},
			{"open", "/proc/sys/kernel/core_pattern", "wronly"},
			{"open", "/proc/sysrq-trigger", "wronly"},
			{"mount", "ext4", "/dev/vda", "/mnt", "ro"},
		}
		run := func(opts ...opt) (outcomes []string) {
			b := e.launch(append(opts, still())...)
			for _, a := range attacks {
				outcomes = append(outcomes, strings.TrimSpace(b.execRun(a).out))
			}
			b.remove()
			return outcomes
		}
		all := withSpec(oci.WithAllCurrentCapabilities, oci.WithMaskedPaths(nil), oci.WithReadonlyPaths(nil))
		mapped := run(append(userNamespace(client.WithUserNSRemappedSnapshot)(e), all)...)
		for i, outcome := range mapped {
			if !slices.Contains([]string{"EPERM", "EACCES", "EROFS", "ENOENT", "ENODEV", "EFAULT", "ENOSYS"}, outcome) {
				e.Errorf("%v: %s", attacks[i], outcome)
			}
		}
		naive := run(all)
		if slices.Equal(naive, mapped) || !slices.Contains(naive, "ok") {
			e.Errorf("the host's root gets no further: %v", naive)
		}
		if now, _ := os.ReadFile("/proc/sys/kernel/core_pattern"); !bytes.Equal(now, core) {
			e.Error("core_pattern is another one")
		}
	})
}

// Execs into a container that has no room for processes fail, or work; they do
// not hang, and neither does the end.
func TestForkBombAgainstExec(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(testbox("spawn", "200", "sleep", "inf"), withSpec(oci.WithPidsLimit(30)))
		var failed int
		for range 20 {
			soon, cancel := context.WithTimeout(e.ctx, 20*time.Second)
			p, err := b.tryExec([]string{"/bin/quick"})
			if err == nil {
				err = p.Start(soon)
			}
			if err != nil {
				failed++
			}
			if soon.Err() != nil {
				e.Error("an exec hangs")
			}
			if p != nil {
				if err == nil {
					<-p.exit
				}
				if _, err := p.Delete(e.ctx); err != nil {
					e.Error(err)
				}
			}
			cancel()
		}
		e.Logf("%d of 20 execs failed", failed)
		b.remove()
	})
}

// NaiveFields are fields as netlink has its attributes, if nobody looks at lengths.
func naiveFields(fields ...string) []byte {
	var b []byte
	for _, f := range fields {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(f)))
		b = append(b, f...)
	}
	return b
}

func readNaiveFields(b []byte) []string {
	var fields []string
	for len(b) >= 2 {
		n := min(int(binary.LittleEndian.Uint16(b)), len(b)-2)
		fields, b = append(fields, string(b[2:2+n])), b[2+n:]
	}
	return fields
}

// What hostile specs put into one field does not get into another.
func TestFieldsStayApart(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("after one of these its shim does not answer any more")
		pod := s.launch(still())
		long := strings.Repeat("x", 70<<10)
		// What a runtime that hands fields on one after the other, with 16 bits for
		// the length of each, makes of them (CVE-2021-43784).
		forged := string(naiveFields("pid:/proc/1/ns/pid"))
		hidden := strings.Repeat("x", 100) + forged + strings.Repeat("x", 1<<16-len(forged))
		if read := readNaiveFields(naiveFields("ipc:/"+hidden, "net:")); len(read) < 2 || read[1] != "pid:/proc/1/ns/pid" {
			s.Errorf("no field gets into another one even so: %.100q", read)
		}
		for name, change := range map[string]func(*specs.Spec){
			"long source": func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m", Source: "/" + long, Options: []string{"bind"}})
			},
			"long destination": func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: "/" + long, Type: "tmpfs"}) },
			"NUL":              func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: "/a\x00b", Type: "tmpfs"}) },
			"long cwd":         func(s *specs.Spec) { s.Process.Cwd = "/" + long },
			"namespace paths": func(s *specs.Spec) {
				setNamespace(s, specs.LinuxNamespace{Type: specs.IPCNamespace, Path: "/proc/self/ns/ipc,pid:/proc/1/ns/pid"})
			},
			"hidden namespace": func(s *specs.Spec) {
				setNamespace(s, specs.LinuxNamespace{Type: specs.IPCNamespace, Path: "/" + hidden})
			},
			"long namespace": func(s *specs.Spec) { setNamespace(s, specs.LinuxNamespace{Type: specs.IPCNamespace, Path: "/" + long}) },
		} {
			m := pod.newMember(still(), edit(change))
			if err := m.create(); err == nil {
				s.Errorf("%s: it is created", name)
			}
		}
		m := pod.newMember(testbox("env"), edit(func(s *specs.Spec) {
			s.Process.Env = []string{"PATH=/bin", "A=1\nB=2", "C=,D=4", "E=" + long}
			s.Process.Args = append(s.Process.Args, "--\x01", long)
		}))
		m.launch()
		_, err := m.wait("")
		s.must(err)
		s.awaitEOF(m.streams.out)
		if out := m.streams.out.String(); !strings.Contains(out, "\nA=1\nB=2\nC=,D=4\nE="+long+"\n") {
			s.Errorf("the environment is another one: %.300q", out)
		}
	})
}
