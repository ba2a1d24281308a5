package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var signalApplets = []applet{
	{"trap", "[SIGNAL]: print the name of every signal that comes, until this one (TERM)", trap},
	{"pause", "nothing, but have orphans reaped", func([]string) int {
		signal.Ignore(syscall.SIGCHLD)
		time.Sleep(1 << 62)
		return 0
	}},
	{"kill", "SIGNAL PID: what comes of it", func(args []string) int {
		fmt.Println(outcome(unix.Kill(int(intArg(args, 1, 0)), unix.SignalNum("SIG"+args[0]))))
		return 0
	}},
}

func trap(args []string) int {
	last := "SIGTERM"
	if len(args) > 0 {
		last = "SIG" + args[0]
	}
	all := make(chan os.Signal, 100)
	for n := syscall.Signal(1); n < 65; n++ {
		// SIGURG is the Go runtime's own means of preemption.
		if n != syscall.SIGURG && n != syscall.SIGKILL && n != syscall.SIGSTOP {
			signal.Notify(all, n)
		}
	}
	fmt.Println("ready")
	for s := range all {
		name := unix.SignalName(s.(syscall.Signal))
		if name == "" {
			name = strconv.Itoa(int(s.(syscall.Signal)))
		}
		if _, err := fmt.Println(name); err != nil {
			return check(err)
		}
		if name == last {
			return 0
		}
	}
	return 1
}
