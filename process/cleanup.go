package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/cgroup"
	"github.com/myshim/myshim/process/spec"
)

// killed is how a container ended of which nobody knows.
func killed() ExitStatus { return ExitStatus{Code: 128 + 9, At: time.Now()} }

// Ended tells, in another process, how the container of a bundle ended, as far
// as its shim process got to note it.
func Ended(bundle string) (pid int, exit ExitStatus) {
	r, err := readRecord(recordPath(bundle))
	switch {
	case err != nil:
		return 0, killed()
	case r.Exit == nil:
		return r.Init.PID, killed()
	}
	return r.Init.PID, *r.Exit
}

// lastWords is how long a shim process that has let nobody know that it serves a
// container may take to end.
const lastWords = 2 * time.Second

// Cleanup undoes, in another process, what is left of the container of a bundle
// that no shim process serves any more. If that process was started for this
// container, and is dead, so are the others in it: containerd does not always
// ask for them.
func Cleanup(ctx context.Context, bundle string) error {
	own, err := lockRecord(recordPath(bundle), true)
	if own == nil || err != nil {
		return err
	}
	defer own.Close()
	dead, err := own.Shim.await(ctx, lastWords)
	if err != nil {
		return err
	}
	all := []*lockedRecord{own}
	if dead && own.ID == own.Daemon {
		others, _ := filepath.Glob(filepath.Join(filepath.Dir(bundle), "*", recordName))
		for _, path := range others {
			// One that is locked is being cleaned up by somebody else.
			other, err := lockRecord(path, false)
			if other == nil || err != nil {
				continue
			}
			defer other.Close()
			if other.Shim == own.Shim {
				all = append(all, other)
			}
		}
	}
	err = cleanup(ctx, all)
	if own.Gone {
		err = errors.Join(err, own.remove())
	}
	return err
}

// cleanup kills all of them before it waits for any. Records of others stay, to
// tell how they ended.
func cleanup(ctx context.Context, all []*lockedRecord) error {
	errs := make([]error, len(all))
	for i, r := range all {
		errs[i] = r.kill()
	}
	var wg sync.WaitGroup
	for i, r := range all {
		wg.Go(func() {
			if errs[i] = errors.Join(errs[i], r.cleanup(ctx)); errs[i] != nil {
				errs[i] = fmt.Errorf("clean up container %s: %w", r.ID, errs[i])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// kill ends what is in the container's cgroup, which also holds for processes
// that were never heard of. The init may have got out of it. Before it is noted,
// what is in the cgroup may be another's, and what is the shim's ends with that.
func (r *record) kill() error {
	if r.Gone || r.Init.PID == 0 {
		return nil
	}
	group, err := cgroup.Open(r.Cgroup)
	if err != nil {
		return err
	}
	defer group.Close()
	return errors.Join(group.Kill(), r.Init.kill())
}

// cleanup takes away what is left when all processes are killed.
func (r *record) cleanup(ctx context.Context) error {
	if r.Gone {
		return nil
	}
	group, err := cgroup.Open(r.Cgroup)
	if err != nil {
		return err
	}
	err = group.Delete(ctx)
	if err != nil && r.Init.PID == 0 {
		log.G(ctx).WithError(err).Warnf("the cgroup of %s is another's", r.ID)
		err = nil
	}
	if err = errors.Join(err, r.RDT.Delete()); err != nil {
		return err
	}
	bundle := filepath.Dir(r.path)
	if s, err := spec.Load(bundle); err == nil {
		c := &Container{Config: Config{ID: r.ID, Bundle: bundle}, spec: s}
		c.Init = &Process{Container: c}
		if err := c.runHooks(ctx, specs.StateStopped, poststop); err != nil {
			log.G(ctx).WithError(err).Warnf("poststop hooks of %s", r.ID)
		}
	}
	if err := r.hide(); err != nil {
		return err
	}
	r.Gone = true
	if r.Exit == nil {
		exit := killed()
		r.Exit = &exit
	}
	return r.write()
}

// lockedRecord is a record that nobody else cleans up after meanwhile.
type lockedRecord struct {
	*record
	*os.File
}

// lockRecord reads and locks a record, nil if there is none. If somebody else has
// locked it, it waits, or it is as if there were none.
func lockRecord(path string, wait bool) (_ *lockedRecord, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	err = unix.Flock(int(f.Fd()), how)
	for errors.Is(err, unix.EINTR) {
		err = unix.Flock(int(f.Fd()), how)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, f.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	r, err := readRecord(path)
	switch {
	case errors.Is(err, os.ErrNotExist): // somebody else is done with it
		return nil, f.Close()
	case errors.Is(err, io.EOF): // nothing was made yet
		return nil, errors.Join(os.Remove(path), f.Close())
	case err != nil:
		return nil, err
	}
	return &lockedRecord{r, f}, nil
}
