package shim

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// filePages returns how many pages of files a process has mapped.
func filePages(t *testing.T, pid string) int {
	t.Helper()
	statm, err := os.ReadFile("/proc/" + pid + "/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[2])
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

func TestUnmapBinary(t *testing.T) {
	before := filePages(t, "self")
	if err := unmapBinary(); err != nil {
		t.Fatal(err)
	}
	if after := filePages(t, "self"); after > before*3/4 {
		t.Errorf("%d pages of files after, %d before", after, before)
	}
}

// A daemon that has become quiet frees what it does not need, and goes on.
func TestQuiet(t *testing.T) {
	t.Parallel()
	c := newCaller(t, "quiet")
	d := connect(t, c.start())
	pid := strconv.Itoa(d.pid)
	for range 2 { // with a collection, and back to it
		d.call("Garbage", "")
		before := filePages(t, pid)
		eventually(t, "less of the binary is mapped", func() bool { return filePages(t, pid) < before*3/4 })
	}
	d.shutdown()
}
