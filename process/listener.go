package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// takeListener takes the listener of a process's seccomp filter, hands it to the
// agent, and lets the process go on (config-linux.md, "The Container Process
// State").
func (c *Container) takeListener(ctx context.Context, l *launching, status specs.ContainerState) error {
	if err := c.sendListener(ctx, l, status); err != nil {
		return fmt.Errorf("linux.seccomp.listenerPath: %w", err)
	}
	return l.Go([]byte{1})
}

func (c *Container) sendListener(ctx context.Context, l *launching, status specs.ContainerState) error {
	k := l.Process()
	listener, err := k.Descriptor(int(l.script.Listener.Value(l.report)), "the listener of the seccomp filter")
	if err != nil {
		return err
	}
	defer listener.Close()
	message, err := json.Marshal(specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: k.PID, Metadata: c.filter.ListenerMetadata,
		State: *c.ociState(status, false),
	})
	if err != nil {
		return err
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", c.filter.ListenerPath)
	if err != nil {
		return err
	}
	_, _, err = conn.(*net.UnixConn).WriteMsgUnix(message, unix.UnixRights(int(listener.Fd())), nil)
	return errors.Join(err, conn.Close())
}
