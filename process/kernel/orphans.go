package kernel

import (
	"context"
	"math"
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

// expected are those who wait for the pid of a clone, by when they began to.
var expected struct {
	sync.Mutex
	clock uint64          // guarded by the Mutex
	since map[uint64]bool // guarded by the Mutex
}

// ExpectClone is called before a child is started that clones with CLONE_PARENT.
// What dies from now on may be the clone, and is no orphan before known is called.
// It may be called again.
func ExpectClone() (known func()) {
	expected.Lock()
	defer expected.Unlock()
	if expected.since == nil {
		expected.since = map[uint64]bool{}
	}
	expected.clock++
	now := expected.clock
	expected.since[now] = true
	return func() {
		expected.Lock()
		defer expected.Unlock()
		delete(expected.since, now)
	}
}

// expectedSince is when the oldest of those began, and the time now.
func expectedSince() (oldest, now uint64) {
	expected.Lock()
	defer expected.Unlock()
	oldest = math.MaxUint64
	for since := range expected.since {
		oldest = min(oldest, since)
	}
	return oldest, expected.clock
}

// ReapOrphans takes processes off the process table that have come to this one
// when they end: as a child subreaper it gets what a container without a pid
// namespace of its own, or a hook, leaves behind, and what an exec's program
// clones with CLONE_PARENT. It never takes the exit of a Process, nor of a clone
// that is expected, nor that of a child which has been dead for less than age. It
// returns when ctx is done.
func ReapOrphans(ctx context.Context, age time.Duration) {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	defer signal.Stop(died)
	timer := time.NewTimer(age)
	defer timer.Stop()
	zombies, due := map[int]uint64{}, true // seen at the last look; the next one
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

// reapOrphans reaps the zombies that were there the last time, and are no clone
// that is expected since before they were seen. It returns the others, and when
// each was seen first.
func reapOrphans(before map[int]uint64) map[int]uint64 {
	starting.Lock()
	defer starting.Unlock()
	left := map[int]uint64{}
	oldest, now := expectedSince()
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for field := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(field)
			if _, ours := children.Load(pid); err != nil || ours || !zombie(pid) {
				continue
			}
			switch seen, again := before[pid]; {
			case !again:
				left[pid] = now
			case oldest <= seen:
				left[pid] = seen
			default:
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			}
		}
	}
	return left
}
