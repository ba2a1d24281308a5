package seccomp

import (
	_ "embed"
	"sort"
	"strconv"
	"strings"
)

// syscalls has one line for each name, all of the same length and sorted: nothing
// is built from it when the program starts, and a name is found by bisection.
//
//go:embed syscalls.txt
var syscalls string

// column is one of those of syscalls.txt, with the numbers of an architecture. The last
// two have what x86 passes to socketcall(2) and ipc(2) for the call.
type column int

const (
	colX86_64 column = iota
	colX86
	colX32
	colAARCH64
	colARM
	colRISCV64
	colLOONGARCH64
	colSocketcall
	colIPC
	columns
)

const (
	nameWidth   = 28
	numberWidth = 7
	lineWidth   = nameWidth + int(columns)*numberWidth + len("\n")
)

// numbers are those of one system call, a column each, or -1.
type numbers [columns]int

// lookup returns the numbers of a system call, if there is one of this name on
// any architecture.
func lookup(name string) (numbers, bool) {
	line := func(i int) string { return syscalls[i*lineWidth:][:lineWidth] }
	lines := len(syscalls) / lineWidth
	i := sort.Search(lines, func(i int) bool { return strings.TrimRight(line(i)[:nameWidth], " ") >= name })
	if i == lines || strings.TrimRight(line(i)[:nameWidth], " ") != name {
		return numbers{}, false
	}
	var n numbers
	for c := range n {
		field := strings.TrimSpace(line(i)[nameWidth+c*numberWidth:][:numberWidth])
		n[c] = -1
		if field != "-" {
			n[c], _ = strconv.Atoi(field)
		}
	}
	return n, true
}
