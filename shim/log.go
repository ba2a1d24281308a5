package shim

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// openLog sends the log, and what the Go runtime prints when it crashes, to the
// FIFO that containerd reads, if the bundle has one.
func openLog(debug bool) error {
	if err := log.SetFormat(log.TextFormat); err != nil {
		return err
	}
	if debug {
		if err := log.SetLevel(log.DebugLevel); err != nil {
			return err
		}
	}
	// For reading too: so it opens, and holds what is written, while
	// containerd is down.
	fd, err := unix.Open("log", unix.O_RDWR|unix.O_NONBLOCK|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // standard error is /dev/null
	}
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Dup3(fd, unix.Stderr, 0); err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	log.L.Logger.SetOutput(&logWriter{write: func(p []byte) (int, error) { return unix.Write(unix.Stderr, p) }})
	return nil
}

// logWriter never waits: with a full FIFO, lines are dropped, and their number
// is logged once there is room again.
type logWriter struct {
	write func([]byte) (int, error)

	mu      sync.Mutex
	dropped int  // guarded by mu; lines
	torn    bool // guarded by mu; the last line was cut off
}

func (w *logWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dropped > 0 {
		notice := fmt.Sprintf("time=%q level=warning msg=\"log: %d lines dropped, nobody read them\"\n",
			time.Now().Format(log.RFC3339NanoFixed), w.dropped)
		if w.put([]byte(notice)) {
			w.dropped = 0
		}
	}
	if !w.put(line) {
		w.dropped++
	}
	return len(line), nil
}

// put writes a line, if there is room for it. Only one of more than 4096 bytes
// may be cut off.
func (w *logWriter) put(line []byte) bool {
	if w.torn {
		line = append([]byte("\n"), line...)
	}
	n, _ := w.write(line)
	if n > 0 {
		w.torn = n < len(line)
	}
	return n == len(line)
}
