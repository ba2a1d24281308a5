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
// as a child subreaper, when they end: what a container without a pid namespace
// of its own, or a hook, leaves behind. It never takes the exit of a Process,
// and not that of a child which somebody else waits for: that is what has been
// dead for no longer than age. It returns when ctx is done.
func ReapOrphans(ctx context.Context, age time.Duration) {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	defer signal.Stop(died)
	timer := time.NewTimer(age)
	defer timer.Stop()
	zombies := map[int]bool{} // seen at the last look
	for {
		select {
		case <-ctx.Done():
			return
		case <-died:
			if len(zombies) == 0 {
				timer.Reset(age)
				zombies[0] = true // a look is due
			}
		case <-timer.C:
			zombies = reapOrphans(zombies)
			if len(zombies) > 0 {
				timer.Reset(age)
			}
		}
	}
}

// reapOrphans reaps the zombies that were there the last time, and returns
// those that are new.
func reapOrphans(before map[int]bool) map[int]bool {
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
