package integration

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/myshim/myshim/integration/harness"
	"golang.org/x/sys/unix"
)

// Brief is an event in one line: topic, container/exec in short, exit status.
func brief(names map[string]string, all []harness.Event) []string {
	var lines []string
	for _, e := range all {
		v := reflect.Indirect(reflect.ValueOf(e.Body))
		field := func(name string) string {
			f := v.FieldByName(name)
			if !f.IsValid() {
				return ""
			}
			return fmt.Sprint(f)
		}
		id, exec := field("ContainerID"), field("ExecID")+field("ID")
		if short, ok := names[id]; ok {
			id, exec = short, strings.TrimPrefix(exec, id)
		}
		if exec != "" {
			id += "/" + exec
		}
		lines = append(lines, strings.TrimSpace(strings.TrimPrefix(e.Topic, "/tasks/")+" "+id+" "+field("ExitStatus")))
	}
	return lines
}

// WantEvents waits for as many events as there are lines and compares.
func (s *stage) wantEvents(names map[string]string, want ...string) []harness.Event {
	s.Helper()
	all, err := s.peer.Events.Await(s.ctx, fmt.Sprintf("%d events %q", len(want), want), func(seen []harness.Event) bool { return len(seen) >= len(want) })
	s.must(err)
	if got := brief(names, all); !slices.Equal(got, want) {
		s.Errorf("events\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	return all
}

// DeleteAfterExit deletes a container that has ended. The runc shim may tell of
// the delete first when it is called before the exit has been told.
func (s *stage) deleteAfterExit(c *task) {
	s.Helper()
	if s.oracle() {
		_, err := s.peer.Events.Await(s.ctx, "exit", func(seen []harness.Event) bool {
			return slices.ContainsFunc(seen, func(e harness.Event) bool { return e.Topic == "/tasks/exit" })
		})
		s.must(err)
	}
	_, err := c.delete("")
	s.must(err)
}

func TestEventsOfALife(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.shim(testbox("exit", "3"))
		names := map[string]string{c.id: "C"}
		s.must(c.create())
		created := s.wantEvents(names, "create C")
		s.must(c.start(""))
		state, err := c.state("")
		s.must(err)
		exit, err := c.wait("")
		s.must(err)
		s.deleteAfterExit(c)
		all := s.wantEvents(names, "create C", "start C", "exit C 3", "delete C 3")

		create := created[0].Body.(*events.TaskCreate)
		if create.Bundle != c.Bundle.Dir || create.Pid != state.Pid || create.IO.GetStdout() != c.streams.out.path || create.IO.GetTerminal() || len(create.Rootfs) != 1 {
			s.Errorf("create event %+v", create)
		}
		for _, e := range all {
			if e.Namespace != harness.Tag {
				s.Errorf("namespace of %v: %q", e, e.Namespace)
			}
			if age := time.Since(e.Time); age < 0 || age > perTest() {
				s.Errorf("time of %v: %v", e, e.Time)
			}
			if pid := reflect.Indirect(reflect.ValueOf(e.Body)).FieldByName("Pid").Uint(); uint32(pid) != state.Pid {
				s.Errorf("pid of %v: want %d", e, state.Pid)
			}
		}
		if at := all[2].Body.(*events.TaskExit).ExitedAt.AsTime(); !at.Equal(exit.ExitedAt.AsTime()) {
			s.Errorf("exited at %v by the event, %v by Wait", at, exit.ExitedAt.AsTime())
		}
	})
}

// What containerd's own clients are told, each thing once.
func TestEventsThroughContainerd(t *testing.T) {
	each(t, func(e *env) {
		ctx, cancel := context.WithTimeout(e.ctx, time.Duration(patience())*20*time.Second) // one that is lost never comes
		defer cancel()
		envelopes, errs := e.daemon.Client.Subscribe(ctx, `topic~="^/tasks/"`)
		b := e.launch(testbox("exit", "2"))
		b.end()
		var topics []string
		for !slices.Contains(topics, "/tasks/delete") || !slices.Contains(topics, "/tasks/exit") {
			select {
			case envelope := <-envelopes:
				topics = append(topics, envelope.Topic)
			case err := <-errs:
				if e.oracle() {
					e.Skipf("runc's shim is gone before it has told of the exit: only %q", topics)
				}
				e.Fatalf("after %q: %v", topics, err)
			}
		}
		if e.oracle() { // see deleteAfterExit
			slices.Sort(topics[2:])
			topics[2], topics[3] = topics[3], topics[2]
		}
		if want := []string{"/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"}; !slices.Equal(topics, want) {
			e.Errorf("%q, want %q", topics, want)
		}
	})
}

func TestEventsOfExecs(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		names := map[string]string{c.id: "C"}
		s.must(c.exec("quick", nil, "/bin/testbox", "exit", "4"))
		s.must(c.start("quick"))
		_, err := c.wait("quick")
		s.must(err)
		s.wantEvents(names, "create C", "start C", "exec-added C/quick", "exec-started C/quick", "exit C/quick 4")
		_, err = c.delete("quick")
		s.must(err)
		for _, id := range []string{"a", "b", "c"} {
			s.must(c.exec(id, nil, "/bin/still"))
			s.must(c.start(id))
		}
		s.must(c.kill("", unix.SIGKILL))
		_, err = c.wait("")
		s.must(err)

		all, err := s.peer.Events.Await(s.ctx, "init's exit", func(seen []harness.Event) bool {
			return slices.Contains(brief(names, seen), "exit C 137")
		})
		s.must(err)
		lines := brief(names, all)
		last := lines[len(lines)-1]
		if last != "exit C 137" {
			s.Errorf("init's exit isn't the last of\n\t%s", strings.Join(lines, "\n\t"))
		}
		for _, id := range []string{"a", "b", "c"} {
			if !slices.Contains(lines, "exit C/"+id+" 137") {
				s.Errorf("no exit of %s before init's in\n\t%s", id, strings.Join(lines, "\n\t"))
			}
		}
	})
}

func TestEventsOfPauseAndKill(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		s.must(c.pause())
		s.must(c.resume())
		s.must(c.kill("", unix.SIGKILL))
		_, err := c.wait("")
		s.must(err)
		s.deleteAfterExit(c)
		s.wantEvents(map[string]string{c.id: "C"}, "create C", "start C", "paused C", "resumed C", "exit C 137", "delete C 137")
	})
}

// What never started has no start; what fails to start has no exit.
func TestEventsWithoutStart(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		s.must(c.exec("missing", nil, "/bin/missing"))
		if err := c.start("missing"); err == nil {
			s.Error("a missing program starts")
		}
		_, err := c.delete("missing")
		s.must(err)
		s.must(c.exec("unstarted", nil, "/bin/still"))
		_, err = c.delete("unstarted")
		s.must(err)
		s.must(c.kill("", unix.SIGKILL))
		_, err = c.wait("")
		s.must(err)
		all, err := s.peer.Events.Await(s.ctx, "init's exit", func(seen []harness.Event) bool {
			return slices.ContainsFunc(seen, func(e harness.Event) bool { return e.Topic == "/tasks/exit" })
		})
		s.must(err)
		for _, line := range brief(map[string]string{c.id: "C"}, all) {
			if strings.HasPrefix(line, "exec-started") || strings.HasPrefix(line, "exit") && line != "exit C 137" {
				s.Errorf("event %q", line)
			}
		}
	})
}

// Start is told before exit, however quick the process is, and every process
// exits once.
func TestEventOrderUnderLoad(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		n := count(40, 1000)
		done := make(chan error, n)
		for i := range n {
			go func() {
				id := fmt.Sprint("e", i)
				err := c.exec(id, nil, "/bin/testbox", "true")
				if err == nil {
					err = c.start(id)
				}
				if err == nil {
					_, err = c.wait(id)
				}
				if err == nil {
					_, err = c.delete(id)
				}
				done <- err
			}()
		}
		for range n {
			s.must(<-done)
		}
		all, err := s.peer.Events.Await(s.ctx, "all exits", func(seen []harness.Event) bool {
			exits := 0
			for _, e := range seen {
				if e.Topic == "/tasks/exit" {
					exits++
				}
			}
			return exits >= n
		})
		s.must(err)
		seen := map[string][]string{}
		for _, line := range brief(map[string]string{c.id: "C"}, all) {
			words := strings.Fields(line)
			if id, ok := strings.CutPrefix(words[1], "C/"); ok {
				seen[id] = append(seen[id], words[0])
			}
		}
		for i := range n {
			id := fmt.Sprint("e", i)
			if got := strings.Join(seen[id], " "); got != "exec-added exec-started exit" {
				s.Errorf("events of %s: %s", id, got)
			}
		}
	})
}

// While containerd is down nothing is lost, and when it is back the order is
// that of the events.
func TestEventsWhileContainerdIsDown(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("retried events overtake each other, and are dropped after 15 s")
		c := s.launch(still())
		names := map[string]string{c.id: "C"}
		s.wantEvents(names, "create C", "start C")
		s.must(s.peer.Events.Close())
		want := []string{"create C", "start C"}
		for i := range 20 {
			id := fmt.Sprintf("e%02d", i)
			s.must(c.exec(id, nil, "/bin/testbox", "true"))
			s.must(c.start(id))
			_, err := c.wait(id)
			s.must(err)
			want = append(want, "exec-added C/"+id, "exec-started C/"+id, "exit C/"+id+" 0")
		}
		s.must(c.pause())
		s.must(c.resume())
		s.must(s.peer.Events.Serve())
		s.wantEvents(names, append(want, "paused C", "resumed C")...)
	})
}

// A delivery that fails is repeated.
func TestEventsRefused(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("a refused event is retried behind those that follow")
		s.peer.Events.Refuse(3)
		c := s.launch(testbox("exit", "0"))
		_, err := c.wait("")
		s.must(err)
		s.wantEvents(map[string]string{c.id: "C"}, "create C", "start C", "exit C 0")
	})
}

// Out of memory is told when the kernel has killed for it, with the container's id, before
// the exit.
func TestEventsOfOOM(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(testbox("memhog", strconv.Itoa(256<<20)), withSpec(oci.WithMemoryLimit(32<<20)))
		exit, err := c.wait("")
		s.must(err)
		if exit.ExitStatus != 137 {
			s.Errorf("exit status %d", exit.ExitStatus)
		}
		if s.oracle() { // its OOM event may come after the exit or, when the cgroup is gone first, never
			return
		}
		_, err = c.delete("")
		s.must(err)
		s.wantEvents(map[string]string{c.id: "C"}, "create C", "start C", "oom C", "exit C 137", "delete C 137")
	})
}
