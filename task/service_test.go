package task

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"google.golang.org/protobuf/proto"

	"github.com/myshim/myshim/process"
)

// container is one of which nothing is there but its names.
func container() *process.Container {
	c := &process.Container{Config: process.Config{ID: "c"}}
	c.Init = &process.Process{Container: c}
	return c
}

// Who gets TaskCreate may ask for the container at once.
func TestStateAtTaskCreate(t *testing.T) {
	var s *Service
	published := false
	s = New("shim", "ns", func(topic string, _ proto.Message) {
		published = true
		if _, err := s.state(t.Context(), &api.StateRequest{ID: "c"}); err != nil {
			t.Errorf("at %s: %v", topic, err)
		}
	}, nil)
	reserve(t, s, "c")
	s.emit(process.Event{Kind: process.ContainerCreated, Container: container()}, &api.CreateTaskRequest{ID: "c"})
	if !published {
		t.Error("no event")
	}
}

// Who asks for a container that is being made waits for it, also if none comes of
// it, and not for ever.
func TestStateWaitsForCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name   string
			takes  time.Duration
			made   *process.Container
			status tasktypes.Status
			err    error
			waits  time.Duration
		}{
			{"made", 100 * time.Millisecond, container(), tasktypes.Status_CREATED, nil, 100 * time.Millisecond},
			{"failed", 100 * time.Millisecond, nil, 0, process.ErrNotFound, 100 * time.Millisecond},
			{"slow", time.Hour, container(), tasktypes.Status_UNKNOWN, nil, creationPatience},
		} {
			s := New("shim", "ns", nil, nil)
			reserve(t, s, "c")
			time.AfterFunc(c.takes, func() { s.settle("c", c.made) })
			asked := time.Now()
			r, err := s.state(t.Context(), &api.StateRequest{ID: "c"})
			if !errors.Is(err, c.err) || r.GetStatus() != c.status {
				t.Errorf("%s: %v, %v", c.name, r.GetStatus(), err)
			}
			if waited := time.Since(asked); waited != c.waits {
				t.Errorf("%s: State waits for %v, want %v", c.name, waited, c.waits)
			}
		}
	})
}

// CloseIO waits as long as its client does.
func TestCloseIOWaitsForCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New("shim", "ns", nil, nil)
		reserve(t, s, "c")
		time.AfterFunc(time.Minute, func() { s.settle("c", container()) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.closeIO(ctx, &api.CloseIORequest{ID: "c", Stdin: true}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a client that gives up: %v", err)
		}
		if _, err := s.closeIO(t.Context(), &api.CloseIORequest{ID: "c", Stdin: true}); err != nil {
			t.Errorf("a patient one: %v", err)
		}
	})
}

func reserve(t *testing.T, s *Service, id string) {
	t.Helper()
	if err := s.reserve(id); err != nil {
		t.Fatal(err)
	}
}

// Of two that delete a container, the second one may be done when there is a new
// one of the same ID.
func TestForget(t *testing.T) {
	s := New("shim", "ns", nil, nil)
	first, second := container(), container()
	reserve(t, s, "c")
	s.settle("c", first)
	s.forget("c", first)
	reserve(t, s, "c")
	s.settle("c", second)
	s.forget("c", first)
	if c, err := s.container("c"); c != second {
		t.Errorf("got %v (%v)", c, err)
	}
}

// What exits takes no container any more, and nothing exits with one, even if it
// is only being made.
func TestCloseIfIdle(t *testing.T) {
	s := New("shim", "ns", nil, nil)
	reserve(t, s, "c")
	if s.Release("c"); s.CloseIfIdle() {
		t.Error("closed while a container is made")
	}
	reserve(t, s, "d") // not closed
	s.settle("c", nil)
	s.settle("d", nil)
	for range 2 {
		if !s.CloseIfIdle() {
			t.Error("not closed without a container")
		}
		if err := s.reserve("e"); !errors.Is(err, process.ErrState) {
			t.Errorf("closed: %v", err)
		}
	}
}

func TestStatuses(t *testing.T) {
	for s := process.Created; s <= process.Deleted; s++ {
		if _, ok := statuses[s]; !ok {
			t.Errorf("containerd is not told of %v", s)
		}
	}
}
