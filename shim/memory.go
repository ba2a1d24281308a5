package shim

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// A daemon is idle nearly always, and there is one for each pod. Creating a
// container leaves it some MB of garbage, and maps all of the binary.
//
// With gcPercent below Go's 100, the heap grows less meanwhile. Once no request
// has come for quietAfter, what is not needed to wait goes back to the system,
// unless there is less than worthwhile of it: a client that only polls does not
// make us collect each time. Nothing of that runs periodically.
//
// Measured with three config.json of 14 KB, in KB of anonymous memory and of
// the binary: 4960 + 6560 with Go's defaults, 3990 + 6500 with gcPercent 40,
// 3000 + 3900 once that is freed too.
const (
	gcPercent  = 40
	quietAfter = 2 * time.Second
	worthwhile = 1 << 20
)

// freeMemory returns a function that frees what has become garbage or was used
// only once, if there was enough since its last call.
func freeMemory() func() {
	var before uint64
	return func() {
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		if now.TotalAlloc-before < worthwhile {
			return
		}
		before = now.TotalAlloc
		debug.FreeOSMemory()
		if err := unmapBinary(); err != nil {
			log.L.WithError(err).Debug("the binary stays mapped")
		}
	}
}

// unmapBinary drops the pages of the binary from this process; the ones that
// are needed come back from the page cache, at less than a µs each. So the code
// that only starts up, most of it, counts for nothing and is the first to go
// when memory is short.
func unmapBinary() error {
	binary, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	var from, to uintptr // of the mapping that the lines are about, if wanted
	for line := range bytes.Lines(smaps) {
		var start, end uintptr
		var mode string
		if n, _ := fmt.Sscanf(string(line), "%x-%x %s", &start, &end, &mode); n == 3 {
			from, to = 0, 0
			if (mode == "r-xp" || mode == "r--p") && bytes.HasSuffix(line, []byte(" "+binary+"\n")) {
				from, to = start, end
			}
			continue
		}
		// Pages that were written to, as by the relocation of a PIE or a
		// debugger's breakpoint, would be lost.
		if field, value, _ := bytes.Cut(line, []byte(":")); from != 0 && string(field) == "Anonymous" && string(bytes.TrimSpace(value)) == "0 kB" {
			if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
				return errno
			}
		}
	}
	return nil
}
