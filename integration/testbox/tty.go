package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"
)

var ttyApplets = []applet{
	{"tty", "terminals on descriptors 0 to 2, as JSON", func([]string) int { return printJSON(terminals()) }},
	{"winch", "the window's size, now and whenever it changes", winch},
	{"tty-lines", "print each line of the terminal between brackets", ttyLines},
}

type terminal struct {
	Name        string
	Size        string
	Mode        string
	Owner       string
	Controlling bool
}

func terminals() map[string]terminal {
	found := map[string]terminal{}
	for fd := range 3 {
		size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		if err != nil {
			continue
		}
		name := strconv.Itoa(fd)
		t := terminal{Size: fmt.Sprintf("%dx%d", size.Col, size.Row)}
		t.Name, _ = os.Readlink("/proc/self/fd/" + name)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err == nil {
			t.Mode, t.Owner = fmt.Sprintf("%#o", st.Mode), fmt.Sprintf("%d:%d", st.Uid, st.Gid)
		}
		group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		t.Controlling = err == nil && group == unix.Getpgrp()
		found[name] = t
	}
	return found
}

func winch([]string) int {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	for {
		size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		if err != nil {
			return check(err)
		}
		if _, err := fmt.Printf("%dx%d\n", size.Col, size.Row); err != nil {
			return check(err)
		}
		<-changed
	}
}

func ttyLines([]string) int {
	fmt.Println("ready")
	for {
		var line string
		if _, err := fmt.Scanln(&line); err != nil {
			return 0
		}
		fmt.Printf("[%s]\n", line)
	}
}
