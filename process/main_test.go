package process

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
	"github.com/myshim/myshim/process/stdio"
)

func init() {
	// As main does; see kernel.EnterMounts.
	runtime.LockOSThread()
}

// inside are the programs that this test binary is in a container.
var inside = map[string]func(args []string) int{
	"true":  func([]string) int { return 0 },
	"exit":  func(args []string) int { var n int; fmt.Sscan(args[0], &n); return n },
	"sleep": func([]string) int { time.Sleep(time.Hour); return 0 },
	"echo":  func(args []string) int { fmt.Println(strings.Join(args, " ")); return 0 },
	"id": func([]string) int {
		groups, _ := os.Getgroups()
		fmt.Println(os.Getuid(), os.Getgid(), groups)
		return 0
	},
	"status": func(fields []string) int { // of /proc/self/status
		text, _ := os.ReadFile("/proc/self/status")
		for line := range strings.Lines(string(text)) {
			if name, value, _ := strings.Cut(line, ":"); slices.Contains(fields, name) {
				fmt.Println(name, strings.TrimSpace(value))
			}
		}
		return 0
	},
	"cat": func(paths []string) int {
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				fmt.Println(err)
				return 1
			}
			fmt.Print(string(text))
		}
		return 0
	},
	"fds": func([]string) int {
		dir, _ := os.Open("/proc/self/fd")
		names, _ := dir.Readdirnames(-1)
		for _, name := range names {
			if to, err := os.Readlink("/proc/self/fd/" + name); err == nil && name != fmt.Sprint(dir.Fd()) && !strings.HasPrefix(to, "anon_inode:[event") {
				fmt.Println(name, to)
			}
		}
		return 0
	},
	"tty": func([]string) int {
		name, err := os.Readlink("/proc/self/fd/0")
		size, _ := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		console, _ := os.OpenFile("/dev/console", os.O_WRONLY, 0)
		tty, ttyErr := os.Open("/dev/tty")
		fmt.Println(name, err, size.Col, size.Row, ttyErr, tty != nil)
		fmt.Fprintln(console, "console")
		return 0
	},
	"scheduler": func([]string) int { // of the first thread: a policy may not be for those that it makes
		policy, _, _ := unix.Syscall(unix.SYS_SCHED_GETSCHEDULER, uintptr(os.Getpid()), 0, 0)
		fmt.Println(policy)
		return 0
	},
	"stack": func([]string) int {
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_STACK, &limit); err != nil {
			return 1
		}
		fmt.Println(limit.Cur, limit.Max)
		return 0
	},
	"stdin": func([]string) int {
		var st unix.Stat_t
		err := unix.Fstat(0, &st)
		kind := "file"
		if st.Mode&unix.S_IFMT == unix.S_IFCHR {
			kind = "device"
		}
		fmt.Printf("%s %d:%d\n", kind, unix.Major(st.Rdev), unix.Minor(st.Rdev))
		if err != nil {
			return 1
		}
		return 0
	},
	"swallow": func([]string) int { // until the end of its input
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			return 1
		}
		return 0
	},
	"flood": func([]string) int {
		for range 100 {
			fmt.Print(strings.Repeat("x", 1<<20))
		}
		return 3
	},
	"env": func([]string) int { fmt.Println(strings.Join(os.Environ(), "\n")); return 0 },
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Getenv("INSIDE") != "" {
		os.Exit(inside[os.Args[1]](os.Args[2:]))
	}
	if os.Geteuid() != 0 {
		fmt.Println("process: these tests make containers, and need root")
		os.Exit(0)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	if os.Getenv("OWN_MOUNTS") == "" {
		os.Exit(inOwnMounts())
	}
	before := descriptors()
	go kernel.ReapOrphans(context.Background(), time.Second)
	code := m.Run()
	if left := leaks(before); code == 0 && left != "" {
		fmt.Println("left behind:", left)
		code = 1
	}
	os.Exit(code)
}

// inOwnMounts runs the tests in a mount namespace of their own: what they mount
// on the host is not seen on the machine.
func inOwnMounts() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), "OWN_MOUNTS=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Println("a mount namespace for the tests:", err)
		}
		return 1
	}
	return 0
}

func descriptors() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// leaks says what is there now that was not before.
func leaks(before int) string {
	runtime.GC() // finalizers close what the runtime keeps
	deadline := time.Now().Add(5 * time.Second)
	for {
		var left []string
		threads, _ := filepath.Glob("/proc/self/task/*/children")
		for _, thread := range threads {
			if children, _ := os.ReadFile(thread); len(children) > 0 {
				left = append(left, "children "+string(children))
			}
		}
		// The program of the init, the poller, and the watcher of OOMs stay.
		const kept = 6
		if now := descriptors(); now > before+kept {
			left = append(left, fmt.Sprintf("%d descriptors", now-before))
		}
		for _, parent := range parents() {
			entries, _ := os.ReadDir(parent)
			for _, e := range entries {
				if e.IsDir() {
					left = append(left, filepath.Join(parent, e.Name()))
				}
			}
		}
		if len(left) == 0 {
			removeParents()
			return ""
		}
		if time.Now().After(deadline) {
			return strings.Join(left, "; ")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func cgroupParent() string { return fmt.Sprintf("myshim-test-%d", os.Getpid()) }

// parents are where the containers' cgroups are, in each hierarchy.
func parents() []string {
	v1, _ := filepath.Glob("/sys/fs/cgroup/*/" + cgroupParent())
	return append(v1, "/sys/fs/cgroup/"+cgroupParent())
}

func removeParents() {
	for _, parent := range parents() {
		_ = os.Remove(parent)
	}
}

// recorder keeps the events of a container.
type recorder struct {
	mu     sync.Mutex
	events []string
}

func (r *recorder) emit(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := map[EventKind]string{
		ContainerCreated: "create", ProcessStarted: "start", ExecAdded: "exec", ContainerPaused: "pause", ContainerResumed: "resume",
		OutOfMemory: "oom", ProcessExited: "exit", ContainerDeleted: "delete",
	}
	name := names[e.Kind]
	if e.ExecID != "" {
		name += "/" + e.ExecID
	}
	r.events = append(r.events, name)
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.events, " ")
}

var serial int

// config makes a bundle whose program is this test binary, and returns what
// Create takes. change is told the spec before it is written.
func config(t testing.TB, change func(*specs.Spec), args ...string) (Config, *recorder) {
	t.Helper()
	serial++
	id := fmt.Sprintf("c%d", serial)
	bundle := t.TempDir()
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Cwd: "/", Args: append([]string{"/test"}, args...), Env: []string{"INSIDE=1", "PATH=/bin:/"},
			Capabilities: &specs.LinuxCapabilities{}, NoNewPrivileges: true,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/test", Type: "bind", Source: self, Options: []string{"bind", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/" + cgroupParent() + "/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
			},
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	if change != nil {
		change(s)
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	return Config{ID: id, Namespace: "test", Bundle: bundle, Daemon: "test", Emit: r.emit, Stdio: stdio.Request{}}, r
}
