package harness

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Shims outlive the process that starts them. This process is their subreaper:
// whatever was started below it, by whatever detour, stays its descendant, is
// found by Descendants, and is reaped here.
//
// The commands that the harness starts itself are waited for by os/exec: the
// reaper must not take their exit, so they are listed. All commands go
// through Start.
var children struct {
	sync.Mutex
	ours map[int]bool // guarded by the Mutex
}

// Start is cmd.Start; Wait must follow.
func Start(cmd *exec.Cmd) error {
	children.Lock()
	defer children.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	if children.ours == nil {
		children.ours = map[int]bool{}
	}
	children.ours[cmd.Process.Pid] = true
	return nil
}

// Wait is cmd.Wait for what Start started.
func Wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	children.Lock()
	defer children.Unlock()
	delete(children.ours, cmd.Process.Pid)
	return err
}

// Run starts cmd and waits for it.
func Run(cmd *exec.Cmd) error {
	if err := Start(cmd); err != nil {
		return err
	}
	return Wait(cmd)
}

// Adopt makes this process the subreaper, and keeps reaping.
func adopt() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	go func() {
		for range died {
			reap()
		}
	}()
	return nil
}

// reap waits for those children only, which takes a few reads: it runs while
// something is being measured.
func reap() {
	children.Lock()
	defer children.Unlock()
	lists, _ := filepath.Glob("/proc/self/task/*/children") // CONFIG_PROC_CHILDREN
	for _, list := range lists {
		pids, _ := os.ReadFile(list) // its thread may have ended
		for word := range strings.FieldsSeq(string(pids)) {
			if pid, err := strconv.Atoi(word); err == nil && !children.ours[pid] {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			}
		}
	}
}

type process struct {
	parent int
	zombie bool
	name   string
}

// Processes reads all of /proc; a process that ends meanwhile may be missing.
func processes() map[int]process {
	found := map[int]process{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return found
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// pid (name) state parent …, where the name can hold anything.
		text := string(stat)
		open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
		fields := strings.Fields(text[end+1:])
		parent, _ := strconv.Atoi(fields[1])
		found[pid] = process{parent: parent, zombie: fields[0] == "Z", name: text[open+1 : end]}
	}
	return found
}

// Strays are the processes below this one which it hasn't started itself.
func strays() map[int]string {
	found := Descendants()
	children.Lock()
	defer children.Unlock()
	for pid := range children.ours {
		delete(found, pid)
	}
	return found
}

// Descendants are the processes below this one, with what they run.
func Descendants() map[int]string {
	all := processes()
	below := map[int]string{}
	for pid, p := range all {
		for up := p; up.parent > 1; up = all[up.parent] {
			if up.parent == os.Getpid() {
				below[pid] = describe(pid, p)
				break
			}
		}
	}
	return below
}

func describe(pid int, p process) string {
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	text := strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
	if text == "" {
		text = "[" + p.name + "]"
	}
	if p.zombie {
		text += " (zombie)"
	}
	return fmt.Sprintf("%d %s", pid, text)
}
