package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/cgroup"
	"github.com/myshim/myshim/process/rdt"
)

// recordName is the file in a bundle that says what there is of its container.
// It is there from before the first thing is made until the last is gone, for
// `delete` to find when the shim process has died: see Cleanup.
const recordName = "container.json"

// record is what a file of that name says.
type record struct {
	ID        string          `json:"id"`
	Namespace string          `json:"namespace"`
	Daemon    string          `json:"daemon"` // ID of the shim process
	Shim      identity        `json:"shim"`
	Init      identity        `json:"init"` // PID 0 until it is made
	Cgroup    cgroup.Location `json:"cgroup"`
	RDT       *rdt.Group      `json:"rdt,omitempty"`
	Visible   string          `json:"visible,omitempty"` // path of a root that is mounted on the host
	Exit      *ExitStatus     `json:"exit,omitempty"`
	Gone      bool            `json:"gone,omitempty"` // nothing else is left, but nobody has asked for Exit

	path string
}

func recordPath(bundle string) string { return filepath.Join(bundle, recordName) }

func (r *record) write() error { return r.writeTo(os.O_CREATE) }

// writeTo is one system call, so that a reader finds all or nothing of it, but for
// the moment between the file's creation and that.
func (r *record) writeTo(creating int) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	// Without O_TRUNC, since ext4 writes such a file to its disk when it is closed:
	// what is left of one that was longer is not read.
	f, err := os.OpenFile(r.path, os.O_WRONLY|creating, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// made notes the container's init. runc's shim leaves its pid in init.pid, where
// others have come to look for it.
func (r *record) made(pid int) error {
	r.Init = identify(pid)
	if err := os.WriteFile(filepath.Join(filepath.Dir(r.path), pidName), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return err
	}
	return r.write()
}

const pidName = "init.pid"

// ended notes how the container ended, unless `delete`, which may have ended it,
// is done with it by now.
func (r *record) ended(exit ExitStatus) error {
	r.Exit = &exit
	if err := r.writeTo(0); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// hide unmounts a root that is mounted on the host.
func (r *record) hide() error {
	if r.Visible == "" {
		return nil
	}
	return mounts.Hide(r.Visible)
}

// remove says that nothing is left of the container.
func (r *record) remove() error {
	var errs []error
	for _, path := range []string{filepath.Join(filepath.Dir(r.path), pidName), r.path} {
		if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// readRecord reads a record: os.ErrNotExist if there is none, or io.EOF if that
// has just been made.
func readRecord(path string) (*record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := &record{path: path}
	if err := json.NewDecoder(f).Decode(r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}
