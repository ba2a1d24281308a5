package shim

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// A daemon is idle nearly always, and there is one for each pod. What it used
// only to get there goes back to the system once no request has come for
// quietAfter: its mapping of most of the binary, and garbage if the heap is
// larger than what a collection takes for its own data. Then this is done again
// only if there is much of either: a client that just polls does not make us do
// it each time, and nothing of it is periodic.
//
// Measured, in MB of anonymous memory + of the binary: with one container of
// ctr, 3.2 + 7.1 without and 3.3 + 1.2 with this (containerd's shim for runc:
// 4.0 + 7.4); with the garbage of 60 decoded config.json of 14 KB, 5.2 with Go's
// gcPercent of 100, 4.1 with 40, and 3.3 once it is freed. The next request
// takes 0.2 ms longer.
//
// While it is quiet there is no collection: Go's own one of every two minutes
// would bring back what was freed. Nor is there one in the first quietAfter,
// where it would take a third of the time of the first Create. Memory is bounded
// all the same.
const (
	gcPercent   = 40
	quietAfter  = 2 * time.Second
	worthwhile  = 1 << 20
	muchHeap    = 9 << 18 // resident
	muchBinary  = 4 << 20 // resident
	memoryLimit = 64 << 20
)

// memory is told of each request.
type memory struct {
	quiet *time.Timer

	mu    sync.Mutex
	state memoryState // guarded by mu
	limit uint64      // guarded by mu; of allocated bytes, to free memory again
}

type memoryState int

const (
	starting memoryState = iota
	asleep
	awake
)

func newMemory() *memory {
	debug.SetMemoryLimit(memoryLimit)
	debug.SetGCPercent(-1)
	m := new(memory)
	m.quiet = time.AfterFunc(quietAfter, m.sleep)
	return m
}

func (m *memory) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == starting { // which ends in time, however many requests there are
		return
	}
	m.quiet.Reset(quietAfter)
	if m.state == asleep {
		m.state = awake
		debug.SetGCPercent(gcPercent)
	}
}

func (m *memory) sleep() {
	var now runtime.MemStats
	runtime.ReadMemStats(&now)
	m.mu.Lock()
	m.state = asleep
	debug.SetGCPercent(-1)
	enough := now.TotalAlloc >= m.limit
	if enough {
		m.limit = now.TotalAlloc + worthwhile
	}
	m.mu.Unlock()
	if enough && now.HeapSys-now.HeapReleased > muchHeap {
		debug.FreeOSMemory()
	}
	if err := unmapBinary(); err != nil {
		log.L.WithError(err).Debug("the binary stays mapped")
	}
}

// unmapBinary drops the pages of the binary from this process; the ones that
// are needed come back from the page cache, at less than a µs each. So the code
// that only starts up, most of it, counts for nothing and is the first to go
// when memory is short.
func unmapBinary() error {
	if pages, err := residentFilePages(); err != nil || pages*os.Getpagesize() < muchBinary {
		return err
	}
	binary, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	type mapping struct{ from, to uintptr }
	var clean []mapping
	var current *mapping // that the lines are about, if it is one of the binary
	for line := range strings.Lines(string(smaps)) {
		var m mapping
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &m.from, &m.to, &mode); n == 3 {
			current = nil
			if (mode == "r-xp" || mode == "r--p") && strings.HasSuffix(line, " "+binary+"\n") {
				current = &m
			}
		}
		// Pages that were written to, as by the relocation of a PIE or a
		// debugger's breakpoint, would be lost.
		if current != nil && strings.Join(strings.Fields(line), " ") == "Anonymous: 0 kB" {
			clean = append(clean, *current)
		}
	}
	for _, m := range clean { // nothing else: all that runs now is mapped again
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED); errno != 0 {
			return errno
		}
	}
	return nil
}

// residentFilePages is the third field of /proc/self/statm, see
// proc_pid_statm(5).
func residentFilePages() (pages int, err error) {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var total, resident int
	_, err = fmt.Sscan(string(statm), &total, &resident, &pages)
	return pages, err
}
