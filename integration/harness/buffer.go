package harness

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
)

// Buffer collects what a container or a shim writes, and lets a test wait for
// a text to come instead of sleeping.
type Buffer struct {
	mu      sync.Mutex
	data    bytes.Buffer  // guarded by mu
	changed chan struct{} // guarded by mu; closed by the next Write
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
	return b.data.Write(p)
}

func (b *Buffer) String() string {
	text, _ := b.look()
	return text
}

// Len is the number of bytes written.
func (b *Buffer) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Len()
}

func (b *Buffer) look() (string, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.data.String(), b.changed
}

// Await waits until what was written contains text.
func (b *Buffer) Await(ctx context.Context, text string) error {
	return b.AwaitFunc(ctx, fmt.Sprintf("%q", text), func(all string) bool { return strings.Contains(all, text) })
}

// AwaitFunc waits until what was written satisfies done.
func (b *Buffer) AwaitFunc(ctx context.Context, what string, done func(all string) bool) error {
	for {
		text, changed := b.look()
		if done(text) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s in %q: %w", what, text[max(0, len(text)-4096):], ctx.Err())
		}
	}
}
