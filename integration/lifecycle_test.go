package integration

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestForeground(t *testing.T) {
	each(t, func(e *env) {
		r := e.run(testbox("all", "echo", "hello", "world", "--", "warn", "to", "stderr", "--", "exit", "7"))
		if r != (result{"hello world\n", "to stderr\n", 7}) {
			e.Errorf("%+v", r)
		}
	})
}

func TestExitCodes(t *testing.T) {
	each(t, func(e *env) {
		for _, code := range []int{0, 1, 2, 42, 127, 128, 255} {
			if r := e.run(testbox("exit", strconv.Itoa(code))); r.code != code {
				e.Errorf("exit %d: got %d", code, r.code)
			}
		}
	})
}

func TestStatusThroughLife(t *testing.T) {
	each(t, func(e *env) {
		b := e.create(testbox("cat"), withStdin)
		want := func(s client.ProcessStatus) {
			e.Helper()
			if got := b.state(); got != s {
				e.Errorf("status %s, want %s", got, s)
			}
		}
		want(client.Created)
		b.start()
		want(client.Running)
		e.must(b.task.Pause(e.ctx))
		want(client.Paused)
		e.must(b.task.Resume(e.ctx))
		want(client.Running)
		b.write("through\n")
		b.await("through\n")
		b.kill(unix.SIGKILL)
		if code := b.wait(); code != 137 {
			e.Errorf("exit code %d after SIGKILL", code)
		}
		want(client.Stopped)
		_, err := b.task.Delete(e.ctx)
		e.must(err)
		if _, err := b.c.Task(e.ctx, nil); !errdefs.IsNotFound(err) {
			e.Errorf("a deleted task: %v", err)
		}
	})
}

// The pid of a process that ended at once is known nevertheless, and so are
// its exit code and time.
func TestShortRun(t *testing.T) {
	each(t, func(e *env) {
		for range count(5, 100) {
			before := time.Now()
			b := e.launch(testbox("exit", "3"))
			pid := b.Pid()
			code, at := b.wait(), b.status.ExitTime()
			if code != 3 || pid == 0 {
				e.Errorf("exit code %d of pid %d", code, pid)
			}
			if at.Before(before) || at.After(time.Now()) {
				e.Errorf("exited at %v, not between %v and now", at, before)
			}
			s, err := b.task.Status(e.ctx)
			e.must(err)
			if s.Status != client.Stopped || s.ExitStatus != 3 || !s.ExitTime.Equal(at) {
				e.Errorf("status %+v, want exit 3 at %v", s, at)
			}
			b.remove()
		}
	})
}

// The same id can be used again as soon as it is free.
func TestSameIDAgain(t *testing.T) {
	each(t, func(e *env) {
		id := newID()
		for i := range count(5, 50) {
			b := e.launch(testbox("exit", "0"), withID(id))
			b.end()
			if err := b.c.Delete(e.ctx, client.WithSnapshotCleanup); err != nil {
				e.Fatalf("round %d: %v", i, err)
			}
		}
	})
}

// A second task in the same container, after the first.
func TestTaskAgain(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(testbox("put", "/work/mark", "first"))
		b.end()
		task, err := b.c.NewTask(e.ctx, cio.NullIO)
		e.must(err)
		defer task.Delete(e.ctx, client.WithProcessKill)
		exit, err := task.Wait(e.ctx)
		e.must(err)
		e.must(task.Start(e.ctx))
		if status := <-exit; status.ExitCode() != 0 {
			e.Errorf("exit code %d", status.ExitCode())
		}
	})
}

func TestDeleteRunning(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		if _, err := b.task.Delete(e.ctx); !errdefs.IsFailedPrecondition(err) {
			e.Errorf("delete of a running task: %v", err)
		}
		if s := b.state(); s != client.Running {
			e.Errorf("status %s after a refused delete", s)
		}
		b.remove()
	})
}

func TestDeleteCreated(t *testing.T) {
	each(t, func(e *env) {
		b := e.create(still())
		b.remove()
	})
}

// Everybody who waits gets the same answer, also who comes late.
func TestManyWaiters(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(testbox("trap", "USR1"))
		b.await("ready")
		var waiters []<-chan client.ExitStatus
		for range 50 {
			ch, err := b.task.Wait(e.ctx)
			e.must(err)
			waiters = append(waiters, ch)
		}
		b.kill(unix.SIGUSR1)
		first := <-waiters[0]
		late, err := b.task.Wait(e.ctx)
		e.must(err)
		for _, ch := range append(waiters[1:], late) {
			s := <-ch
			if s.Error() != nil || s.ExitCode() != 0 || !s.ExitTime().Equal(first.ExitTime()) {
				e.Errorf("one waiter got %+v, another %+v", first, s)
			}
		}
		b.remove()
	})
}

var signals = []unix.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM,
	unix.SIGCHLD, unix.SIGCONT, unix.SIGWINCH, 37, 64, unix.SIGTERM,
}

func TestSignals(t *testing.T) {
	each(t, func(e *env) {
		init := e.launch(testbox("trap"))
		exec := init.exec([]string{"/bin/testbox", "trap"})
		for _, p := range []*proc{exec, &init.proc} {
			p.await("ready")
			for _, s := range signals {
				p.kill(s)
				want := unix.SignalName(s)
				if want == "" {
					want = fmt.Sprint(int(s))
				}
				p.await("\n" + want + "\n")
			}
			if code := p.wait(); code != 0 {
				e.Errorf("%s: exit code %d", p.ID(), code)
			}
		}
	})
}

// A signal without a handler ends a process, with 128 and the signal as its
// exit code; but not a pid namespace's init.
func TestDeadlySignals(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		for _, s := range []unix.Signal{unix.SIGHUP, unix.SIGTERM, unix.SIGSEGV, unix.SIGABRT, unix.SIGKILL, 40} {
			b.kill(0)
			if s != unix.SIGKILL {
				b.kill(s)
			}
			p := b.exec([]string{"/bin/still"})
			p.kill(s)
			if r := p.end(); r.code != 128+int(s) {
				e.Errorf("signal %d: exit code %d", int(s), r.code)
			}
		}
		if s := b.state(); s != client.Running {
			e.Errorf("init is %s after signals that it has no handler for", s)
		}
		b.kill(unix.SIGKILL)
		b.wait()
		if err := b.Kill(e.ctx, unix.SIGTERM); !errdefs.IsNotFound(err) {
			e.Errorf("kill of a finished task: %v", err)
		}
	})
}

func TestKillCreated(t *testing.T) {
	each(t, func(e *env) {
		b := e.create(still())
		b.kill(unix.SIGKILL)
		if code := b.wait(); code != 137 {
			e.Errorf("exit code %d", code)
		}
		if err := b.task.Start(e.ctx); err == nil {
			e.Error("a killed container can be started")
		}
	})
}

func TestKillPaused(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		e.must(b.task.Pause(e.ctx))
		b.kill(unix.SIGKILL)
		if code := b.wait(); code != 137 {
			e.Errorf("exit code %d", code)
		}
	})
}

// Kill with "all" reaches every process of the container, and none besides.
func TestKillAll(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(testbox("spawn", "3", "trap"), withSpec(oci.WithHostNamespace(specs.PIDNamespace)))
		other := e.launch(testbox("trap"), withSpec(oci.WithHostNamespace(specs.PIDNamespace)))
		b.await("spawned 3")
		other.await("ready")
		exec := b.exec([]string{"/bin/testbox", "trap"})
		exec.await("ready")
		e.must(b.out.AwaitFunc(e.ctx, "three children", func(all string) bool { return strings.Count(all, "ready") == 3 }))

		e.must(b.task.Kill(e.ctx, unix.SIGKILL, client.WithKillAll))
		if code := exec.wait(); code != 137 {
			e.Errorf("exec: exit code %d", code)
		}
		if code := b.wait(); code != 137 {
			e.Errorf("init: exit code %d", code)
		}
		if s := other.state(); s != client.Running {
			e.Errorf("the other container is %s", s)
		}
		other.kill(unix.SIGTERM)
		if code := other.wait(); code != 0 {
			e.Errorf("the other container: exit code %d, want 0 by its own handler", code)
		}
	})
}

// With the host's pid namespace nothing but the runtime ends the children.
func TestInitExitEndsAll(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(testbox("all", "background", "sleep", "inf", "--", "background", "sleep", "inf"),
			withSpec(oci.WithHostNamespace(specs.PIDNamespace)))
		if code := b.wait(); code != 0 {
			e.Errorf("exit code %d", code)
		}
		var pids []int
		for _, line := range strings.Split(strings.TrimSpace(b.out.String()), "\n") {
			var pid int
			if _, err := fmt.Sscanf(line, "background %d", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
		if len(pids) != 2 {
			e.Fatalf("output %q", b.out)
		}
		b.remove()
		for _, pid := range pids {
			// A zombie is dead; whose child it now is reaps it soon.
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err == nil && !strings.Contains(string(stat), ") Z ") {
				e.Errorf("child %d outlives its container: %s", pid, stat)
			}
		}
	})
}

func TestPids(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(testbox("spawn", "2", "sleep", "inf"))
		b.await("spawned")
		exec := b.exec([]string{"/bin/still"})
		infos, err := b.task.Pids(e.ctx)
		e.must(err)
		var pids []uint32
		for _, i := range infos {
			pids = append(pids, i.Pid)
			if (i.Info != nil) != (i.Pid == exec.Pid()) {
				e.Errorf("pid %d has info %v; the exec is %d", i.Pid, i.Info, exec.Pid())
			}
		}
		if len(pids) != 4 || !slices.Contains(pids, b.Pid()) || !slices.Contains(pids, exec.Pid()) {
			e.Errorf("pids %v, want four with %d and %d", pids, b.Pid(), exec.Pid())
		}
	})
}

// Calls on one container don't wait for those on another, and each container
// keeps its own output.
func TestManyAtOnce(t *testing.T) {
	each(t, func(e *env) {
		var wg sync.WaitGroup
		for i := range count(8, 32) {
			wg.Go(func() {
				word := fmt.Sprint("container-", i)
				b, err := e.tryCreate(testbox("all", "echo", word, "--", "exit", fmt.Sprint(i)))
				if err != nil {
					e.Error(err)
					return
				}
				if err := b.task.Start(e.ctx); err != nil {
					e.Error(err)
					return
				}
				status := <-b.exit
				b.task.IO().Wait()
				if _, err := b.task.Delete(e.ctx); err != nil {
					e.Error(err)
				}
				if b.out.String() != word+"\n" || int(status.ExitCode()) != i {
					e.Errorf("%s: %q, exit code %d", word, b.out, status.ExitCode())
				}
			})
		}
		wg.Wait()
	})
}

func TestAbsoluteRuntimePath(t *testing.T) {
	each(t, func(e *env) {
		r := e.run(testbox("echo", "by path"), withTask(client.WithRuntimePath(e.runtime.Shim)))
		if r.out != "by path\n" {
			e.Errorf("%+v", r)
		}
	})
}

// A root file system without an overlay.
func TestNativeSnapshotter(t *testing.T) {
	each(t, func(e *env) {
		r := e.run(testbox("echo", "native"), func(s *setup) {
			s.ownSnapshot = true
			s.container = append(s.container, client.WithSnapshotter("native"), client.WithNewSnapshot(s.id, s.image))
		})
		if r.out != "native\n" {
			e.Errorf("%+v", r)
		}
	})
}
