package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

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
		e.oracleLeaves("/s/", "the socket of a killed shim stays until the same id returns")
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

// A pod's shim serves several containers. When it dies, containerd runs delete for
// the first one, and for the others later, at the same time, or, before 2.3, never:
// none must live on, each has its own exit, and its poststop hooks run once.
func TestPodShimDies(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("it leaves the members of a pod running")
		for _, annotation := range groupings {
			for _, together := range []bool{false, true} {
				name, hooks := newID(), s.dir()
				group := withSpec(oci.WithAnnotations(map[string]string{annotation: name}))
				first := s.launch(still(), withID(name), group)
				var members []*task
				var pids []uint32
				for _, program := range []opt{still(), testbox("exit", "7"), still(), testbox("spawn", "3", "sleep", "inf")} {
					m := first.newMember(program, group, edit(func(spec *specs.Spec) {
						spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{{
							Path: "/bin/sh", Args: []string{"sh", "-c", "echo x >>" + filepath.Join(hooks, fmt.Sprint(len(members)))}, Env: []string{"PATH=/bin"},
						}}}
					}))
					s.must(m.create())
					own, err := m.pids()
					s.must(err)
					pids = append(pids, own...)
					if members = append(members, m); len(members) > 1 { // one stays as it is
						s.must(m.start(""))
					}
				}
				_, err := members[1].wait("")
				s.must(err)
				s.must(first.Signal(unix.SIGKILL))
				s.must(first.Gone(s.ctx))
				end := func(t *task, status uint32) {
					answer, warn, err := s.peer.Delete(s.ctx, s.call(), t.Bundle)
					if err != nil || answer.ExitStatus != status || answer.Pid == 0 {
						s.Errorf("delete of %s: %v, %v", t.id, answer, err)
					}
					if warn != "" {
						s.Logf("%s: warnings of delete: %s", annotation, warn)
					}
				}
				statuses := []uint32{137, 7, 137, 137}
				if together {
					var wg sync.WaitGroup
					wg.Go(func() { end(first, 137) })
					for i, m := range members {
						wg.Go(func() { end(m, statuses[i]) })
					}
					wg.Wait()
				} else {
					end(first, 137)
				}
				for _, pid := range pids {
					if state := (procFS{dir: fmt.Sprint("/proc/", pid)}).status()["State"]; state != "" && !strings.HasPrefix(state, "Z") {
						s.Errorf("%s: process %d of a member lives: %s", annotation, pid, state)
					}
				}
				for i, m := range members {
					if !together {
						end(m, statuses[i])
					}
					if ran, err := os.ReadFile(filepath.Join(hooks, fmt.Sprint(i))); string(ran) != "x\n" {
						s.Errorf("the poststop hook of %s: %q (%v)", m.id, ran, err)
					}
					if _, err := os.Stat(filepath.Join(m.Bundle.Dir, "container.json")); err == nil {
						s.Errorf("the record of %s is still there", m.id)
					}
				}
			}
		}
	})
}

// A shim that is told to exit still has its container when containerd, which can
// connect to it no more, runs delete.
func TestDeleteWhileTheShimEnds(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("its containers go on when it is told to exit")
		c := s.launch(still())
		state, err := c.state("")
		s.must(err)
		s.must(s.peer.Events.Close()) // it has something left to tell
		s.must(c.exec("e", nil, "/bin/still"))
		s.must(c.Signal(unix.SIGTERM))
		for range 1000 {
			if _, err := c.Again(s.ctx); err != nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		answer, _, err := s.peer.Delete(s.ctx, s.call(), c.Bundle)
		s.must(err)
		if answer.Pid != state.Pid || answer.ExitStatus != 137 {
			s.Errorf("delete answers %v", answer)
		}
		if state := (procFS{dir: fmt.Sprint("/proc/", state.Pid)}).status()["State"]; state != "" && !strings.HasPrefix(state, "Z") {
			s.Errorf("the container lives: %s", state)
		}
		if _, err := os.Stat(filepath.Join(c.Bundle.Dir, "container.json")); err == nil {
			s.Error("the record is still there")
		}
		s.must(s.peer.Events.Serve())
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
