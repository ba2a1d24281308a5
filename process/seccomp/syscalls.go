package seccomp

import (
	_ "embed"
	"sort"
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

// line is one of syscalls.
type line string

// lookup finds the line of a system call, if any architecture has one of this
// name.
func lookup(name string) (line, bool) {
	if len(name) > nameWidth {
		return "", false
	}
	key := name + strings.Repeat(" ", nameWidth-len(name))
	at := func(i int) string { return syscalls[i*lineWidth:][:lineWidth] }
	i, found := sort.Find(len(syscalls)/lineWidth, func(i int) int { return strings.Compare(key, at(i)[:nameWidth]) })
	if !found {
		return "", false
	}
	return line(at(i)), true
}

// number returns what is in a column, if there is something.
func (l line) number(c column) (uint32, bool) {
	field := l[nameWidth+int(c)*numberWidth:][:numberWidth]
	n, ok := uint32(0), false
	for _, digit := range []byte(field) {
		if '0' <= digit && digit <= '9' { // and not a space, or the - for nothing
			n, ok = 10*n+uint32(digit-'0'), true
		}
	}
	return n, ok
}
