package task

import (
	"errors"
	"testing"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"

	"github.com/myshim/myshim/process"
)

// container is one of which nothing is there but its names.
func container(id string) *process.Container {
	c := &process.Container{Config: process.Config{ID: id}}
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
	s.emit(process.Event{Kind: process.ContainerCreated, Container: container("c")}, &api.CreateTaskRequest{ID: "c"})
	if !published {
		t.Error("no event")
	}
}

// Of two that delete a container, the second one may be done when there is a new
// one of the same ID.
func TestForget(t *testing.T) {
	s := New("shim", "ns", nil, nil)
	first, second := container("c"), container("c")
	s.store("c", first)
	s.forget("c", first)
	s.store("c", second)
	s.forget("c", first)
	if c, err := s.container("c"); c != second {
		t.Errorf("got %v (%v)", c, err)
	}
}

// What exits takes no container any more, and nothing exits with one, even if it
// is only being made.
func TestCloseIfIdle(t *testing.T) {
	s := New("shim", "ns", nil, nil)
	if err := s.reserve("c"); err != nil {
		t.Fatal(err)
	}
	if s.Release("c"); s.CloseIfIdle() {
		t.Error("closed while a container is made")
	}
	if err := s.reserve("d"); err != nil {
		t.Errorf("not closed: %v", err)
	}
	s.forget("c", nil)
	s.forget("d", nil)
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
