package engines

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/myshim/myshim/integration/harness"
	"golang.org/x/sys/unix"
)

// Engine is a command line, over a containerd of its own.
type engine struct {
	name   string
	needs  []string // programs
	daemon *harness.Daemon
	docker *dockerd // behind "docker"
	failed error
}

var (
	nerdctl = &engine{name: "nerdctl", needs: []string{"nerdctl"}}
	docker  = &engine{name: "docker", needs: []string{"docker", "dockerd"}}
	engines = []*engine{nerdctl, docker}
)

// Bin is where make test-engines puts what it builds.
func bin(name string) string { return harness.Bin(filepath.Join("engines", name)) }

func (e *engine) missing() string {
	for _, program := range e.needs {
		if _, err := os.Stat(bin(program)); err != nil {
			return bin(program) + " isn't built"
		}
	}
	return ""
}

// Start starts, once, what the commands talk to, and loads the image.
func (e *engine) start() error {
	if e.daemon != nil || e.failed != nil {
		return e.failed
	}
	e.failed = e.begin()
	return e.failed
}

func (e *engine) begin() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var err error
	if e.daemon, err = harness.StartDaemon(ctx, e.name, "debug"); err != nil {
		return err
	}
	if e == docker {
		if e.docker, err = startDockerd(ctx, e.daemon, "docker", nil, "--live-restore"); err != nil {
			return err
		}
	}
	cmd := e.command(ctx, "load", "-i", archive)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := harness.Run(cmd); err != nil {
		return fmt.Errorf("load the image: %w: %s", err, out.String())
	}
	return nil
}

func (e *engine) stop() error {
	if e.daemon == nil {
		return nil
	}
	var err error
	if e.docker != nil {
		err = e.docker.stop()
	}
	return errors.Join(err, e.daemon.Stop())
}

func (e *engine) watched() []string {
	return e.daemon.Watched()
}

// Excused is what an engine makes on first use, and keeps.
func (e *engine) excused(leak string) bool {
	return strings.Contains(leak, "/netns/default ") || // dockerd's own network, for --net host
		strings.Contains(leak, "/run/containerd/fifo/") && e == nerdctl // of its exec -d
}

func (e *engine) command(ctx context.Context, words ...string) *exec.Cmd {
	dir := e.daemon.Dir
	var flags []string
	if e.docker != nil {
		flags = []string{"-H", "unix://" + e.docker.socket()}
	} else {
		flags = []string{"--address", e.daemon.Address, "--namespace", harness.Tag, "--data-root", filepath.Join(dir, "n"),
			"--cgroup-manager", "cgroupfs", "--cni-netconfpath", filepath.Join(dir, "cni")}
	}
	cmd := exec.CommandContext(ctx, bin(e.name), append(flags, words...)...)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+filepath.Join(dir, "config"), "NERDCTL_TOML="+filepath.Join(dir, "nerdctl.toml"))
	return cmd
}

// Dockerd is a private Docker Engine.
type dockerd struct {
	dir    string
	args   []string
	log    string
	daemon *harness.Daemon
	cmd    *exec.Cmd
	ended  chan error
}

// StartDockerd starts one over this containerd, with this configuration and these
// further options.
func startDockerd(ctx context.Context, c *harness.Daemon, name string, config map[string]any, flags ...string) (*dockerd, error) {
	d := &dockerd{dir: filepath.Join(c.Dir, name), daemon: c}
	d.log = filepath.Join(d.dir, "log")
	if err := os.Mkdir(d.dir, 0o711); err != nil {
		return nil, err
	}
	file := filepath.Join(d.dir, "daemon.json")
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	d.args = append([]string{
		"--config-file", file, "-H", "unix://" + d.socket(), "--containerd", c.Address,
		"--containerd-namespace", harness.Tag, "--containerd-plugins-namespace", harness.Tag + "-plugins",
		"--data-root", filepath.Join(d.dir, "root"), "--exec-root", filepath.Join(d.dir, "x"), "--pidfile", filepath.Join(d.dir, "pid"),
		"--cgroup-parent", "/" + harness.Tag, "--bridge", "none", "--iptables=false", "--ip6tables=false",
		"--userland-proxy=false", "--debug",
	}, flags...)
	return d, d.start(ctx)
}

func (d *dockerd) socket() string { return filepath.Join(d.dir, "sock") }

// Start starts it, again after kill, and waits until it answers.
func (d *dockerd) start(ctx context.Context) error {
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(bin("dockerd"), d.args...)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(harness.Bin("containerd"))+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := harness.Start(cmd); err != nil {
		return err
	}
	d.cmd, d.ended = cmd, make(chan error, 1)
	go func() { d.ended <- harness.Wait(cmd) }()
	for {
		ping := exec.CommandContext(ctx, bin("docker"), "-H", "unix://"+d.socket(), "version")
		if harness.Run(ping) == nil {
			return nil
		}
		select {
		case err := <-d.ended:
			d.cmd = nil
			return fmt.Errorf("dockerd ends: %w: %s", err, d.tail())
		case <-ctx.Done():
			return fmt.Errorf("dockerd doesn't serve: %w: %s", ctx.Err(), d.tail())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (d *dockerd) tail() string {
	log, _ := os.ReadFile(d.log) // best effort: for a message
	return string(log[max(0, len(log)-4096):])
}

// Kill ends it as a crash does.
func (d *dockerd) kill() error {
	if err := d.cmd.Process.Signal(unix.SIGKILL); err != nil {
		return err
	}
	<-d.ended // with the signal
	return nil
}

// Stop ends it in order.
func (d *dockerd) stop() error {
	if d.cmd == nil {
		return nil
	}
	if err := d.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	return <-d.ended
}

// Remove removes what it has kept.
func (d *dockerd) remove() error { return os.RemoveAll(d.dir) }
