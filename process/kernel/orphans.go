package kernel

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// children are the pids of OpenChild that are not waited for yet.
var children sync.Map

// ReapOrphans takes processes off the process table that have come to this one
// when they end: as a child subreaper it gets what a container without a pid
// namespace of its own, or a hook, leaves behind, and what an exec's program
// clones with CLONE_PARENT. It never takes the exit of a Process, nor that of a
// child which has been dead for less than age. It returns when ctx is done.
func ReapOrphans(ctx context.Context, age time.Duration) {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	defer signal.Stop(died)
	timer := time.NewTimer(age)
	defer timer.Stop()
	zombies, due := map[int]bool{}, true // seen at the last look; the next one
	for {
		select {
		case <-ctx.Done():
			return
		case <-died:
			if !due {
				timer.Reset(age)
				due = true
			}
		case <-timer.C:
			zombies = reapOrphans(zombies)
			if due = len(zombies) > 0; due {
				timer.Reset(age)
			}
		}
	}
}

// reapOrphans reaps the zombies that were there the last time, and returns
// those that are new.
func reapOrphans(before map[int]bool) map[int]bool {
	starting.Lock()
	defer starting.Unlock()
	now := map[int]bool{}
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for field := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(field)
			if _, ours := children.Load(pid); err != nil || ours || !zombie(pid) {
				continue
			}
			if before[pid] {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			} else {
				now[pid] = true
			}
		}
	}
	return now
}
