//go:build ignore

// Gensyscalls writes syscalls.txt from the tables of golang.org/x/sys. x32 is
// not among them: it has the numbers of x86_64 except for those that the
// kernel header asm/unistd_x32.h (Debian's linux-libc-dev) leaves out or moves.
package main

import (
	"bytes"
	"fmt"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

type table map[string]int

// socketcall and ipc are what x86 passes in the first argument of the two
// system calls that stand for many (include/uapi/linux/{net,ipc}.h).
var socketcall = table{
	"socket": 1, "bind": 2, "connect": 3, "listen": 4, "accept": 5,
	"getsockname": 6, "getpeername": 7, "socketpair": 8, "send": 9, "recv": 10,
	"sendto": 11, "recvfrom": 12, "shutdown": 13, "setsockopt": 14,
	"getsockopt": 15, "sendmsg": 16, "recvmsg": 17, "accept4": 18,
	"recvmmsg": 19, "sendmmsg": 20,
}

var ipc = table{
	"semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11,
	"msgrcv": 12, "msgget": 13, "msgctl": 14, "shmat": 21, "shmdt": 22,
	"shmget": 23, "shmctl": 24,
}

// armPrivate is in arch/arm/include/uapi/asm/unistd.h, outside of the table.
var armPrivate = table{
	"breakpoint": 0xf0001, "cacheflush": 0xf0002, "usr26": 0xf0003,
	"usr32": 0xf0004, "set_tls": 0xf0005, "get_tls": 0xf0006,
	"sync_file_range2": 341, // the generic name of arm_sync_file_range
}

func main() {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		log.Fatal(err)
	}
	sys := func(goarch string) table {
		return scan(filepath.Join(strings.TrimSpace(string(dir)), "unix", "zsysnum_linux_"+goarch+".go"),
			`SYS_([A-Z0-9_]+) += (\d+)`)
	}
	amd64, arm := sys("amd64"), sys("arm")
	delete(arm, "syscall_mask") // a constant, not a system call
	maps.Copy(arm, armPrivate)

	x32 := scan("/usr/include/x86_64-linux-gnu/asm/unistd_x32.h", `__NR_([a-z0-9_]+) \(__X32_SYSCALL_BIT \+ (\d+)\)`)
	header := scan("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", `__NR_([a-z0-9_]+) (\d+)`)
	newest := slices.Max(slices.Collect(maps.Values(header)))
	for name, nr := range amd64 {
		if nr > newest { // than the header; since 424 all architectures share the numbers
			x32[name] = nr
		}
	}
	delete(x32, "map_shadow_stack") // for 64-bit programs only

	columns := []struct {
		name string
		table
	}{ // in the order of the constants in syscalls.go
		{"x86_64", amd64}, {"x86", sys("386")}, {"x32", x32}, {"aarch64", sys("arm64")}, {"arm", arm},
		{"riscv64", sys("riscv64")}, {"loongarch64", sys("loong64")}, {"socketcall", socketcall}, {"ipc", ipc},
	}
	names := map[string]bool{}
	for _, c := range columns {
		for name := range c.table {
			names[name] = true
		}
	}

	var out bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&out, "%-*s", nameWidth, name)
		for _, c := range columns {
			nr := "-"
			if n, ok := c.table[name]; ok {
				nr = strconv.Itoa(n)
			}
			fmt.Fprintf(&out, "%*s", numberWidth, nr)
		}
		out.WriteByte('\n')
	}
	if err := os.WriteFile("syscalls.txt", out.Bytes(), 0o644); err != nil {
		log.Fatal(err)
	}
}

const nameWidth, numberWidth = 28, 7

// scan reads the names and numbers that pattern finds in a file.
func scan(file, pattern string) table {
	text, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	t := table{}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
		t[strings.ToLower(m[1])], _ = strconv.Atoi(m[2])
	}
	if len(t) == 0 {
		log.Fatalf("%s: no system calls", file)
	}
	return t
}
