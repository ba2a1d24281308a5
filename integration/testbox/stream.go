package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/myshim/myshim/integration/burst"
)

var streamApplets = []applet{
	{"echo", "WORD...", func(args []string) int {
		_, err := fmt.Println(strings.Join(args, " "))
		return check(err)
	}},
	{"warn", "WORD...: echo to stderr", func(args []string) int {
		_, err := fmt.Fprintln(os.Stderr, strings.Join(args, " "))
		return check(err)
	}},
	{"cat", "[FILE...]", cat},
	{"true", "", func([]string) int { return 0 }},
	{"false", "", func([]string) int { return 1 }},
	{"exit", "CODE", func(args []string) int { return int(intArg(args, 0, 0)) }},
	{"sleep", "SECONDS|inf", func(args []string) int {
		time.Sleep(durationArg(args, 0, time.Second))
		return 0
	}},
	{"burst", "BYTES [EXIT [WRITERS]]: verifiable lines; with WRITERS, from so many background children which outlive it", burstOut},
	{"burst-writer", "NUMBER BYTES", func(args []string) int {
		return check(burst.Write(os.Stdout, int(intArg(args, 0, 0)), intArg(args, 1, 0)))
	}},
	{"burst-err", "BYTES: to stderr", func(args []string) int {
		return check(burst.Write(os.Stderr, 0, intArg(args, 0, 0)))
	}},
	{"ticks", "[SECONDS]: a numbered line each, for ever", ticks},
	{"background", "APPLET ARG...: start it in a session of its own and exit at once", background},
	{"spawn", "COUNT APPLET ARG...: run so many of it, wait for all", spawn},
}

func cat(files []string) int {
	if len(files) == 0 {
		_, err := io.Copy(os.Stdout, os.Stdin)
		return check(err)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return check(err)
		}
		_, err = io.Copy(os.Stdout, f)
		f.Close()
		if err != nil {
			return check(err)
		}
	}
	return 0
}

func burstOut(args []string) int {
	size, code, writers := intArg(args, 0, 0), int(intArg(args, 1, 0)), intArg(args, 2, 0)
	if writers == 0 {
		if err := burst.Write(os.Stdout, 0, size); err != nil {
			return check(err)
		}
		return code
	}
	for w := range writers {
		if err := self("burst-writer", strconv.FormatInt(w+1, 10), strconv.FormatInt(size/writers, 10)).Start(); err != nil {
			return check(err)
		}
	}
	return code
}

func ticks(args []string) int {
	every := durationArg(args, 0, 100*time.Millisecond)
	for i := 0; ; i++ {
		if _, err := fmt.Println("tick", i); err != nil {
			return check(err)
		}
		time.Sleep(every)
	}
}

// Self is another testbox, in this one's place: same streams.
func self(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "testbox"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

func background(args []string) int {
	cmd := self(args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return check(err)
	}
	_, err := fmt.Println("background", cmd.Process.Pid)
	return check(err)
}

func spawn(args []string) int {
	var children []*exec.Cmd
	for range intArg(args, 0, 1) {
		cmd := self(args[1:]...)
		if err := cmd.Start(); err != nil {
			return check(err)
		}
		children = append(children, cmd)
	}
	fmt.Println("spawned", len(children))
	for _, cmd := range children {
		_ = cmd.Wait()
	}
	return 0
}
