package seccomp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The tests in here load filters, in a child: this program, told by an
// environment variable to be that.
const childEnv = "SECCOMP_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// task is what a child is to do.
type task struct {
	Program []byte // none: no filter
	Flags   uint32
	Calls   []call // nr and args count, and audit if it is that of x86
}

// child loads a filter, makes calls, and prints their errnos.
func child() error {
	var task task
	if err := json.NewDecoder(os.Stdin).Decode(&task); err != nil {
		return err
	}
	int80, err := loadInt80()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the filter is this thread's
	if len(task.Program) > 0 {
		fd, err := load(task.Program, task.Flags)
		if err != nil {
			return err
		}
		if task.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
			go answer(fd)
		}
	}
	var errnos []syscall.Errno
	for _, c := range task.Calls {
		var errno syscall.Errno
		a := c.Args
		if c.Audit == unix.AUDIT_ARCH_I386 {
			if r := int32(int80(uintptr(c.Nr), uintptr(a[0]), uintptr(a[1]))); r < 0 && r > -4096 {
				errno = syscall.Errno(-r)
			}
		} else {
			_, _, errno = unix.Syscall6(uintptr(c.Nr), uintptr(a[0]), uintptr(a[1]), uintptr(a[2]), uintptr(a[3]), uintptr(a[4]), uintptr(a[5]))
		}
		errnos = append(errnos, errno)
	}
	return json.NewEncoder(os.Stdout).Encode(errnos)
}

func load(program []byte, flags uint32) (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	prog := unix.SockFprog{Len: uint16(len(program) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return -1, fmt.Errorf("seccomp: %w", errno)
	}
	return int(fd), nil
}

// answer is an agent which lets calls fail with EXFULL.
func answer(listener int) {
	for {
		notification := make([]byte, 80)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&notification[0]))); errno != 0 {
			continue
		}
		response := struct {
			id    uint64
			val   int64
			error int32
			flags uint32
		}{id: *(*uint64)(unsafe.Pointer(&notification[0])), error: -int32(unix.EXFULL)}
		unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&response)))
	}
}

// loadInt80 returns a function that makes a system call of x86. Go passes
// arguments in RAX, RBX and RCX, as that does; all else is the two instructions.
func loadInt80() (func(nr, a, b uintptr) uintptr, error) {
	code, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, err
	}
	copy(code, []byte{0xcd, 0x80, 0xc3})
	start := unsafe.Pointer(&code[0])
	function := &start
	return *(*func(nr, a, b uintptr) uintptr)(unsafe.Pointer(&function)), nil
}

// perform has a child do a task.
func perform(t *testing.T, task task) ([]syscall.Errno, error) {
	t.Helper()
	input, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var errnos []syscall.Errno
	if err := json.Unmarshal(out, &errnos); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return errnos, nil
}

// TestKernel makes calls under the default profiles, and expects the errno that
// the profile means, or the one that they have without.
func TestKernel(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the calls to make are those of x86_64")
	}
	const nowhere = 1<<64 - 1
	var calls []call
	for _, name := range []string{
		"add_key", "bpf", "chroot", "clone3", "fsopen", "getpid", "getuid", "io_uring_setup", "kexec_load", "keyctl",
		"memfd_secret", "mount", "mount_setattr", "move_pages", "openat2", "perf_event_open", "pidfd_getfd", "ptrace",
		"quotactl", "reboot", "setns", "stat", "swapon", "syslog", "umount2", "unshare", "userfaultfd",
	} {
		for _, a := range []abi{{name: specs.ArchX86_64, column: 1}, {name: specs.ArchX86, column: 2}, {name: specs.ArchX32, column: 3}} {
			for nr := range a.numbers(name) {
				c := call{unix.AUDIT_ARCH_X86_64, nr, [6]uint64{nowhere, nowhere, nowhere, nowhere, nowhere, nowhere}}
				if a.name == specs.ArchX86 {
					c.Audit, c.Args = unix.AUDIT_ARCH_I386, [6]uint64{1<<32 - 1, 1<<32 - 1}
				}
				calls = append(calls, c)
			}
		}
	}
	for domain := range uint64(46) {
		calls = append(calls, call{unix.AUDIT_ARCH_X86_64, unix.SYS_SOCKET, [6]uint64{domain, unix.SOCK_DGRAM, 9}})
		calls = append(calls, call{unix.AUDIT_ARCH_I386, 359, [6]uint64{domain, unix.SOCK_DGRAM}}) // socket
		calls = append(calls, call{unix.AUDIT_ARCH_I386, 102, [6]uint64{domain, 0}})               // socketcall
	}
	for _, persona := range []uint64{0, 1, 8, 0x20000, 0x20008, 0xffffffff} {
		calls = append(calls, call{unix.AUDIT_ARCH_X86_64, unix.SYS_PERSONALITY, [6]uint64{persona}})
	}
	for nr := uint32(420); nr < 520; nr += 10 {
		calls = append(calls, call{unix.AUDIT_ARCH_X86_64, nr, [6]uint64{nowhere, nowhere, nowhere, nowhere, nowhere, nowhere}})
	}
	plain, err := perform(t, task{Calls: calls})
	if err != nil {
		t.Fatal(err)
	}
	if n := slices.Index(plain, unix.ENOSYS); calls[max(n, 0)].Audit == unix.AUDIT_ARCH_I386 {
		t.Log("this kernel runs no x86 programs")
	}
	for name, p := range profiles(t) {
		if nativeOf(name) != specs.ArchX86_64 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			f, err := Compile(p)
			if err != nil {
				t.Fatal(err)
			}
			filtered, err := perform(t, task{f.Program, f.Flags, calls})
			if err != nil {
				t.Fatal(err)
			}
			m := meaningOf(p, specs.ArchX86_64)
			for i, c := range calls {
				want, action := plain[i], m.action(c)
				if action&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ERRNO {
					want = syscall.Errno(action & unix.SECCOMP_RET_DATA)
				}
				if filtered[i] != want {
					t.Errorf("%#x nr %#x(%#x): errno %d, want %d (%d without a filter)", c.Audit, c.Nr, c.Args, filtered[i], want, plain[i])
				}
			}
		})
	}
}

// TestKernelActions has a rule of each action hit.
func TestKernelActions(t *testing.T) {
	for _, test := range []struct {
		action specs.LinuxSeccompAction
		flags  []specs.LinuxSeccompFlag
		errno  syscall.Errno
		signal syscall.Signal
	}{
		{action: specs.ActAllow},
		{action: specs.ActErrno, errno: unix.EPERM},
		{action: specs.ActKillProcess, signal: unix.SIGSYS},
		{action: specs.ActLog},
		{action: specs.ActNotify, errno: unix.EXFULL},
		{action: specs.ActNotify, errno: unix.EXFULL, flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}},
		{action: specs.ActTrace, errno: unix.ENOSYS}, // nobody traces
		{action: specs.ActErrno, errno: unix.EPERM, flags: []specs.LinuxSeccompFlag{
			flagTsync, specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, specs.LinuxSeccompFlagWaitKillableRecv,
		}},
	} {
		t.Run(fmt.Sprint(test.action, test.flags), func(t *testing.T) {
			f, err := Compile(&specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow,
				Flags:         test.flags,
				ListenerPath:  "/agent",
				Syscalls:      []specs.LinuxSyscall{{Names: []string{"getppid"}, Action: test.action}},
			})
			if err != nil {
				t.Fatal(err)
			}
			errnos, err := perform(t, task{f.Program, f.Flags, []call{{Nr: unix.SYS_GETPPID}}})
			var exit *exec.ExitError
			switch {
			case test.signal != 0:
				if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != test.signal {
					t.Errorf("%v, want %v", err, test.signal)
				}
			case err != nil:
				t.Fatal(err)
			case errnos[0] != test.errno:
				t.Errorf("%v, want %v", errnos[0], test.errno)
			}
		})
	}
}
