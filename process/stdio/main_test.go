package stdio

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is also the program inside, and the logger: its arguments are then
// keys and values in turns, sorted, as a binary:// URI gives them.
func TestMain(m *testing.M) {
	readyTimeout, eofGrace, termGrace = 2*time.Second, 500*time.Millisecond, 500*time.Millisecond
	restartDelay, readerTimeout = 10*time.Millisecond, 20*time.Millisecond

	if len(os.Args) > 1 && os.Args[1][0] != '-' {
		args := map[string]string{}
		for i := 1; i+1 < len(os.Args); i += 2 {
			args[os.Args[i]] = os.Args[i+1]
		}
		role(args)
		os.Exit(0)
	}

	// What is made once: the poller, the /dev/null handle.
	for range 2 {
		s, err := Open(context.Background(), Request{UID: -1, GID: -1})
		if err == nil {
			r, w, _ := os.Pipe()
			r.Close()
			w.Close()
			err = s.Close()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	before := footprint()
	code := m.Run()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(code) // fuzzing leaves a goroutine of its own
	}
	var after string
	for range 100 {
		if after = footprint(); after == before {
			os.Exit(code)
		}
		time.Sleep(50 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	fmt.Fprintf(os.Stderr, "left behind:\n%s\nbefore:\n%s\n%s\n", after, before, buf[:runtime.Stack(buf, true)])
	os.Exit(1)
}

// footprint is this process's descriptors, goroutines and children.
func footprint() string {
	var b bytes.Buffer
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil {
			fmt.Fprintln(&b, fd, to)
		}
	}
	children, _ := filepath.Glob("/proc/self/task/*/children")
	for _, c := range children {
		pids, _ := os.ReadFile(c)
		b.Write(pids)
	}
	fmt.Fprintln(&b, runtime.NumGoroutine(), "goroutines")
	return b.String()
}

func role(args map[string]string) {
	number := func(key string) int { n, _ := strconv.Atoi(args[key]); return n }
	check := func(err error) {
		if err != nil {
			os.Exit(99)
		}
	}
	switch args["role"] {
	case "burst":
		_, err := os.Stdout.Write(pattern(number("bytes")))
		check(err)
	case "cat":
		_, err := io.Copy(os.Stdout, os.Stdin)
		check(err)
		fmt.Print("|EOF")
	case "turns": // one to stdout, one to stderr, ...
		for i := range 20 {
			fmt.Fprint([]*os.File{os.Stdout, os.Stderr}[i%2], i, " ")
		}
	case "words":
		fmt.Print("out")
		fmt.Fprint(os.Stderr, "err")
	case "vandal": // may not change anything of the host
		for fd := range 3 {
			fmt.Printf("%v %v %v;", unix.Fchmod(fd, 0o4777), unix.Fchown(fd, 1, 1), unix.Ftruncate(fd, 0))
		}
	case "reopen": // as another user
		_, err := os.OpenFile("/dev/stdout", os.O_WRONLY, 0)
		check(err)
		_, err = os.OpenFile("/dev/stderr", os.O_WRONLY, 0)
		check(err)
		_, err = os.Open("/dev/stdin")
		check(err)
		fmt.Print("reopened")
	case "holder": // leaves a child that has the descriptors
		signal.Ignore(unix.SIGHUP)
		fmt.Print("held")
		cmd := exec.Command("/proc/self/exe", "role", "sleep", "sleep", args["sleep"])
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		check(cmd.Start())
	case "sleep":
		time.Sleep(time.Duration(number("sleep")) * time.Millisecond)
	case "size":
		ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		check(err)
		fmt.Print(ws.Col, "x", ws.Row)
	case "logger":
		logger4test(args)
	}
}

// logger4test copies its descriptors 3 and 4 to DIR/out and DIR/err.
func logger4test(args map[string]string) {
	dir, mode := args["dir"], args["mode"]
	note := func(name, text string) {
		f, _ := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		f.WriteString(text)
		f.Close()
	}
	note("starts", "x")
	starts, _ := os.ReadFile(filepath.Join(dir, "starts"))
	note("args", fmt.Sprintf("%q %q pgid=%v", os.Args[1:], os.Environ(), unix.Getpgrp() == os.Getpid()))
	ready := os.NewFile(5, "ready")
	switch mode {
	case "mute":
		ready.Close()
	case "silent":
		time.Sleep(time.Hour)
	case "dead":
		os.Exit(1)
	default:
		ready.Write([]byte{0})
		ready.Close()
	}
	if mode == "fickle" || mode == "once" && len(starts) == 1 {
		os.Exit(3)
	}
	switch mode {
	case "slowtail", "deaf":
		signal.Ignore(unix.SIGTERM)
	case "stubborn":
		c := make(chan os.Signal, 1)
		signal.Notify(c, unix.SIGTERM)
		defer func() { <-c; note("out", "|TERM") }()
	}
	done := make(chan bool)
	for fd, name := range map[uintptr]string{3: "out", 4: "err"} {
		go func() {
			b, _ := io.ReadAll(os.NewFile(fd, name))
			if mode == "slowtail" {
				time.Sleep(eofGrace + 200*time.Millisecond)
			}
			note(name, string(b)+"|EOF")
			done <- true
		}()
	}
	<-done
	<-done
	if mode == "deaf" {
		time.Sleep(time.Hour)
	}
}

// pattern is n bytes in which a lost or a doubled one shows.
func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

func same(t *testing.T, got, want []byte) {
	t.Helper()
	if len(got) != len(want) || crc32.ChecksumIEEE(got) != crc32.ChecksumIEEE(want) {
		t.Errorf("got %d bytes with crc %08x, want %d with %08x", len(got), crc32.ChecksumIEEE(got), len(want), crc32.ChecksumIEEE(want))
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func fifo(t *testing.T, name string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	ok(t, unix.Mkfifo(p, 0o700))
	return p
}

// ask opens r, and closes it with the test.
func ask(t *testing.T, r Request) *Streams {
	t.Helper()
	s, err := Open(t.Context(), r)
	ok(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func root(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for chown and a mount")
	}
}

func request() Request { return Request{UID: -1, GID: -1, ContainerID: "web-1", Namespace: "ns"} }

// run starts this binary in the given role with the descriptors of s.
func run(t *testing.T, s *Streams, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	f := s.Files()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f[0], f[1], f[2]
	ok(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	s.Started()
	return cmd
}

// read does what a client of containerd does: an open that waits for a
// writer, then reading to the end.
func read(path string) <-chan []byte {
	c := make(chan []byte, 1)
	go func() {
		b, _ := os.ReadFile(path)
		c <- b
	}()
	return c
}

// within waits for c, but not forever.
func within[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: nothing within 20s", what)
	}
	return v
}

func drained(t *testing.T, s *Streams) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ok(t, s.Drain(ctx))
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 2000 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s: not within 20s", what)
}

func content(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// terminal makes a pty. child has it as its controlling terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	ok(t, err)
	ok(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	return os.NewFile(uintptr(fd), "master"), openSlave(t, fd)
}

func openSlave(t *testing.T, master int) *os.File {
	t.Helper()
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		t.Fatal(errno)
	}
	return os.NewFile(fd, "slave")
}

// runTTY is run with a terminal, attached.
func runTTY(t *testing.T, s *Streams, raw bool, args ...string) *exec.Cmd {
	t.Helper()
	master, slave := terminal(t)
	if raw {
		a := unix.Termios{Cflag: unix.CS8} // what cfmakeraw does, and more
		a.Cc[unix.VMIN] = 1
		ok(t, unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, &a))
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	ok(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	slave.Close()
	s.Started()
	ok(t, s.Attach(master))
	return cmd
}

func deadline(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}
