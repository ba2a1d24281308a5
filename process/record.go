package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/cgroup"
	"github.com/myshim/myshim/process/rdt"
	"github.com/myshim/myshim/process/spec"
)

// recordName is the file in a bundle that says what there is of its container.
// It is there from before the first thing is made until the last is gone, for
// `delete` to find when the shim process has died.
const recordName = "container.json"

// record is what a file of that name says.
type record struct {
	ID        string          `json:"id"`
	Namespace string          `json:"namespace"`
	Daemon    string          `json:"daemon"` // ID of the shim process
	Shim      identity        `json:"shim"`
	PID       int             `json:"pid,omitempty"` // of the init
	Cgroup    cgroup.Location `json:"cgroup"`
	RDT       *rdt.Group      `json:"rdt,omitempty"`
	Visible   string          `json:"visible,omitempty"` // path of a root that is mounted on the host
	Exit      *ExitStatus     `json:"exit,omitempty"`

	path string
}

// identity tells a process from all others that ever have its pid.
type identity struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // field 22 of proc_pid_stat(5)
}

func recordPath(bundle string) string { return filepath.Join(bundle, recordName) }

// write is one system call, so that a reader finds all or nothing of it, but for
// the moment between the file's creation and that.
func (r *record) write() error {
	r.Shim = identity{os.Getpid(), startTime(os.Getpid())}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	// Without O_TRUNC, since ext4 writes such a file to its disk when it is closed:
	// what is left of one that was longer is not read.
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// made notes the container's init. runc's shim leaves its pid in init.pid, where
// others have come to look for it.
func (r *record) made(pid int) error {
	r.PID = pid
	if err := os.WriteFile(filepath.Join(filepath.Dir(r.path), pidName), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return err
	}
	return r.write()
}

const pidName = "init.pid"

// ended notes how the container ended.
func (r *record) ended(exit ExitStatus) error {
	r.Exit = &exit
	return r.write()
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

// startTime is when a process was started, "" if there is none, or one that has
// ended.
func startTime(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// Fields are counted from the end of the name, which may have anything in it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const state, start = 0, 22 - 3
	if len(fields) <= start || fields[state] == "Z" || fields[state] == "X" {
		return ""
	}
	return fields[start]
}

func (i identity) alive() bool { return i.Start != "" && startTime(i.PID) == i.Start }

// Cleanup undoes, in another process, what is left of the container of a bundle
// whose shim process has died, and of the other containers in that process. It
// tells how the container ended. One that a living shim process serves is left
// alone.
func Cleanup(ctx context.Context, bundle string) (pid int, exit ExitStatus, err error) {
	exit = ExitStatus{Code: 128 + 9, At: time.Now()}
	r, err := readRecord(recordPath(bundle))
	if errors.Is(err, os.ErrNotExist) {
		return 0, exit, nil
	}
	if errors.Is(err, io.EOF) { // nothing was made yet
		return 0, exit, os.Remove(recordPath(bundle))
	}
	if err != nil {
		return 0, exit, err
	}
	if r.Exit != nil {
		exit = *r.Exit
	}
	if r.Shim.alive() {
		return r.PID, exit, nil
	}
	errs := []error{r.cleanup(ctx)}
	if r.ID == r.Daemon {
		others, _ := filepath.Glob(filepath.Join(filepath.Dir(bundle), "*", recordName))
		for _, path := range others {
			if other, err := readRecord(path); err == nil && other.Shim == r.Shim {
				errs = append(errs, other.cleanup(ctx))
			}
		}
	}
	return r.PID, exit, errors.Join(errs...)
}

// cleanup kills what is in the container's cgroup, which also holds for
// processes that were never heard of: a pid may be another's by now.
func (r *record) cleanup(ctx context.Context) error {
	group, err := cgroup.Open(r.Cgroup)
	if err != nil {
		return err
	}
	if err := errors.Join(group.Kill(), group.Delete(ctx), r.RDT.Delete()); err != nil {
		return fmt.Errorf("clean up container %s: %w", r.ID, err)
	}
	bundle := filepath.Dir(r.path)
	if s, err := spec.Load(bundle); err == nil {
		c := &Container{Config: Config{ID: r.ID, Bundle: bundle}, spec: s}
		c.Init = &Process{Container: c}
		if err := c.runHooks(ctx, poststop, specs.StateStopped); err != nil {
			log.G(ctx).WithError(err).Warnf("poststop hooks of %s", r.ID)
		}
	}
	if err := r.hide(); err != nil {
		return fmt.Errorf("clean up container %s: %w", r.ID, err)
	}
	return r.remove()
}
