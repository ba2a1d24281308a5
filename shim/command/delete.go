package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/myshim/myshim/shim/internal/wire"
)

// Result is how a container ended.
type Result struct {
	PID    int // of its init, for people
	Status uint32
	At     time.Time
}

// Killed is the answer for a container that left no record of its exit.
func Killed() Result {
	return Result{Status: 128 + 9, At: time.Now()}
}

// Answer writes a containerd.task.v3.DeleteResponse.
func (r Result) Answer(stdout io.Writer) error {
	at := wire.AppendVarint(nil, 1, uint64(r.At.Unix()))
	at = wire.AppendVarint(at, 2, uint64(r.At.Nanosecond()))
	b := wire.AppendVarint(nil, 1, uint64(uint32(r.PID)))
	b = wire.AppendVarint(b, 2, uint64(r.Status))
	b = wire.AppendBytes(b, 3, at)
	_, err := stdout.Write(b)
	return err
}

// Delete does the whole of `delete` if nothing is left of the container, which
// is so on every ordinary removal, and tells whether it did.
func Delete(line Line, stdout, stderr io.Writer) (done bool, err error) {
	if line.Check() != nil || !empty(line.Bundle) {
		return false, nil
	}
	if err := Release(line); err != nil {
		fmt.Fprintln(stderr, err) // containerd logs it as a warning
	}
	return true, Killed().Answer(stdout)
}

// empty tells whether a bundle has nothing but the files of containerd and of
// `start` in it: whoever makes a container leaves a file there until nothing is
// left of it.
func empty(bundle string) bool {
	d, err := os.Open(path.Clean(bundle)) // "." for "", the working directory
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return false
	}
	for _, name := range names {
		switch name {
		case "config.json", "rootfs", "work", "log", "shim-binary-path", "bootstrap.json", "sandbox", addressFile:
		default:
			return false
		}
	}
	return true
}
