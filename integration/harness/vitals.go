package harness

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Vitals is what a process that lives long must not let grow.
type Vitals struct {
	FDs     []string // what each points to
	Threads int
	RSS     int // KiB
	PSS     int // KiB
}

// ReadVitals of a living process.
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

// Goroutines asks a shim for its stacks, which it writes to its log, and counts
// them. Containerd's marks the end; of another one the end is when no more comes.
func Goroutines(ctx context.Context, pid int, log *Buffer) (int, error) {
	before := log.Len()
	if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
		return 0, err
	}
	for seen := 0; ; {
		var dump string
		soon, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		ended := log.AwaitFunc(soon, "the end of a dump", func(all string) bool {
			dump = all[before:]
			return strings.Contains(dump, "END goroutine stack dump")
		})
		cancel()
		n := len(goroutine.FindAllString(dump, -1))
		if ended == nil || n > 0 && n == seen {
			return n, nil
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("no stacks in the log of %d: %w", pid, ctx.Err())
		}
		seen = n
	}
}
