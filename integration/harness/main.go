package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Tag is in the name of everything that this run makes: it is containerd's
// namespace, hence the parent of the containers' cgroups, and the start of
// every container's id.
var Tag string

// Dir is the run's directory; its name is short, because paths of sockets are.
var Dir string

// Unshare are the namespaces that the run has for itself; a TestMain may want more
// of them.
var Unshare uintptr = unix.CLONE_NEWNS

const insideEnv = "MYSHIM_INSIDE"

// Main runs f in a child of this process, which has
//
//   - a mount namespace, so that other users of the machine neither see our
//     mounts nor disturb the comparison of the mount table; its mounts are
//     shared with each other as systemd leaves them,
//   - /run/containerd for itself.
//
// Whatever ends f — a panic, the time limit of go test, a signal — this process
// then ends the processes that are left and removes the cgroups and files. What
// it finds is a failure of its own.
func Main(f func() int) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "this needs root: it starts a containerd and containers")
		return 1
	}
	if where := os.Getenv(insideEnv); where != "" {
		Tag, Dir, _ = strings.Cut(where, ":")
		if err := errors.Join(os.Unsetenv(insideEnv), settleIn()); err != nil {
			fmt.Fprintln(os.Stderr, "harness:", err)
			return 1
		}
		return f()
	}
	code, err := outside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		return max(code, 1)
	}
	return code
}

func settleIn() error {
	if err := adopt(); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share the mounts of the new namespace: %w", err)
	}
	if err := os.MkdirAll("/run/containerd", 0o711); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run/containerd", "tmpfs", 0, "mode=711"); err != nil {
		return fmt.Errorf("mount /run/containerd: %w", err)
	}
	return nil
}

func outside() (code int, err error) {
	// The parent-death signal is that of the thread which forks.
	runtime.LockOSThread()
	if err := adopt(); err != nil {
		return 1, err
	}
	Tag = fmt.Sprintf("myshim-%d", os.Getpid())
	if Dir, err = os.MkdirTemp("", "ms"); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(Dir)) }()
	// The root of a user namespace must get to its bundle.
	if err := os.Chmod(Dir, 0o711); err != nil {
		return 1, err
	}

	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"="+Tag+":"+Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: Unshare, Pdeathsig: unix.SIGKILL}

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	if err := Start(cmd); err != nil {
		return 1, err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	waitErr := Wait(cmd)
	code = cmd.ProcessState.ExitCode()
	if code < 0 { // ended by a signal
		code = 1
		err = waitErr
	}
	return code, errors.Join(err, cleanUp())
}

// CleanUp ends and removes what is left, and tells what that was.
func cleanUp() error {
	var left []string
	for _, p := range endDescendants() {
		left = append(left, "process "+p)
	}
	for _, dir := range cgroups() {
		left = append(left, "cgroup "+dir)
	}
	removeCgroups()
	if len(left) > 0 {
		return fmt.Errorf("left behind, and ended now:\n\t%s", strings.Join(left, "\n\t"))
	}
	return nil
}

func endDescendants() []string {
	var ended []string
	seen := map[int]bool{}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		reap()
		below := Descendants()
		if len(below) == 0 {
			break
		}
		for pid, what := range below {
			if !seen[pid] {
				seen[pid] = true
				ended = append(ended, what)
			}
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return ended
}
