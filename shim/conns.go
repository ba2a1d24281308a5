package shim

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/myshim/myshim/shim/internal/wire"
)

// conns watches the connections of the server, for two questions that it does
// not answer: is anybody connected, and have all requests been answered? (The
// server's own Shutdown takes a connection for idle that has its first request
// just now, and closes it without an answer.)
type conns struct {
	changed func(connected int) // called when a client comes or goes
	request func()              // called with each request

	mu   sync.Mutex
	open map[*conn]struct{} // guarded by mu
}

// Handshake lets in only the user of the daemon: the mode of the socket is one
// fence, this is the other.
func (c *conns) Handshake(ctx context.Context, accepted net.Conn) (net.Conn, any, error) {
	approved, credentials, err := ttrpc.UnixSocketRequireSameUser().Handshake(ctx, accepted)
	if err != nil {
		return nil, nil, err
	}
	n := &conn{Conn: approved, conns: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[n] = struct{}{}
	c.changed(len(c.open))
	return n, credentials, nil
}

func (c *conns) closed(n *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.open[n]; ok {
		delete(c.open, n)
		c.changed(len(c.open))
	}
}

func (c *conns) unconnected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open) == 0
}

func (c *conns) unanswered() (requests int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range c.open {
		requests += n.unanswered.Load()
	}
	return requests
}

// answered waits until all requests are answered, or ctx ends.
func (c *conns) answered(ctx context.Context) {
	for pause := 50 * time.Microsecond; c.unanswered() > 0 && ctx.Err() == nil; pause *= 2 {
		time.Sleep(min(pause, 10*time.Millisecond))
	}
}

type conn struct {
	net.Conn
	conns      *conns
	unanswered atomic.Int64 // requests
	in, out    frames       // each of the one goroutine that reads or writes
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if requests := c.in.count(p[:n], isRequest); requests > 0 {
		c.unanswered.Add(requests)
		c.conns.request()
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.unanswered.Add(-c.out.count(p[:n], isAnswer))
	return n, err
}

func (c *conn) Close() error {
	c.conns.closed(c)
	return c.Conn.Close()
}

// frames finds the messages in a stream of ttrpc.
type frames struct {
	header wire.Header
	have   int    // bytes of header
	skip   uint32 // bytes until the next header
}

// count returns how many frames, that are wanted by their type and flags, have
// ended in p.
func (f *frames) count(p []byte, wanted func(kind, flags byte) bool) (n int64) {
	for {
		if f.have == len(f.header) && f.skip == 0 {
			if wanted(f.header.Type(), f.header.Flags()) {
				n++
			}
			f.have = 0
		}
		if len(p) == 0 {
			return n
		}
		if f.have < len(f.header) {
			got := copy(f.header[f.have:], p)
			f.have, p = f.have+got, p[got:]
			if f.have == len(f.header) {
				f.skip = f.header.Length()
			}
			continue
		}
		got := min(uint32(len(p)), f.skip)
		f.skip, p = f.skip-got, p[got:]
	}
}

func isRequest(kind, _ byte) bool { return kind == wire.Request }

// isAnswer is a response, or the last message of a stream.
func isAnswer(kind, flags byte) bool {
	return kind == wire.Response || kind == wire.Data && flags&wire.RemoteClosed != 0
}
