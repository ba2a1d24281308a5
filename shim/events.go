package shim

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	maxEvents      = 8192
	forwardTimeout = 5 * time.Second
	firstRetry     = 20 * time.Millisecond
	lastRetry      = 500 * time.Millisecond
)

// events delivers events to containerd, in their order and each until it has
// arrived: containerd may be restarting, and comes back on the same socket. One
// that arrived while its answer got lost arrives twice.
//
// A goroutine runs only while there is something to deliver. The connection is
// made for the first event, and kept.
type events struct {
	namespace string
	address   string // path of containerd's ttrpc socket; none if there is nobody to tell

	mu    sync.Mutex
	queue []*types.Envelope // guarded by mu; the first one is being delivered
	empty chan struct{}     // guarded by mu; closed when the queue has become empty, nil while it is

	client *ttrpc.Client // of the one goroutine that delivers; nil without a connection
}

func newEvents(namespace, address string) *events {
	return &events{namespace: namespace, address: strings.TrimPrefix(address, "unix://")}
}

// Publish queues an event, and does not wait.
func (e *events) Publish(topic string, event proto.Message) {
	value, err := proto.Marshal(event)
	if err != nil {
		log.L.WithError(err).Errorf("event %s is lost: %v", topic, event)
		return
	}
	e.add(&types.Envelope{
		Timestamp: timestamppb.Now(),
		Namespace: e.namespace,
		Topic:     topic,
		Event: &anypb.Any{
			// Without the prefix of anypb.New, as containerd's typeurl has it.
			TypeUrl: string(event.ProtoReflect().Descriptor().FullName()),
			Value:   value,
		},
	})
}

func (e *events) add(envelope *types.Envelope) {
	if e.address == "" {
		return
	}
	var lost *types.Envelope
	e.mu.Lock()
	if len(e.queue) == maxEvents {
		lost = e.queue[1] // the first one may be arriving just now
		e.queue = slices.Delete(e.queue, 1, 2)
	}
	e.queue = append(e.queue, envelope)
	if e.empty == nil {
		e.empty = make(chan struct{})
		go e.deliver()
	}
	e.mu.Unlock()
	if lost != nil {
		log.L.Errorf("event is lost, %d newer ones are waiting: %v", maxEvents, lost)
	}
}

// deliver ends when the queue is empty.
func (e *events) deliver() {
	retry := firstRetry
	for {
		envelope := e.head()
		if envelope == nil {
			return
		}
		err := e.forward(envelope)
		if err != nil && !refused(err) {
			if retry == firstRetry {
				log.L.WithError(err).Warnf("containerd does not take events, trying again: %s", envelope.GetTopic())
			}
			time.Sleep(retry)
			retry = min(2*retry, lastRetry)
			continue
		}
		if err != nil {
			log.L.WithError(err).Errorf("event is lost, containerd refuses it: %v", envelope)
		} else if retry != firstRetry {
			log.L.Info("containerd takes events again")
		}
		retry = firstRetry
		e.mu.Lock()
		e.queue = slices.Delete(e.queue, 0, 1)
		e.mu.Unlock()
	}
}

// head returns the next event, or nil after it has declared the queue empty.
func (e *events) head() *types.Envelope {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) > 0 {
		return e.queue[0]
	}
	e.queue = nil // it may have been long
	close(e.empty)
	e.empty = nil
	return nil
}

func (e *events) forward(envelope *types.Envelope) error {
	for {
		fresh := e.client == nil
		if fresh {
			conn, err := net.DialTimeout("unix", e.address, forwardTimeout)
			if err != nil {
				return err
			}
			e.client = ttrpc.NewClient(conn)
		}
		ctx, cancel := context.WithTimeout(context.Background(), forwardTimeout)
		_, err := eventsapi.NewTTRPCEventsClient(e.client).Forward(ctx, &eventsapi.ForwardRequest{Envelope: envelope})
		cancel()
		if err == nil {
			return nil
		}
		if _, answered := status.FromError(err); answered {
			return err
		}
		_ = e.client.Close() // has nothing to tell
		e.client = nil
		if fresh || !errors.Is(err, ttrpc.ErrClosed) {
			return err
		}
		// The other end of a kept connection has gone; it may be back.
	}
}

// refused tells whether containerd will not take an event later either.
func refused(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.ResourceExhausted:
		return true
	}
	return false
}

// Flush waits until all events are delivered, or ctx ends.
func (e *events) Flush(ctx context.Context) {
	e.mu.Lock()
	empty := e.empty
	e.mu.Unlock()
	if empty == nil {
		return
	}
	select {
	case <-empty:
	case <-ctx.Done():
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, envelope := range e.queue {
			log.L.Errorf("event is lost, containerd has not taken it in time: %v", envelope)
		}
	}
}
