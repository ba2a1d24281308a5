package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"
)

// Daemon is a private containerd: root, state, sockets, log and namespace are
// its own.
type Daemon struct {
	Dir     string // holds all of it
	Address string
	Log     string // containerd's and the shims'
	Client  *client.Client

	namespace string // of all containers
	bin       string // directory of containerd, ctr and perhaps a shim
	level     string
	cmd       *exec.Cmd
	// Descriptors that containerd and hence its shims inherit, as from a
	// careless service manager: no container may see them.
	stray []*os.File
}

// What a runtime doesn't need makes a start slower.
var (
	neverNeeded = []string{
		"io.containerd.nri.v1.nri",
		"io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
		"io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs",
	}
	criPlugins = []string{
		"io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri",
		"io.containerd.podsandbox.controller.v1.podsandbox",
	}
)

const (
	config = `version = 4
root = '%[1]s/root'
state = '%[1]s/state'
imports = []
disabled_plugins = ['%[2]s']
[plugins.'io.containerd.internal.v1.opt']
  path = '%[1]s/opt'
[plugins.'io.containerd.server.v1.grpc']
  address = '%[3]s'
[plugins.'io.containerd.server.v1.ttrpc']
  address = '%[3]s.ttrpc'
[plugins.'io.containerd.shim.v1.manager']
  socket_dir = '%[1]s/s'
`
	// Of containerd 1.6, of which shims make their sockets in /run/containerd.
	oldConfig = `version = 2
root = '%[1]s/root'
state = '%[1]s/state'
disabled_plugins = ['%[2]s']
[plugins.'io.containerd.internal.v1.opt']
  path = '%[1]s/opt'
[grpc]
  address = '%[3]s'
[ttrpc]
  address = '%[3]s.ttrpc'
`
)

// StartDaemon starts a containerd that logs at the given level in a directory
// name below Dir, and waits until it serves.
func StartDaemon(ctx context.Context, name, level string) (*Daemon, error) {
	return startDaemon(ctx, &Daemon{namespace: Tag, bin: filepath.Dir(Bin("containerd")), level: level}, name, config, criPlugins...)
}

// OldContainerd is where "make tools" unpacks the one that Debian 12 has.
func OldContainerd() string {
	return filepath.Join(filepath.Dir(Bin("containerd")), "debian", "usr", "bin")
}

// StartOldDaemon starts that one.
func StartOldDaemon(ctx context.Context, name, level string) (*Daemon, error) {
	return startDaemon(ctx, &Daemon{namespace: Tag, bin: OldContainerd(), level: level}, name, oldConfig, criPlugins...)
}

func startDaemon(ctx context.Context, d *Daemon, name, config string, disabled ...string) (*Daemon, error) {
	d.Dir = filepath.Join(Dir, name)
	d.Address = filepath.Join(d.Dir, "c.sock")
	d.Log = filepath.Join(d.Dir, "log")
	if err := os.Mkdir(d.Dir, 0o711); err != nil {
		return nil, err
	}
	config = fmt.Sprintf(config, d.Dir, strings.Join(append(disabled, neverNeeded...), "', '"), d.Address)
	if err := os.WriteFile(d.config(), []byte(config), 0o600); err != nil {
		return nil, err
	}
	for range 8 {
		// Without O_CLOEXEC it would leak into every command; ExtraFiles gives
		// it to containerd alone.
		f, err := os.Open("/")
		if err != nil {
			return nil, err
		}
		d.stray = append(d.stray, f)
	}
	if err := d.Start(ctx); err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	var err error
	d.Client, err = client.New(d.Address, client.WithDefaultNamespace(d.namespace))
	if err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return d, nil
}

func (d *Daemon) config() string { return filepath.Join(d.Dir, "config.toml") }

// Watched are the directories whose files must be gone when containers are.
func (d *Daemon) Watched() []string {
	watched := []string{filepath.Join(d.Dir, "s")}
	for _, kept := range append(criDirs, filepath.Join("io.containerd.runtime.v2.task", d.namespace)) {
		watched = append(watched, filepath.Join(d.Dir, "state", kept), filepath.Join(d.Dir, "root", kept))
	}
	return watched
}

// Bundle is where containerd keeps a container's bundle.
func (d *Daemon) Bundle(id string) string {
	return filepath.Join(d.Dir, "state", "io.containerd.runtime.v2.task", d.namespace, id)
}

// Context is in the daemon's namespace.
func (d *Daemon) Context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, d.namespace)
}

// Start starts containerd, again after Kill.
func (d *Daemon) Start(ctx context.Context) error {
	log, err := os.OpenFile(d.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()

	// As systemd does: containerd says itself when it serves.
	path := filepath.Join(d.Dir, "notify")
	_ = os.Remove(path)
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { _ = ready.Close() }()

	cmd := exec.Command(filepath.Join(d.bin, "containerd"), "--config", d.config(), "--log-level", d.level)
	cmd.Env = append(os.Environ(), "PATH="+d.bin+":"+filepath.Dir(Bin("containerd"))+":"+os.Getenv("PATH"), "NOTIFY_SOCKET="+path)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = d.stray
	if err := Start(cmd); err != nil {
		return err
	}
	d.cmd = cmd

	deadline := time.Now().Add(time.Minute)
	if until, ok := ctx.Deadline(); ok {
		deadline = until
	}
	if err := ready.SetReadDeadline(deadline); err != nil {
		return err
	}
	buf := make([]byte, 1024)
	for {
		n, err := ready.Read(buf)
		if err != nil {
			return fmt.Errorf("containerd doesn't serve, see %s: %w\n%s", d.Log, err, d.Tail(0))
		}
		if strings.Contains(string(buf[:n]), "READY=1") {
			return nil
		}
	}
}

// Kill ends containerd as a crash does: by SIGKILL, with all its shims running.
func (d *Daemon) Kill() error {
	if err := d.cmd.Process.Signal(unix.SIGKILL); err != nil {
		return err
	}
	_ = Wait(d.cmd) // reports the signal
	d.cmd = nil
	return nil
}

// Stop ends containerd in order.
func (d *Daemon) Stop() error {
	for _, f := range d.stray {
		f.Close()
	}
	var err error
	if d.Client != nil {
		err = d.Client.Close()
	}
	if d.cmd == nil {
		return err
	}
	kill := time.AfterFunc(10*time.Second, func() { _ = d.cmd.Process.Kill() })
	defer kill.Stop()
	if err := d.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	return errors.Join(err, Wait(d.cmd))
}

// Pid is containerd's.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// Mark is the present end of the log, for Tail.
func (d *Daemon) Mark() int64 {
	info, err := os.Stat(d.Log)
	if err != nil {
		return 0
	}
	return info.Size()
}

// Tail is the log from a mark on, at most its last 16 KiB.
func (d *Daemon) Tail(mark int64) string {
	data, err := os.ReadFile(d.Log)
	if err != nil || int64(len(data)) < mark {
		return ""
	}
	return string(data[max(mark, int64(len(data))-16<<10):])
}

// Ctr is a command line of containerd's own client, as a user would type it.
func (d *Daemon) Ctr(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(d.bin, "ctr"), append([]string{"--address", d.Address, "--namespace", d.namespace}, args...)...)
}
