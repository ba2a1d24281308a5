package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	tasks "github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// eventsServer is containerd's, and may go away and come back.
type eventsServer struct {
	t       *testing.T
	address string
	answer  func(*types.Envelope) error

	mu     sync.Mutex
	got    []*types.Envelope // guarded by mu
	life   *eventsLife       // guarded by mu; the present one
	server *ttrpc.Server
	done   chan struct{}
}

// eventsLife is the server from serve to stop. What is still in hand then is
// gone, as it is with a process.
type eventsLife struct{ *eventsServer }

func newEventsServer(t *testing.T) *eventsServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "e")
	if err != nil {
		t.Fatal(err)
	}
	s := &eventsServer{t: t, address: filepath.Join(dir, "c.sock.ttrpc"), answer: func(*types.Envelope) error { return nil }}
	t.Cleanup(func() { s.stop(); os.RemoveAll(dir) })
	return s
}

func (s *eventsLife) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	if err := s.answer(r.Envelope); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life != s {
		return nil, errors.New("stopped")
	}
	s.got = append(s.got, r.Envelope)
	return &emptypb.Empty{}, nil
}

func (s *eventsServer) serve() {
	s.t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		s.t.Fatal(err)
	}
	life := &eventsLife{s}
	s.mu.Lock()
	s.life = life
	s.mu.Unlock()
	eventsapi.RegisterTTRPCEventsService(server, life)
	l, err := net.Listen("unix", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.server, s.done = server, make(chan struct{})
	go func() {
		defer close(s.done)
		server.Serve(context.Background(), l)
	}()
}

func (s *eventsServer) stop() {
	if s.server != nil {
		s.mu.Lock()
		s.life = nil
		s.mu.Unlock()
		s.server.Close()
		<-s.done
		s.server = nil
	}
}

// take waits for n events.
func (s *eventsServer) take(n int) []*types.Envelope {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%d events have arrived", n), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.got) >= n
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.got
	s.got = nil
	return got
}

func newTestEvents(t *testing.T, server *eventsServer) *events {
	t.Helper()
	e := newEvents("ns", "unix://"+server.address)
	t.Cleanup(func() { // before that of the server
		if server.server == nil {
			server.serve()
		}
		flush(e, 10*time.Second)
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.client != nil {
			e.client.Close()
			e.client.UserOnCloseWait(context.Background())
		}
	})
	return e
}

func delivering() bool {
	buf := make([]byte, 1<<20)
	return bytes.Contains(buf[:runtime.Stack(buf, true)], []byte(".deliver("))
}

func (e *events) publish(from, to int) {
	for i := from; i < to; i++ {
		e.Publish("/tasks/oom", &tasks.TaskOOM{ContainerID: strconv.Itoa(i)})
	}
}

// inOrder checks that those from one to another have come, each of them at
// least once, and none before one that was published earlier.
func inOrder(t *testing.T, got []*types.Envelope, from, to int) {
	t.Helper()
	next := from
	for _, envelope := range got {
		var event tasks.TaskOOM
		if err := envelope.Event.UnmarshalTo(&event); err != nil {
			t.Fatal(err)
		}
		switch n, err := strconv.Atoi(event.ContainerID); {
		case err != nil:
			t.Fatal(err)
		case n == next:
			next++
		case n != next-1: // not the previous one again either
			t.Fatalf("event %d where %d belongs", n, next)
		}
	}
	if next != to {
		t.Errorf("events to %d of %d", next, to)
	}
}

func TestEnvelope(t *testing.T) {
	server := newEventsServer(t)
	server.serve()
	e := newTestEvents(t, server)
	before := time.Now()
	e.Publish("/tasks/exit", &tasks.TaskExit{ContainerID: "c", ID: "x", ExitStatus: 7})
	got := server.take(1)[0]
	if got.Namespace != "ns" || got.Topic != "/tasks/exit" || got.Event.TypeUrl != "containerd.events.TaskExit" {
		t.Errorf("%v", got)
	}
	if at := got.Timestamp.AsTime(); at.Before(before) || at.After(time.Now()) {
		t.Errorf("timestamp %v", at)
	}
	var event tasks.TaskExit
	if err := got.Event.UnmarshalTo(&event); err != nil || event.ContainerID != "c" || event.ID != "x" || event.ExitStatus != 7 {
		t.Errorf("%v %v", &event, err)
	}
}

// containerd goes away again and again, and none is lost or out of order.
func TestEventsSurviveRestarts(t *testing.T) {
	server := newEventsServer(t)
	e := newTestEvents(t, server)
	const all = 2000
	go func() {
		for i := range all {
			e.publish(i, i+1)
			if i%100 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
	}()
	for range 8 {
		server.serve()
		time.Sleep(30 * time.Millisecond)
		server.stop()
		time.Sleep(20 * time.Millisecond)
	}
	server.serve()
	eventually(t, "all have arrived", func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return len(server.got) >= all
	})
	flush(e, 10*time.Second)
	inOrder(t, server.take(all), 0, all)

	// Idle, nothing of it runs; a connection that has ended meanwhile is no
	// reason to wait.
	eventually(t, "no goroutine is running for nothing", func() bool { return !delivering() })
	server.stop()
	server.serve()
	before := time.Now()
	e.publish(0, 1)
	inOrder(t, server.take(1), 0, 1)
	if took := time.Since(before); took > 2*time.Second {
		t.Errorf("after a restart of an idle containerd: %v", took)
	}
}

func flush(e *events, limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	e.Flush(ctx)
}

func TestEventsRefused(t *testing.T) {
	server := newEventsServer(t)
	tries := 0
	server.answer = func(envelope *types.Envelope) error {
		if envelope.Topic == "bad" {
			return status.Error(codes.InvalidArgument, "topic")
		}
		if tries++; tries < 4 {
			return errors.New("not yet")
		}
		return nil
	}
	server.serve()
	lines := captureLog(t)
	e := newTestEvents(t, server)
	e.Publish("bad", &tasks.TaskOOM{ContainerID: "the-bad-one"})
	e.publish(0, 1)
	inOrder(t, server.take(1), 0, 1)
	if tries != 4 {
		t.Errorf("%d tries", tries)
	}
	flush(e, 10*time.Second)
	for _, want := range []string{"the-bad-one", "event is lost, containerd refuses it", "containerd does not take events", "takes events again"} {
		if !bytes.Contains(lines(), []byte(want)) {
			t.Errorf("the log has no %q:\n%s", want, lines())
		}
	}
}

func TestEventsAreBounded(t *testing.T) {
	server := newEventsServer(t)
	lines := captureLog(t)
	e := newTestEvents(t, server)
	before := time.Now()
	e.publish(0, maxEvents+3)
	if took := time.Since(before); took > 5*time.Second {
		t.Errorf("Publish has waited: %v", took)
	}
	for i := 1; i <= 3; i++ {
		if want := fmt.Sprintf("container_id:\\\"%d\\\"", i); !bytes.Contains(lines(), []byte(want)) {
			t.Errorf("the log has no %s", want)
		}
	}
	server.serve()
	got := server.take(maxEvents)
	inOrder(t, got[:1], 0, 1) // was being delivered
	inOrder(t, got[1:], 4, maxEvents+3)

	// What cannot be delivered in time is in the log.
	server.stop()
	e.Publish("/tasks/oom", &tasks.TaskOOM{ContainerID: "the-last-one"})
	before = time.Now()
	flush(e, 100*time.Millisecond)
	if took := time.Since(before); took > 3*time.Second {
		t.Errorf("Flush took %v", took)
	}
	if !bytes.Contains(lines(), []byte("the-last-one")) {
		t.Error("the log has no word of the last one")
	}
}

// Without an address, as when run by hand, there is nobody to tell.
func TestNobodyToTell(t *testing.T) {
	e := newEvents("ns", "")
	e.publish(0, 10)
	flush(e, 0)
	if len(e.queue) > 0 || e.empty != nil {
		t.Error("events are waiting")
	}
}

// A server that hangs is given up after a while, with its connection.
func TestEventsTimeout(t *testing.T) {
	if testing.Short() {
		t.Skipf("takes %v", forwardTimeout)
	}
	server := newEventsServer(t)
	hang := make(chan struct{})
	var calls atomic.Int32
	server.answer = func(*types.Envelope) error {
		if calls.Add(1) == 1 {
			<-hang
		}
		return nil
	}
	server.serve()
	e := newTestEvents(t, server)
	defer close(hang)
	e.publish(0, 3)
	inOrder(t, server.take(3), 0, 3)
}

// captureLog returns a function that returns what was logged.
func captureLog(t *testing.T) func() []byte {
	t.Helper()
	var mu sync.Mutex
	var text []byte
	out := log.L.Logger.Out
	log.L.Logger.SetOutput(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		text = append(text, p...)
		return len(p), nil
	}))
	t.Cleanup(func() { log.L.Logger.SetOutput(out) })
	return func() []byte {
		mu.Lock()
		defer mu.Unlock()
		return append([]byte(nil), text...)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
