package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// These run on the host: what the shim starts besides containers.
var hostApplets = []applet{
	{"logger", "DIR: containerd's binary:// contract; writes DIR/stdout, DIR/stderr, DIR/env, then DIR/done", logger},
	{"logger-mute", "DIR: a logger that never becomes ready", func(args []string) int {
		note(args[0], "started", strconv.Itoa(os.Getpid()))
		time.Sleep(durationArg([]string{"inf"}, 0, 0))
		return 0
	}},
	{"logger-fail", "DIR: a logger that ends before it is ready", func([]string) int {
		fmt.Fprintln(os.Stderr, "logger: cannot log")
		return 3
	}},
	{"logger-die", "DIR: a logger that ends right after it is ready", func(args []string) int {
		ready := os.NewFile(5, "ready")
		_, _ = ready.Write([]byte{1})
		ready.Close()
		note(args[0], "started", strconv.Itoa(os.Getpid()))
		return 0
	}},
}

func note(dir, name, text string) {
	tmp := filepath.Join(dir, "."+name)
	if os.WriteFile(tmp, []byte(text), 0o644) == nil {
		_ = os.Rename(tmp, filepath.Join(dir, name))
	}
}

// Logger reads until end of file, so DIR/done tells that the shim closed its
// ends of the pipes.
func logger(args []string) int {
	signal.Ignore(syscall.SIGTERM) // containerd's way to hurry; the end of file is what counts
	dir := args[0]
	note(dir, "env", strings.Join(os.Environ(), "\n"))
	note(dir, "args", fmt.Sprint(args))
	var wg sync.WaitGroup
	for fd, name := range map[uintptr]string{3: "stdout", 4: "stderr"} {
		out, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return check(err)
		}
		wg.Go(func() {
			_, _ = io.Copy(out, os.NewFile(fd, name))
			out.Close()
		})
	}
	ready := os.NewFile(5, "ready")
	note(dir, "started", strconv.Itoa(os.Getpid()))
	if _, err := ready.Write([]byte{1}); err != nil {
		note(dir, "ready-error", err.Error())
	}
	ready.Close()
	wg.Wait()
	note(dir, "done", "")
	return 0
}
