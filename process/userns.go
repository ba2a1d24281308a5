package process

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/launch"
	"github.com/myshim/myshim/process/script"
)

// newUserNamespace makes a user namespace for an idmapped mount: it lives as
// long as the descriptor that is returned, or the mount.
func newUserNamespace(m *mounts.Mappings) (_ *os.File, err error) {
	s := script.New()
	s.Add(script.Unshare, script.Flags(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
	s.Report()
	s.Wait()
	s.End()
	in, err := launchAlone(s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Kill()) }()
	if _, err := in.Next(context.Background()); err != nil {
		return nil, err
	}
	if err := errors.Join(writeProc(in.Process().PID, "uid_map", idMap(m.UID)), writeProc(in.Process().PID, "gid_map", idMap(m.GID))); err != nil {
		return nil, err
	}
	return os.Open(fmt.Sprintf("/proc/%d/ns/user", in.Process().PID))
}

// launchAlone starts a script that belongs to no container.
func launchAlone(s *script.Script) (*launch.Init, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	fd := int(null.Fd())
	return launch.Start(s, [3]int{fd, fd, fd}, nil)
}
