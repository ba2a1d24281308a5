package stdio

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// buffers are taken only while there is something to read, so that an idle
// copy has none.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// move copies src, which is polled, to dst until src is at its end (nil), or
// nobody reads dst any more, or one of them is closed. What dst cannot take,
// because the disk is full, is lost, so that the writer does not stand still;
// lost is called with the first such error.
//
// A terminal that no process has open gives EIO, but one may open it yet. It is
// at its end when over says so and nothing is left in it: what was written
// before can be read at once, whoever else has it open. over is asked again
// when a read deadline passes.
//
// It is not splice: source and destination would have to be waited for in
// turns, telling which of the two an EAGAIN is about, and files opened with
// O_APPEND refuse it.
func move(dst io.Writer, src *os.File, over func() bool, lost func(error)) error {
	raw, err := src.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var (
			buf  *[64 << 10]byte
			n    int
			rerr error
		)
		err := raw.Read(func(fd uintptr) bool {
			buf = buffers.Get().(*[64 << 10]byte)
			for {
				if n, rerr = unix.Read(int(fd), buf[:]); rerr != unix.EINTR {
					break
				}
			}
			if rerr == unix.EAGAIN || rerr == unix.EIO && over != nil {
				if over == nil || !over() {
					buffers.Put(buf)
					return false
				}
				n, rerr = 0, nil
			}
			return true
		})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if err = src.SetReadDeadline(time.Time{}); err == nil {
				continue
			}
		}
		if err != nil {
			return os.ErrClosed // what the poller says has no name
		}
		if n > 0 {
			_, err = dst.Write(buf[:n])
		}
		buffers.Put(buf)
		switch {
		case n <= 0:
			return rerr
		case errors.Is(err, os.ErrClosed), errors.Is(err, unix.EPIPE):
			return err
		case err != nil && lost != nil:
			lost(err)
			lost = nil
		}
	}
}
