package harness

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Vitals is what a process that lives long must not let grow.
type Vitals struct {
	FDs     []string // what each points to
	Threads int
	RSS     int // KiB
	PSS     int // KiB
}

func ReadVitals(pid int) (Vitals, error) {
	var v Vitals
	dir := fmt.Sprintf("/proc/%d/", pid)
	fds, err := os.ReadDir(dir + "fd")
	if err != nil {
		return v, err
	}
	for _, fd := range fds {
		if target, err := os.Readlink(dir + "fd/" + fd.Name()); err == nil {
			v.FDs = append(v.FDs, fd.Name()+" "+target)
		}
	}
	tasks, err := os.ReadDir(dir + "task")
	if err != nil {
		return v, err
	}
	v.Threads = len(tasks)
	memory, err := os.ReadFile(dir + "smaps_rollup")
	if err != nil {
		return v, err
	}
	for _, line := range strings.Split(string(memory), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, _ := strconv.Atoi(fields[1])
		switch fields[0] {
		case "Rss:":
			v.RSS = n
		case "Pss:":
			v.PSS = n
		}
	}
	return v, nil
}

var goroutine = regexp.MustCompile(`goroutine \d+ \[`)

// Goroutines asks a shim for its stacks, which it writes to its log between
// the same marks as containerd's, and counts them.
func Goroutines(ctx context.Context, pid int, log *Buffer) (int, error) {
	const end = "END goroutine stack dump"
	before := log.Len()
	if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
		return 0, err
	}
	var dump string
	err := log.AwaitFunc(ctx, "a dump of goroutines", func(all string) bool {
		dump = all[before:]
		return strings.Contains(dump, end)
	})
	return len(goroutine.FindAllString(dump, -1)), err
}
