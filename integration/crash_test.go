package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ShimOf finds a container's shim: the parent of its init.
func (b *box) shimPid() int {
	b.e.Helper()
	pid := procFS{dir: fmt.Sprintf("/proc/%d", b.Pid())}.status()["PPid"]
	var parent int
	if _, err := fmt.Sscan(pid, &parent); err != nil || parent == os.Getpid() {
		b.e.Fatalf("parent of %d is %q", b.Pid(), pid)
	}
	return parent
}

// KillShim as the kernel's OOM killer does, and wait until containerd has cleaned
// up after it. The shim is one of ours, alive and with a container, so its number
// is its own.
func (b *box) killShim() {
	b.e.Helper()
	events, errs := b.e.daemon.Client.Subscribe(b.e.ctx, `topic=="/tasks/delete"`)
	b.e.must(unix.Kill(b.shimPid(), unix.SIGKILL))
	for {
		select {
		case envelope := <-events:
			body, err := typeurl.UnmarshalAny(envelope.Event)
			b.e.must(err)
			if body.(*eventsapi.TaskDelete).ContainerID == b.c.ID() {
				return
			}
		case err := <-errs:
			b.e.Fatalf("no delete event for a dead shim: %v", err)
		}
	}
}

// Whatever a container is doing when its shim dies: nothing of it stays, and
// the same container can be started again.
func TestShimDies(t *testing.T) {
	each(t, func(e *env) {
		e.oracleLeaves("/s/", "row 21: the socket of a killed shim stays until the same id returns")
		for name, prepare := range map[string]func() *box{
			"created": func() *box { return e.create(still()) },
			"running": func() *box { return e.launch(testbox("spawn", "3", "sleep", "inf")) },
			"with execs": func() *box {
				b := e.launch(still())
				b.exec([]string{"/bin/still"})
				return b
			},
			"paused": func() *box {
				b := e.launch(still())
				e.must(b.task.Pause(e.ctx))
				return b
			},
			"in the host's pid namespace": func() *box {
				b := e.launch(testbox("spawn", "3", "sleep", "inf"), withSpec(oci.WithHostNamespace(specs.PIDNamespace)))
				b.await("spawned")
				return b
			},
		} {
			b := prepare()
			b.killShim()
			if s := <-b.exit; s.Error() == nil && s.ExitCode() == 0 {
				e.Errorf("%s: exit code 0", name)
			}
			if _, err := b.task.Status(e.ctx); !errdefs.IsNotFound(err) {
				e.Errorf("%s: status of the task of a dead shim: %v", name, err)
			}
			again, err := b.c.NewTask(e.ctx, cio.NullIO)
			for errdefs.IsAlreadyExists(err) { // containerd forgets the old one just after it told so
				again, err = b.c.NewTask(e.ctx, cio.NullIO)
			}
			if err != nil {
				e.Fatalf("%s: a new task after the crash: %v", name, err)
			}
			b.task, b.Process = again, again
			b.remove()
		}
	})
}

// A pod's shim serves several containers. When it dies containerd runs delete
// for the first alone: the others must not live on.
func TestPodShimDies(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("row 5: it leaves the members of a pod running")
		for _, annotation := range groupings {
			name := newID()
			group := withSpec(oci.WithAnnotations(map[string]string{annotation: name}))
			first := s.launch(still(), withID(name), group)
			var pids []uint32
			for i := range 3 {
				m := first.newMember(still(), group)
				if i == 0 { // in another state than the others
					s.must(m.create())
				} else {
					m.launch()
				}
				own, err := m.pids()
				s.must(err)
				pids = append(pids, own...)
			}
			s.must(first.Signal(unix.SIGKILL))
			s.must(first.Gone(s.ctx))
			_, warn, err := s.peer.Delete(s.ctx, s.call(), first.Bundle)
			s.must(err)
			if warn != "" {
				s.Logf("%s: warnings of delete: %s", annotation, warn)
			}
			for _, pid := range pids {
				if state := (procFS{dir: fmt.Sprint("/proc/", pid)}).status()["State"]; state != "" && !strings.HasPrefix(state, "Z") {
					s.Errorf("%s: process %d of a member lives: %s", annotation, pid, state)
				}
			}
		}
	})
}

// Delete tells how the container really ended, when it had ended.
func TestDeleteActionKnowsTheExit(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("its delete always answers 137 and now")
		c := s.launch(testbox("exit", "7"))
		exit, err := c.wait("")
		s.must(err)
		s.must(c.Signal(unix.SIGKILL))
		s.must(c.Gone(s.ctx))
		answer, _, err := s.peer.Delete(s.ctx, s.call(), c.Bundle)
		s.must(err)
		if answer.ExitStatus != 7 || !answer.ExitedAt.AsTime().Equal(exit.ExitedAt.AsTime()) {
			s.Errorf("delete answers %v, Wait said %v", answer, exit)
		}
	})
}

// The shim is killed at any moment of a create and start; delete then leaves
// nothing, which the check after the test sees.
func TestShimDiesAnytime(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("runc, which it runs, goes on alone and leaves what it was making")
		whole := s.shim(still())
		s.must(whole.create())
		s.must(whole.start(""))
		for i := range count(20, 300) {
			c := s.shim(still())
			c.streams = s.newStreams(c.id, false)
			done := make(chan struct{})
			go func() {
				defer close(done)
				if c.createWith(c.streams.request()) == nil {
					_ = c.start("")
				}
			}()
			// Each round a little later than the one before: over the whole of it.
			for n := range i * 200 {
				_ = n
				unix.Getpid()
			}
			s.must(c.Signal(unix.SIGKILL))
			<-done
			s.must(c.Gone(s.ctx))
			_, _, err := s.peer.Delete(s.ctx, s.call(), c.Bundle)
			s.must(err)
		}
		if _, err := whole.state(""); err != nil {
			s.Errorf("a container of another shim: %v", err)
		}
	})
}
