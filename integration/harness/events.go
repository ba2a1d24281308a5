package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Event is what a shim told.
type Event struct {
	Topic     string
	Namespace string
	Time      time.Time // in the envelope
	Body      any       // of containerd's package api/events
}

func (e Event) String() string { return fmt.Sprintf("%s %+v", e.Topic, e.Body) }

// Events is containerd's side of the events: it records them in the order in
// which they come.
type Events struct {
	path   string
	server *ttrpc.Server

	mu      sync.Mutex
	seen    []Event       // guarded by mu
	down    bool          // guarded by mu
	refuse  int           // guarded by mu; how many of the next to answer with an error
	changed chan struct{} // guarded by mu; closed by the next event
}

// Serve listens, again after Close: in between, containerd is down.
func (e *Events) Serve() error {
	l, err := net.Listen("unix", e.path)
	if err != nil {
		return err
	}
	if e.server, err = ttrpc.NewServer(); err != nil {
		return err
	}
	eventsapi.RegisterTTRPCEventsService(e.server, e)
	e.setDown(false)
	go func() { _ = e.server.Serve(context.Background(), l) }()
	return nil
}

// Close ends the server and all its connections, as containerd's death does.
func (e *Events) Close() error {
	e.setDown(true) // else what is under way would arrive, and its answer not
	err := e.server.Close()
	if rm := os.Remove(e.path); rm != nil && !errors.Is(rm, os.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}

func (e *Events) setDown(down bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = down
}

// Refuse makes the next n deliveries fail.
func (e *Events) Refuse(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refuse = n
}

// Forward is called by shims.
func (e *Events) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	body, err := typeurl.UnmarshalAny(r.Envelope.Event)
	if err != nil {
		body = fmt.Errorf("%s: %w", r.Envelope.Event.GetTypeUrl(), err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.down || e.refuse > 0 {
		e.refuse = max(0, e.refuse-1)
		return nil, errgrpc.ToGRPC(fmt.Errorf("refused by the test: %w", errdefs.ErrUnavailable))
	}
	e.seen = append(e.seen, Event{r.Envelope.Topic, r.Envelope.Namespace, r.Envelope.Timestamp.AsTime(), body})
	if e.changed != nil {
		close(e.changed)
		e.changed = nil
	}
	return &emptypb.Empty{}, nil
}

// All events so far.
func (e *Events) All() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.seen)
}

// Await waits until the events so far satisfy done, and returns them.
func (e *Events) Await(ctx context.Context, what string, done func([]Event) bool) ([]Event, error) {
	for {
		e.mu.Lock()
		seen := slices.Clone(e.seen)
		if e.changed == nil {
			e.changed = make(chan struct{})
		}
		changed := e.changed
		e.mu.Unlock()
		if done(seen) {
			return seen, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return seen, fmt.Errorf("wait for %s in %v: %w", what, seen, ctx.Err())
		}
	}
}
