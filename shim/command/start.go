package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// addressFile is our file in the bundle: the address of the daemon's socket.
// containerd 1.7 reads it when it restarts; later ones if they were killed
// before they wrote their bootstrap.json; `delete` always.
const addressFile = "address"

// ListenerFD is the descriptor on which the daemon finds its listening socket.
const ListenerFD = 3

// Start makes the socket and the daemon, or finds those of the container's
// group, and answers with the address. It does not wait for the daemon: the
// socket is listening already, and holds the connections until it accepts them.
func Start(line Line, stdin io.Reader, stdout io.Writer) error {
	if err := line.Check(); err != nil {
		return err
	}
	p, err := readBootstrap(line, stdin)
	if err != nil {
		return err
	}
	group, err := group(line.ID)
	if err != nil {
		return err
	}
	file := socketPath(p.socketDir, p.grpcAddress, p.namespace, group)
	address := scheme + file
	// Before the socket: `delete` has to find it, whenever we are killed.
	if err := os.WriteFile(addressFile, []byte(address), 0o600); err != nil {
		return err
	}
	listener, err := listen(file)
	if err != nil && !errors.Is(err, errTaken) {
		return err
	}
	if err == nil {
		if err := spawn(p, listener); err != nil {
			return errors.Join(err, os.Remove(file))
		}
	}
	if _, err := stdout.Write(p.answer(address)); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

// spawn starts the daemon: this binary without an action, which is also what
// tools that look for shims in process lists know.
func spawn(p bootstrap, listener int) error {
	// Nothing that we may have inherited goes on to the daemon, which lives
	// long. What Go opens is marked already.
	const closeRange, cloexec = 436, 4 // close_range(2), CLOSE_RANGE_CLOEXEC
	if _, _, errno := syscall.Syscall(closeRange, 3, ^uintptr(0), cloexec); errno != 0 {
		return fmt.Errorf("close_range: %w", errno)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	if err := adjustOOMScore(); err != nil {
		return err
	}
	cgroup, err := openCgroup(p.options.ShimCgroup)
	if err != nil {
		return fmt.Errorf("shim_cgroup %q: %w", p.options.ShimCgroup, err)
	}
	defer cgroup.Close()

	args := []string{os.Args[0], "-namespace", p.namespace, "-id", p.id, "-address", p.grpcAddress}
	if p.debug {
		args = append(args, "-debug")
	}
	attr := &syscall.ProcAttr{
		Env: environment(p),
		// Not our standard output and error: containerd waits for their end.
		Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), uintptr(listener)},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if cgroup.v2 != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(cgroup.v2.Fd())
	}

	// A core scheduling domain belongs to the thread that makes it, and is
	// passed on by fork.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if os.Getenv("SCHED_CORE") != "" {
		if err := createCoreSchedulingDomain(); err != nil {
			return err
		}
	}
	pid, err := forkExec(args, attr)
	if err != nil {
		return err
	}
	if err := cgroup.addV1(pid); err != nil {
		err = fmt.Errorf("shim_cgroup %q: %w", p.options.ShimCgroup, err)
		return errors.Join(err, syscall.Kill(pid, syscall.SIGKILL)) // not reaped yet
	}
	return nil
}

func forkExec(args []string, attr *syscall.ProcAttr) (pid int, err error) {
	const self = "/proc/self/exe"
	// By its name, which process lists show; but if the file was replaced
	// meanwhile, it is still ours that must run.
	if binary, err := os.Readlink(self); err == nil {
		pid, err := syscall.ForkExec(binary, args, attr)
		if err == nil {
			return pid, nil
		}
		if err != syscall.ENOENT {
			return 0, fmt.Errorf("start the daemon %s: %w", binary, err)
		}
	}
	pid, err = syscall.ForkExec(self, args, attr)
	if err != nil {
		return 0, fmt.Errorf("start the daemon: %w", err)
	}
	return pid, nil
}

// environment is containerd's, as it is for runc's shim: hooks may look at it.
func environment(p bootstrap) []string {
	env := os.Environ()
	set := func(name, value string) {
		for i, e := range env {
			if strings.HasPrefix(e, name+"=") {
				env[i] = name + "=" + value
				return
			}
		}
		env = append(env, name+"="+value)
	}
	set("TTRPC_ADDRESS", p.ttrpcAddress)
	if os.Getenv("GOMAXPROCS") == "" {
		// containerd sets it to 2 itself. Each further one costs the daemon
		// memory for as long as the container runs.
		set("GOMAXPROCS", "2")
	}
	return env
}

func createCoreSchedulingDomain() error {
	// PR_SCHED_CORE, PR_SCHED_CORE_CREATE, for the process group of this thread
	const prSchedCore, create, processGroup = 62, 1, 2
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prSchedCore, create, 0, processGroup, 0, 0); errno != 0 {
		return fmt.Errorf("core scheduling (SCHED_CORE): %w", errno)
	}
	return nil
}

// adjustOOMScore makes the daemon one point more likely to be killed for memory
// than containerd. It is set on this process, whose child inherits it: so there
// is no moment without.
func adjustOOMScore() error {
	score, err := oomScore(os.Getppid())
	if err != nil {
		return err
	}
	own, err := oomScore(os.Getpid())
	if err != nil {
		return err
	}
	score = min(score+1, 1000)
	if own == score || own > score && os.Geteuid() != 0 { // lowering takes a privilege
		return nil
	}
	err = os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(score)), 0)
	if own > score && errors.Is(err, os.ErrPermission) { // which root of a user namespace has not
		return nil
	}
	return err
}

func oomScore(pid int) (int, error) {
	name := "/proc/" + strconv.Itoa(pid) + "/oom_score_adj"
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return score, nil
}

// shimCgroup is where the daemon goes: into one cgroup of version 2, where it
// is born, or into those of the same name in the hierarchies of version 1.
type shimCgroup struct {
	v2 *os.File
	v1 []string
}

func (c shimCgroup) Close() {
	if c.v2 != nil {
		c.v2.Close()
	}
}

func openCgroup(name string) (c shimCgroup, err error) {
	if name == "" {
		return c, nil
	}
	for element := range strings.SplitSeq(name, "/") {
		if element == ".." {
			return c, errors.New("the path leads out with \"..\"")
		}
	}
	const root, cgroup2 = "/sys/fs/cgroup", 0x63677270
	var st syscall.Statfs_t
	if err := syscall.Statfs(root, &st); err != nil {
		return c, fmt.Errorf("statfs %s: %w", root, err)
	}
	if st.Type == cgroup2 {
		c.v2, err = os.OpenFile(path.Join(root, name), os.O_RDONLY|syscall.O_DIRECTORY, 0)
		return c, err
	}
	hierarchies, err := os.ReadDir(root)
	if err != nil {
		return c, err
	}
	for _, h := range hierarchies { // cpu and the like are links to cpu,cpuacct
		if !h.IsDir() {
			continue
		}
		dir := path.Join(root, h.Name(), name)
		if _, err := os.Stat(dir); err == nil {
			c.v1 = append(c.v1, dir)
		} else if !errors.Is(err, os.ErrNotExist) {
			return c, err
		}
	}
	if c.v1 == nil {
		return c, errors.New("no hierarchy has it")
	}
	return c, nil
}

func (c shimCgroup) addV1(pid int) error {
	for _, dir := range c.v1 {
		if err := os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0); err != nil {
			return err
		}
	}
	return nil
}
