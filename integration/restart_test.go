package integration

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/myshim/myshim/integration/harness"
	"golang.org/x/sys/unix"
)

// Restart kills containerd, lets things happen, and starts it again.
func (e *env) restart(meanwhile func()) {
	e.Helper()
	e.must(e.daemon.Kill())
	if meanwhile != nil {
		meanwhile()
	}
	e.must(e.daemon.Start(e.ctx))
}

// Reload finds the task again, with new readers on the old FIFOs.
func (b *box) reload() {
	b.e.Helper()
	b.out, b.err = &harness.Buffer{}, &harness.Buffer{}
	task, err := b.c.Task(b.e.ctx, cio.NewAttach(cio.WithStreams(nil, b.out, b.err)))
	b.e.must(err)
	b.task, b.Process = task, task
	b.exit, err = task.Wait(b.e.ctx)
	b.e.must(err)
}

// Containers don't notice that containerd is killed and comes back.
func TestContainerdRestart(t *testing.T) {
	ownDaemon(t, func(e *env) {
		running := e.launch(testbox("trap"))
		running.await("ready")
		created := e.create(testbox("exit", "8"))
		paused := e.launch(still())
		e.must(paused.task.Pause(e.ctx))
		pid, shim := running.Pid(), running.shimPid()

		for range count(2, 10) {
			e.restart(nil)
			for what, want := range map[*box]client.ProcessStatus{running: client.Running, created: client.Created, paused: client.Paused} {
				what.reload()
				if s := what.state(); s != want {
					e.Errorf("after the restart: %s, want %s", s, want)
				}
			}
			if running.Pid() != pid || running.shimPid() != shim {
				e.Errorf("pid %d of shim %d, want %d of %d", running.Pid(), running.shimPid(), pid, shim)
			}
			if r := running.execRun([]string{"echo", "exec"}); r.out != "exec\n" {
				e.Errorf("exec after the restart: %+v", r)
			}
		}
		e.must(created.task.Start(e.ctx))
		if code := created.wait(); code != 8 {
			e.Errorf("created before, started after: exit code %d", code)
		}
		e.must(paused.task.Resume(e.ctx))
		running.kill(unix.SIGTERM)
		if code := running.wait(); code != 0 {
			e.Errorf("exit code %d", code)
		}
		running.remove()
		created.remove()
		paused.remove()
	})
}

// Output that is written while containerd is away arrives when a reader is back.
func TestOutputOverRestart(t *testing.T) {
	ownDaemon(t, func(e *env) {
		b := e.launch(testbox("trap"))
		b.await("ready")
		pid := int(b.Pid())
		b.task.IO().Cancel() // the client goes away as well
		e.restart(func() { e.must(unix.Kill(pid, unix.SIGUSR1)) })
		b.reload()
		b.await("SIGUSR1\n")
		b.kill(unix.SIGUSR2)
		b.await("SIGUSR2\n")
		b.remove()
	})
}

// A container that ends while containerd is away has its exit code afterwards.
func TestExitWhileContainerdIsDown(t *testing.T) {
	ownDaemon(t, func(e *env) {
		e.weakness("containerd finds no pids in it, and throws the task away with its exit code")
		var boxes []*box
		for range 5 {
			b := e.launch(testbox("trap", "USR1"))
			b.await("ready")
			boxes = append(boxes, b)
		}
		e.restart(func() {
			for i, b := range boxes {
				signal := unix.SIGUSR1 // ends it with 0
				if i%2 == 1 {
					signal = unix.SIGKILL
				}
				e.must(unix.Kill(int(b.Pid()), signal))
				e.must(waitGone(b.Pid()))
			}
		})
		for i, b := range boxes {
			b.reload()
			want := 0
			if i%2 == 1 {
				want = 137
			}
			if s := b.state(); s != client.Stopped {
				e.Errorf("container %d is %s", i, s)
			}
			if code := b.wait(); code != want {
				e.Errorf("container %d: exit code %d, want %d", i, code, want)
			}
			b.remove()
		}
	})
}

// WaitGone waits until a process has ended, by a descriptor for it.
func waitGone(pid uint32) error {
	fd, err := unix.PidfdOpen(int(pid), 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
	return err
}

// Containerd's own shutdown and start are no different, and the shim keeps no
// connection or descriptor of the time before.
func TestOrderlyRestarts(t *testing.T) {
	ownDaemon(t, func(e *env) {
		b := e.launch(still())
		shim := b.shimPid()
		var before harness.Vitals
		for i := range count(5, 50) {
			e.restart(nil)
			b.reload()
			if r := b.execRun([]string{"true"}); r.code != 0 {
				e.Errorf("exec: %+v", r)
			}
			if i == 1 { // descriptors that are made once are there by now
				before = e.vitals(shim)
			}
		}
		e.notGrown(before, shim)
		b.remove()
	})
}

func (e *env) vitals(pid int) harness.Vitals {
	e.Helper()
	v, err := harness.ReadVitals(pid)
	e.must(err)
	if e.oracle() { // it leaves its pidfds and some terminals to the garbage collector
		v.FDs = slices.DeleteFunc(v.FDs, func(fd string) bool {
			return strings.HasSuffix(fd, "[pidfd]") || strings.HasSuffix(fd, "/ptmx")
		})
	}
	return v
}

// NotGrown compares a shim with what it was when it had the same containers, in
// a moment when it has nothing more to do. A Go program makes threads as it needs
// them: a few more are no leak.
func (e *env) notGrown(before harness.Vitals, shim int) {
	e.Helper()
	after := e.vitals(shim)
	for range 100 {
		if len(after.FDs) <= len(before.FDs) {
			break
		}
		time.Sleep(20 * time.Millisecond)
		after = e.vitals(shim)
	}
	if len(after.FDs) > len(before.FDs) {
		e.Errorf("descriptors grew from %d to %d:\n\t%s", len(before.FDs), len(after.FDs), strings.Join(after.FDs, "\n\t"))
	}
	if after.Threads > before.Threads+8 {
		e.Errorf("threads grew from %d to %d", before.Threads, after.Threads)
	}
}

// A container that is removed while containerd restarts leaves nothing: the
// bundles of both runtimes are found again.
func TestShimDiesWhileContainerdIsDown(t *testing.T) {
	ownDaemon(t, func(e *env) {
		e.oracleLeaves("/s/", "the socket of a killed shim stays until the same id returns")
		b := e.launch(testbox("spawn", "3", "sleep", "inf"))
		pid, shim := b.Pid(), b.shimPid()
		e.restart(func() {
			e.must(unix.Kill(shim, unix.SIGKILL))
			e.must(waitGone(uint32(shim)))
		})
		e.must(waitGone(pid))
		if entries, err := filepath.Glob(e.daemon.Bundle(b.c.ID()) + "/*"); err != nil || len(entries) > 0 {
			e.Errorf("the bundle holds %q, %v", entries, err)
		}
		if _, err := b.c.Task(e.ctx, nil); err == nil {
			e.Error(fmt.Errorf("the task is still there"))
		}
	})
}
