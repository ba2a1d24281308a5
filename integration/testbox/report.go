package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var reportApplets = []applet{
	{"report", "[SECTION...]: what this process is and has, as JSON", report},
	{"env", "", func([]string) int {
		_, err := fmt.Println(strings.Join(os.Environ(), "\n"))
		return check(err)
	}},
	{"pwd", "", func([]string) int {
		cwd, err := os.Getwd()
		fmt.Println(cwd)
		return check(err)
	}},
	{"id", "", func([]string) int { return printJSON(ids()) }},
	{"hostname", "", func([]string) int {
		name, err := os.Hostname()
		fmt.Println(name)
		return check(err)
	}},
	{"sysctl", "NAME...", func(args []string) int {
		values := map[string]string{}
		for _, name := range args {
			values[name] = content("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
		}
		return printJSON(values)
	}},
}

var sections = map[string]func() any{
	"args":     func() any { return os.Args },
	"cgroup":   func() any { return lines("/proc/self/cgroup") },
	"clock":    clocks,
	"cwd":      func() any { return cwd() },
	"devices":  func() any { return list("/dev") },
	"env":      func() any { return os.Environ() },
	"fds":      fds,
	"hostname": hostname,
	"ids":      func() any { return ids() },
	"keyring":  keyring,
	"mounts":   func() any { return lines("/proc/self/mountinfo") },
	"net":      interfaces,
	"ns":       namespaces,
	"pid":      func() any { return os.Getpid() },
	"proc":     processes,
	"status":   status,
	"tty":      func() any { return terminals() },
	"userns": func() any {
		return map[string]any{"uid": lines("/proc/self/uid_map"), "gid": lines("/proc/self/gid_map"), "setgroups": content("/proc/self/setgroups")}
	},
}

func report(args []string) int {
	out := map[string]any{}
	if len(args) == 0 {
		for name, section := range sections {
			out[name] = section()
		}
	}
	for _, name := range args {
		section, ok := sections[name]
		if !ok {
			return check(fmt.Errorf("no section %q", name))
		}
		out[name] = section()
	}
	return printJSON(out)
}

// Content is a file's, or the errno that its reader gets.
func content(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return outcome(err)
	}
	return strings.TrimSpace(string(data))
}

func lines(name string) []string {
	return strings.Split(content(name), "\n")
}

func cwd() string {
	dir, err := os.Getwd()
	if err != nil {
		return outcome(err)
	}
	return dir
}

func hostname() any {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return outcome(err)
	}
	return map[string]string{"host": unix.ByteSliceToString(u.Nodename[:]), "domain": unix.ByteSliceToString(u.Domainname[:])}
}

type identity struct {
	UID, GID []int
	Groups   []int
}

func ids() identity {
	r, e, s := unix.Getresuid()
	id := identity{UID: []int{r, e, s}}
	r, e, s = unix.Getresgid()
	id.GID = []int{r, e, s}
	id.Groups, _ = unix.Getgroups()
	return id
}

// Status leaves out what is never the same twice.
func status() any {
	fields := map[string]string{}
	for _, line := range lines("/proc/self/status") {
		name, value, _ := strings.Cut(line, ":")
		if strings.HasPrefix(name, "Vm") || strings.HasPrefix(name, "Rss") || strings.HasSuffix(name, "_switches") {
			continue
		}
		fields[name] = strings.TrimSpace(value)
	}
	return fields
}

func namespaces() any {
	ids := map[string]string{}
	entries, err := os.ReadDir("/proc/self/ns")
	if err != nil {
		return outcome(err)
	}
	for _, e := range entries {
		link, err := os.Readlink("/proc/self/ns/" + e.Name())
		if err != nil {
			link = outcome(err)
		}
		ids[e.Name()] = link
	}
	return ids
}

type descriptor struct {
	Target string
	Flags  string // of F_GETFL: what the next user of a shared terminal or FIFO would suffer from
	Mode   string
	Owner  string
}

// Fds leaves out the one that it reads the directory with and those of Go's
// poller, which are not there before some descriptor is polled.
func fds() any {
	open := map[string]descriptor{}
	dir, err := unix.Open("/proc/self/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return outcome(err)
	}
	defer unix.Close(dir)
	buf := make([]byte, 8192)
	n, err := unix.Getdents(dir, buf)
	if err != nil {
		return outcome(err)
	}
	_, _, names := unix.ParseDirent(buf[:n], -1, nil)
	for _, name := range names {
		fd, _ := strconv.Atoi(name)
		if fd == dir {
			continue
		}
		target, err := os.Readlink("/proc/self/fd/" + name)
		if err != nil {
			target = outcome(err)
		}
		if target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]" {
			continue
		}
		d := descriptor{Target: target}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil {
			d.Flags = fmt.Sprintf("%#o", flags&^unix.O_LARGEFILE)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err == nil {
			d.Mode, d.Owner = fmt.Sprintf("%#o", st.Mode), fmt.Sprintf("%d:%d", st.Uid, st.Gid)
		}
		open[name] = d
	}
	return open
}

func keyring() any {
	id, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	if err != nil {
		return outcome(err)
	}
	desc, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, id)
	if err != nil {
		return outcome(err)
	}
	return desc
}

// Clocks tells a time namespace's offsets, as whole hours.
func clocks() any {
	hours := map[string]int64{}
	for name, id := range map[string]int32{"monotonic": unix.CLOCK_MONOTONIC, "boottime": unix.CLOCK_BOOTTIME} {
		var ts unix.Timespec
		if err := unix.ClockGettime(id, &ts); err == nil {
			hours[name] = ts.Sec / 3600
		}
	}
	return hours
}

// Processes are the ones that a container sees: how many of each name.
func processes() any {
	seen := map[string]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		seen[content(dir+"/comm")]++
	}
	return seen
}
