package kernel

import (
	"fmt"
	"os"
	"strings"
)

// StartTime is when a process was started (field 22 of proc_pid_stat(5)), which
// no other process with its pid can have been. It is "" if there is no process,
// or it has ended.
func StartTime(pid int) string {
	const start = 22 - 3
	fields := stat(pid)
	if len(fields) <= start || fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return fields[start]
}

func zombie(pid int) bool {
	fields := stat(pid)
	return len(fields) > 0 && fields[0] == "Z"
}

// stat are the fields of proc_pid_stat(5) from the third one on, the state. They
// are counted from the end of the name, which may have anything in it.
func stat(pid int) []string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
}
