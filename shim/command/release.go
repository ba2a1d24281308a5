package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/myshim/myshim/shim/internal/wire"
)

// The daemon's own method, beside containerd's: containerd has given up a
// container; exit if you serve no other one. The request is a ConnectRequest
// with the container's ID; in the reply, a ConnectResponse, shim_pid is the
// daemon's pid if it exits, 0 if it serves others.
const (
	ReleaseService = "myshim.shim.v1.Daemon"
	ReleaseMethod  = "Release"
)

// containerd kills `delete` after 5 s.
const (
	replyTimeout = 2 * time.Second
	exitTimeout  = 2 * time.Second
)

// Release tells the daemon of a bundle, if it is alive, that the container is
// gone, and if that was its last one, waits until it has exited. The socket of
// a daemon that is dead is removed.
func Release(line Line) error {
	file := socketOf(line)
	for end := time.Now().Add(replyTimeout); ; time.Sleep(time.Millisecond) {
		conn, err := dial(file)
		switch {
		case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.EACCES):
			return nil // none, or none of this user
		case errors.Is(err, syscall.ECONNREFUSED):
			return removeStale(file)
		case err != nil:
			return fmt.Errorf("connect to the daemon on %s: %w", file, err)
		}
		exits, err := askRelease(conn, line.ID)
		if err == nil && exits {
			err = waitForEnd(conn)
		}
		conn.Close()
		if err == nil {
			return nil
		}
		// One that is dying closes its connections, which is what containerd
		// sees, a moment before its listening socket.
		dying := errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF)
		if !dying || time.Now().After(end) {
			return fmt.Errorf("ask the daemon on %s to release %s: %w", file, line.ID, err)
		}
	}
}

// waitForEnd waits until the daemon has exited. It closes no connection before:
// the end of this one is its own.
func waitForEnd(conn *os.File) error {
	if err := conn.SetDeadline(time.Now().Add(exitTimeout)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("it has not exited within %v", exitTimeout)
	}
	return nil
}

// askRelease is one call of ttrpc.
func askRelease(conn *os.File, id string) (exits bool, err error) {
	const stream, maxReply = 1, 64 << 10
	if err := conn.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
		return false, err
	}
	request := wire.AppendBytes(nil, 1, ReleaseService)
	request = wire.AppendBytes(request, 2, ReleaseMethod)
	request = wire.AppendBytes(request, 3, wire.AppendBytes(nil, 1, id))
	header := wire.NewHeader(uint32(len(request)), stream, wire.Request)
	if _, err := conn.Write(append(header[:], request...)); err != nil {
		return false, err
	}

	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return false, err
	}
	if header.Type() != wire.Response || header.Length() > maxReply {
		return false, fmt.Errorf("an answer of %d bytes and type %d", header.Length(), header.Type())
	}
	response := make([]byte, header.Length())
	if _, err := io.ReadFull(conn, response); err != nil {
		return false, err
	}
	var refusal string
	var pid uint32
	err = wire.Fields(response, func(f wire.Field) error {
		switch f.Number {
		case 1: // google.rpc.Status
			return f.Fields(func(f wire.Field) error {
				if f.Number == 2 {
					f.Set(&refusal)
				}
				return nil
			})
		case 2: // ConnectResponse
			return f.Fields(func(f wire.Field) error {
				if f.Number == 1 {
					f.Set(&pid)
				}
				return nil
			})
		}
		return nil
	})
	if err == nil && refusal != "" {
		err = errors.New(refusal)
	}
	return pid != 0, err
}
