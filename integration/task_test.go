package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

// Code is the name of an error's class, as containerd's clients tell them apart.
func code(err error) string {
	for _, c := range []struct {
		name string
		is   func(error) bool
	}{
		{"NotFound", errdefs.IsNotFound}, {"AlreadyExists", errdefs.IsAlreadyExists},
		{"FailedPrecondition", errdefs.IsFailedPrecondition}, {"InvalidArgument", errdefs.IsInvalidArgument},
		{"NotImplemented", errdefs.IsNotImplemented}, {"Canceled", errdefs.IsCanceled},
		{"DeadlineExceeded", errdefs.IsDeadlineExceeded}, {"Unavailable", errdefs.IsUnavailable},
	} {
		if c.is(err) {
			return c.name
		}
	}
	if err == nil {
		return "ok"
	}
	return "Unknown"
}

func update(t *task, r specs.LinuxResources) error {
	data, err := json.Marshal(r)
	t.s.must(err)
	_, err = t.Update(t.s.ctx, &taskv3.UpdateTaskRequest{ID: t.id, Resources: &anypb.Any{
		TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: data}})
	return errgrpc.ToNative(err)
}

func stats(t *task) error {
	_, err := t.Stats(t.s.ctx, &taskv3.StatsRequest{ID: t.id})
	return errgrpc.ToNative(err)
}

func resize(t *task, execID string) error {
	_, err := t.ResizePty(t.s.ctx, &taskv3.ResizePtyRequest{ID: t.id, ExecID: execID, Width: 80, Height: 25})
	return errgrpc.ToNative(err)
}

// The calls of the tables below.
var calls = map[string]func(t *task) error{
	"create":       (*task).createAgain,
	"start":        func(t *task) error { return t.start("") },
	"state":        func(t *task) error { _, err := t.state(""); return err },
	"wait":         func(t *task) error { _, err := t.wait(""); return err },
	"delete":       func(t *task) error { _, err := t.delete(""); return err },
	"kill 0":       func(t *task) error { return t.kill("", 0) },
	"kill TERM":    func(t *task) error { return t.kill("", unix.SIGTERM) },
	"pids":         func(t *task) error { _, err := t.pids(); return err },
	"pause":        (*task).pause,
	"resume":       (*task).resume,
	"close stdin":  func(t *task) error { return t.closeIO("") },
	"resize":       func(t *task) error { return resize(t, "") },
	"stats":        stats,
	"update":       func(t *task) error { return update(t, specs.LinuxResources{}) },
	"exec":         func(t *task) error { return t.exec("new", nil, "/bin/still") },
	"checkpoint":   (*task).checkpoint,
	"connect":      (*task).connect,
	"exec start":   func(t *task) error { return t.start("none") },
	"exec state":   func(t *task) error { _, err := t.state("none"); return err },
	"exec kill":    func(t *task) error { return t.kill("none", unix.SIGTERM) },
	"exec wait":    func(t *task) error { _, err := t.wait("none"); return err },
	"exec delete":  func(t *task) error { _, err := t.delete("none"); return err },
	"exec resize":  func(t *task) error { return resize(t, "none") },
	"exec closeio": func(t *task) error { return t.closeIO("none") },
	"start exec":   func(t *task) error { return t.start("E") }, // one that was added before
}

func (t *task) createAgain() error {
	_, err := t.Create(t.s.ctx, &taskv3.CreateTaskRequest{ID: t.id, Bundle: t.Bundle.Dir})
	return errgrpc.ToNative(err)
}

func (t *task) checkpoint() error {
	_, err := t.Checkpoint(t.s.ctx, &taskv3.CheckpointTaskRequest{ID: t.id, Path: t.Bundle.Dir + "/checkpoint"})
	return errgrpc.ToNative(err)
}

func (t *task) connect() error {
	r, err := t.Connect(t.s.ctx, &taskv3.ConnectRequest{ID: t.id})
	if err == nil && int(r.ShimPid) != t.Pid {
		err = fmt.Errorf("shim pid %d, want %d", r.ShimPid, t.Pid)
	}
	return errgrpc.ToNative(err)
}

// What is refused, and how. Where the runc shim has its own opinion it stands
// in the last column: mostly plain errors without a code.
var refusals = []struct{ state, call, want, runc string }{
	{"none", "start", "NotFound", ""},
	{"none", "state", "NotFound", ""},
	{"none", "wait", "NotFound", ""},
	{"none", "delete", "NotFound", ""},
	{"none", "kill TERM", "NotFound", ""},
	{"none", "pids", "NotFound", ""},
	{"none", "pause", "NotFound", ""},
	{"none", "resume", "NotFound", ""},
	{"none", "stats", "NotFound", ""},
	{"none", "update", "NotFound", ""},
	{"none", "exec", "NotFound", ""},
	{"none", "resize", "NotFound", ""},
	{"none", "close stdin", "NotFound", ""},
	{"none", "connect", "ok", ""},

	{"created", "create", "AlreadyExists", "Unknown"},
	{"created", "state", "ok", ""},
	{"created", "kill 0", "ok", ""},
	{"created", "pids", "ok", ""},
	{"created", "resume", "FailedPrecondition", "Unknown"},
	{"created", "stats", "ok", ""},
	{"created", "update", "ok", ""},
	{"created", "close stdin", "ok", ""},
	{"created", "resize", "ok", ""},
	{"created", "connect", "ok", ""},

	{"running", "create", "AlreadyExists", "Unknown"},
	{"running", "start", "FailedPrecondition", "Unknown"},
	{"running", "delete", "FailedPrecondition", "Unknown"},
	{"running", "kill 0", "ok", ""},
	{"running", "resume", "FailedPrecondition", "Unknown"},
	{"running", "update", "ok", ""},
	{"running", "resize", "ok", ""},
	{"running", "close stdin", "ok", ""},
	{"running", "checkpoint", "NotImplemented", "Unknown"},
	{"running", "exec start", "NotFound", ""},
	{"running", "exec state", "NotFound", ""},
	{"running", "exec kill", "NotFound", ""},
	{"running", "exec wait", "NotFound", ""},
	{"running", "exec delete", "NotFound", ""},
	{"running", "exec resize", "NotFound", ""},
	{"running", "exec closeio", "NotFound", "Unknown"},

	{"paused", "start", "FailedPrecondition", "Unknown"},
	{"paused", "delete", "FailedPrecondition", "Unknown"},
	{"paused", "pause", "FailedPrecondition", "Unknown"},
	{"paused", "exec", "FailedPrecondition", "Unknown"},
	{"paused", "start exec", "FailedPrecondition", "Unknown"},
	{"paused", "state", "ok", ""},
	{"paused", "pids", "ok", ""},
	{"paused", "stats", "ok", ""},
	{"paused", "update", "ok", ""},
	{"paused", "kill 0", "ok", ""},

	{"stopped", "create", "AlreadyExists", "Unknown"},
	{"stopped", "start", "FailedPrecondition", "Unknown"},
	{"stopped", "state", "ok", ""},
	{"stopped", "wait", "ok", ""},
	{"stopped", "kill TERM", "NotFound", ""},
	{"stopped", "pause", "FailedPrecondition", "Unknown"},
	{"stopped", "resume", "FailedPrecondition", "Unknown"},
	{"stopped", "exec", "FailedPrecondition", "Unknown"},
	{"stopped", "start exec", "FailedPrecondition", ""},
	{"stopped", "update", "FailedPrecondition", "Unknown"},
	{"stopped", "stats", "ok", ""},
	{"stopped", "resize", "ok", ""},
	{"stopped", "close stdin", "ok", ""},
	// An empty list would make a restarted containerd throw the exit status away.
	{"stopped", "pids", "FailedPrecondition", "ok"},

	{"deleted", "start", "NotFound", ""},
	{"deleted", "state", "NotFound", ""},
	{"deleted", "wait", "NotFound", ""},
	{"deleted", "delete", "NotFound", ""},
	{"deleted", "kill TERM", "NotFound", ""},
	{"deleted", "exec", "NotFound", ""},
	{"deleted", "connect", "ok", ""},
}

func TestRefusals(t *testing.T) {
	eachPeer(t, func(s *stage) {
		for _, state := range []string{"none", "created", "running", "paused", "stopped", "deleted"} {
			c := s.shim(still())
			c.bring(state)
			for _, r := range refusals {
				want := r.want
				if s.oracle() && r.runc != "" {
					want = r.runc
				}
				if r.state != state {
					continue
				}
				err := calls[r.call](c)
				if got := code(err); got != want {
					s.Errorf("%s of a %s container: %s (%v), want %s", r.call, state, got, err, want)
				}
			}
		}
	})
}

// Bring a container that isn't created yet into a state.
func (t *task) bring(state string) {
	t.s.Helper()
	if state == "none" {
		return
	}
	t.s.must(t.create())
	if state == "created" {
		return
	}
	t.s.must(t.start(""))
	if state == "running" {
		return
	}
	t.s.must(t.exec("E", nil, "/bin/still"))
	if state == "paused" {
		t.s.must(t.pause())
		return
	}
	t.s.must(t.kill("", unix.SIGKILL))
	_, err := t.wait("")
	t.s.must(err)
	if state == "deleted" {
		_, err := t.delete("")
		t.s.must(err)
	}
}

func TestExecStates(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		want := func(what string, err error, want, runc string) {
			s.Helper()
			if s.oracle() && runc != "" {
				want = runc
			}
			if got := code(err); got != want {
				s.Errorf("%s: %s (%v), want %s", what, got, err, want)
			}
		}
		s.must(c.exec("E", nil, "/bin/still"))
		want("kill of an exec that isn't started", c.kill("E", unix.SIGTERM), "FailedPrecondition", "")
		want("the same id", c.exec("E", nil, "/bin/still"), "AlreadyExists", "")
		s.must(c.start("E"))
		if !s.oracle() { // it miscounts the running execs and panics when init exits
			want("start again", c.start("E"), "FailedPrecondition", "")
		}
		_, err := c.delete("E")
		want("delete of a running exec", err, "FailedPrecondition", "Unknown")
		state, err := c.state("E")
		s.must(err)
		if state.Status != tasktypes.Status_RUNNING || state.Pid == 0 || state.ID != "E" {
			s.Errorf("state %+v", state)
		}
		s.must(c.kill("E", unix.SIGKILL))
		exit, err := c.wait("E")
		s.must(err)
		again, err := c.wait("E")
		s.must(err)
		if exit.ExitStatus != 137 || !again.ExitedAt.AsTime().Equal(exit.ExitedAt.AsTime()) {
			s.Errorf("waits answer %v and %v", exit, again)
		}
		want("kill of a finished exec", c.kill("E", unix.SIGTERM), "NotFound", "")
		if !s.oracle() {
			want("start of a finished exec", c.start("E"), "FailedPrecondition", "")
		}
		want("resize of a finished exec", resize(c, "E"), "ok", "Unknown")
		want("close of a finished exec's stdin", c.closeIO("E"), "ok", "")
		deleted, err := c.delete("E")
		s.must(err)
		if deleted.Pid != state.Pid || deleted.ExitStatus != 137 {
			s.Errorf("delete answers %v", deleted)
		}
		_, err = c.delete("E")
		want("delete of a deleted exec", err, "NotFound", "")
	})
}

// State tells everything that containerd and its clients take from it, also of
// a process that has ended.
func TestState(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.shim(testbox("exit", "9"))
		s.must(c.create())
		check := func(status tasktypes.Status, exit uint32) {
			s.Helper()
			st, err := c.state("")
			s.must(err)
			if st.ID != c.id || st.Bundle != c.Bundle.Dir || st.Pid == 0 || st.Status != status || st.ExitStatus != exit || st.Terminal ||
				st.Stdin != c.streams.stdin() || st.Stdout != c.streams.out.path || st.Stderr != c.streams.err.path {
				s.Errorf("state %+v, want %v with exit status %d", st, status, exit)
			}
		}
		check(tasktypes.Status_CREATED, 0)
		s.must(c.start(""))
		_, err := c.wait("")
		s.must(err)
		check(tasktypes.Status_STOPPED, 9)
	})
}

// Wait returns no earlier than State shows the end.
func TestWaitThenState(t *testing.T) {
	eachPeer(t, func(s *stage) {
		for range count(5, 200) {
			c := s.launch(testbox("exit", "1"))
			exit, err := c.wait("")
			s.must(err)
			st, err := c.state("")
			s.must(err)
			if st.Status != tasktypes.Status_STOPPED || st.ExitStatus != 1 || !st.ExitedAt.AsTime().Equal(exit.ExitedAt.AsTime()) {
				s.Errorf("state %+v after %v", st, exit)
			}
			c.finish()
		}
	})
}

// Whoever waits for a container that is deleted before it starts is answered.
func TestWaitersOfDeletedCreated(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("Delete of a created container never releases its waiters")
		c := s.shim(still())
		s.must(c.create())
		done := make(chan error, 3)
		for range cap(done) {
			go func() {
				_, err := c.wait("")
				done <- err
			}()
		}
		// A wait that the shim hasn't read yet would be answered NotFound.
		_, err := c.state("")
		s.must(err)
		_, err = c.delete("")
		s.must(err)
		for range cap(done) {
			select {
			case err := <-done:
				if err != nil && !errdefs.IsNotFound(err) {
					s.Errorf("wait: %v", err)
				}
			case <-time.After(20 * time.Second):
				s.Fatal("a waiter is never answered")
			}
		}
	})
}

// A waiter who gives up gets his context's error, and others are unaffected.
func TestWaitCanceled(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		ctx, cancel := context.WithTimeout(s.ctx, 50*time.Millisecond)
		defer cancel()
		if _, err := c.Wait(ctx, &taskv3.WaitRequest{ID: c.id}); !errors.Is(err, context.DeadlineExceeded) && code(errgrpc.ToNative(err)) != "DeadlineExceeded" {
			s.Errorf("wait with a deadline: %v", err)
		}
		s.must(c.kill("", unix.SIGKILL))
		if _, err := c.wait(""); err != nil {
			s.Error(err)
		}
	})
}

// Delete is answered once more, or NotFound, but never strangely, however many
// call it at the same time.
func TestDeleteAtOnce(t *testing.T) {
	eachPeer(t, func(s *stage) {
		for range count(5, 50) {
			c := s.launch(testbox("exit", "6"))
			_, err := c.wait("")
			s.must(err)
			var wg sync.WaitGroup
			var mu sync.Mutex
			codes := map[string]int{}
			for range 8 {
				wg.Go(func() {
					r, err := c.delete("")
					mu.Lock()
					defer mu.Unlock()
					codes[code(err)]++
					if err == nil && r.ExitStatus != 6 {
						s.Errorf("delete answers %v", r)
					}
					if err != nil && !errdefs.IsNotFound(err) && !s.oracle() { // runc's errors of a second removal
						s.Errorf("delete at the same time: %v", err)
					}
				})
			}
			wg.Wait()
			if codes["ok"] == 0 {
				s.Errorf("no delete succeeded: %v", codes)
			}
			s.must(c.shutdown())
			s.must(c.Gone(s.ctx))
		}
	})
}

// State is answered while Delete waits for the output of a child that lives on.
func TestStateDuringDelete(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("State waits for the lock that Delete holds")
		c := s.launch(testbox("background", "sleep", "inf"), withSpec(oci.WithHostNamespace(specs.PIDNamespace)))
		_, err := c.wait("")
		s.must(err)
		deleted := make(chan error, 1)
		go func() {
			_, err := c.delete("")
			deleted <- err
		}()
		for {
			ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
			_, err := c.State(ctx, &taskv3.StateRequest{ID: c.id})
			cancel()
			if err := errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
				s.Errorf("state during delete: %v", err)
			}
			select {
			case err := <-deleted:
				s.must(err)
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
}

// A slow call on one container of a pod holds up nobody else.
func TestCallsDontWaitForEachOther(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		var slow sync.WaitGroup
		for i := range 10 {
			m := c.newMember(still())
			slow.Go(func() {
				if err := errors.Join(m.create(), m.start(""), m.kill("", unix.SIGKILL)); err != nil {
					s.Errorf("member %d: %v", i, err)
				}
				_, werr := m.wait("")
				_, derr := m.delete("")
				if err := errors.Join(werr, derr); err != nil {
					s.Errorf("member %d: %v", i, err)
				}
			})
		}
		done := make(chan struct{})
		go func() { slow.Wait(); close(done) }()
		for n := 0; ; n++ {
			ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second) // containerd's own limit for State
			_, err := c.State(ctx, &taskv3.StateRequest{ID: c.id})
			cancel()
			s.must(err)
			select {
			case <-done:
				if n == 0 {
					s.Error("no state was answered meanwhile")
				}
				return
			default:
			}
		}
	})
}

// Concurrent creates of one id: one succeeds, the others say so.
func TestCreateAtOnce(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("concurrent creates of one id reach runc, and the losers' clean-up unmounts the winner's root")
		c := s.shim(still())
		c.streams = s.newStreams(c.id, false)
		codes := make(chan string, 8)
		for range cap(codes) {
			go func() { codes <- code(c.createWith(c.streams.request())) }()
		}
		count := map[string]int{}
		for range cap(codes) {
			count[<-codes]++
		}
		if count["ok"] != 1 || count["AlreadyExists"] != cap(codes)-1 {
			s.Errorf("answers %v", count)
		}
		s.must(c.start(""))
	})
}

// The shim stays while it has containers, and ends when it is told to without.
func TestShutdown(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		m := c.newMember(still())
		m.launch()
		s.must(c.kill("", unix.SIGKILL))
		_, err := c.wait("")
		s.must(err)
		_, err = c.delete("")
		s.must(err)
		s.must(c.shutdown())
		if st, err := m.state(""); err != nil || st.Status != tasktypes.Status_RUNNING {
			s.Errorf("the pod's other container: %v, %v", st, err)
		}
		s.must(m.kill("", unix.SIGKILL))
		m.finish()
	})
}

// An unused shim ends when it is told to: containerd does so when Create fails.
func TestShutdownUnused(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.shim(still())
		s.must(c.shutdown())
		s.must(c.Gone(s.ctx))
	})
}

// After a failed Create the same id can be created in the same shim, and the
// failure has left nothing.
func TestCreateAfterFailure(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("it keeps its record of the failed init process, so that the next Create fails")
		c := s.shim(still())
		rootfs := c.Bundle.Rootfs
		c.Bundle.Rootfs = nil
		err := c.create()
		if err == nil || !strings.Contains(err.Error(), "/bin/still") {
			s.Errorf("create with an empty root: %v", err)
		}
		if _, err := c.state(""); !errdefs.IsNotFound(err) {
			s.Errorf("state after a failed create: %v", err)
		}
		c.streams.close()
		c.Bundle.Rootfs = rootfs
		s.must(c.create())
		s.must(c.start(""))
	})
}

// Version 2 of the service is the same, for containerd 1.7 and for downgrades.
func TestServiceVersion2(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("since 2.3 it only serves version 3")
		c := s.shim(testbox("exit", "2"))
		c.TTRPCTaskService = c.Speak(2)
		c.launch()
		exit, err := c.wait("")
		s.must(err)
		state, err := c.state("")
		s.must(err)
		deleted, err := c.delete("")
		s.must(err)
		if exit.ExitStatus != 2 || state.Status != tasktypes.Status_STOPPED || deleted.ExitStatus != 2 {
			s.Errorf("%v %v %v", exit, state, deleted)
		}
	})
}
