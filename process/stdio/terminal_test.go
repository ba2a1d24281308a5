package stdio

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTerminal(t *testing.T) {
	r := request()
	r.Terminal, r.Stdin, r.Stdout, r.Stderr = true, fifo(t, "in"), fifo(t, "out"), "/no/such/path"
	out, err := os.OpenFile(r.Stdout, os.O_RDWR|unix.O_NONBLOCK, 0)
	ok(t, err)
	defer out.Close()
	ok(t, out.SetReadDeadline(time.Now().Add(10*time.Second)))
	says := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		_, err := io.ReadFull(out, got)
		ok(t, err)
		equal(t, "output", string(got), want)
	}
	s := ask(t, r)
	equal(t, "files", s.Files(), [3]*os.File{})
	cmd := runTTY(t, s, true, "role", "cat")
	for _, text := range []string{"a", "b"} { // detaching is not the end
		ok(t, os.WriteFile(r.Stdin, []byte(text), 0))
	}
	says("ab")
	ok(t, s.CloseStdin()) // in raw mode ^D is a byte like others
	says("\x04")
	cmd.Process.Kill()
	cmd.Wait()
	s.Exited()
	ok(t, s.Resize(80, 24))
}

// The end of stdin is a ^D for a program that reads lines.
func TestTerminalStdinEnds(t *testing.T) {
	r := request()
	r.Terminal, r.Stdin, r.Stdout = true, fifo(t, "in"), fifo(t, "out")
	out := read(r.Stdout)
	s := ask(t, r)
	cmd := runTTY(t, s, false, "role", "cat")
	ok(t, os.WriteFile(r.Stdin, []byte("line\n"), 0))
	ok(t, s.CloseStdin())
	ok(t, cmd.Wait())
	drained(t, s)
	if got := within(t, "output", out); !bytes.Contains(got, []byte("line")) || !bytes.HasSuffix(got, []byte("|EOF")) {
		t.Errorf("%q", got)
	}
}

func TestTerminalBurst(t *testing.T) {
	want := pattern(4 << 20)
	dir := t.TempDir()
	for stdout, log := range map[string]string{
		fifo(t, "out"):            "",
		"file://" + dir + "/file": dir + "/file",
		"binary:///proc/self/exe?role=logger&mode=ok&dir=" + dir: dir + "/out",
	} {
		r := request()
		r.Terminal, r.Stdout, r.Stderr = true, stdout, stdout
		var out <-chan []byte
		if log == "" {
			out = read(stdout)
		}
		s := ask(t, r)
		ok(t, runTTY(t, s, true, "bytes", "4194304", "role", "burst").Wait())
		drained(t, s)
		ok(t, s.Close())
		if log == "" {
			same(t, within(t, "output", out), want)
		} else {
			same(t, bytes.TrimSuffix([]byte(content(log)), []byte("|EOF")), want)
		}
	}
	equal(t, "stderr of the logger", content(filepath.Join(dir, "err")), "|EOF")
}

func TestTerminalStdinBurst(t *testing.T) {
	r := request()
	r.Terminal, r.Stdin, r.Stdout = true, fifo(t, "in"), fifo(t, "out")
	s := ask(t, r)
	runTTY(t, s, true, "role", "cat")
	want := pattern(1 << 20)
	go os.WriteFile(r.Stdin, want, 0)
	f, err := os.Open(r.Stdout)
	ok(t, err)
	defer f.Close()
	got := make([]byte, len(want))
	_, err = io.ReadFull(f, got)
	ok(t, err)
	same(t, got, want)
}

// More input than a terminal holds, for nobody: that is no reason to spin.
func TestTerminalStdinForNobody(t *testing.T) {
	r := request()
	r.Terminal, r.Stdin = true, fifo(t, "in")
	s := ask(t, r)
	master, slave := terminal(t)
	ok(t, s.Attach(master))
	go os.WriteFile(r.Stdin, make([]byte, 1<<20), 0)
	time.Sleep(50 * time.Millisecond)
	slave.Close()
	var before, after unix.Rusage
	ok(t, unix.Getrusage(unix.RUSAGE_SELF, &before))
	time.Sleep(300 * time.Millisecond)
	ok(t, unix.Getrusage(unix.RUSAGE_SELF, &after))
	if used := after.Stime.Nano() + after.Utime.Nano() - before.Stime.Nano() - before.Utime.Nano(); used > 100e6 {
		t.Errorf("used %s of CPU", time.Duration(used))
	}
}

func TestTerminalNull(t *testing.T) {
	r := request()
	r.Terminal = true
	s := ask(t, r)
	ok(t, runTTY(t, s, false, "bytes", "1000000", "role", "burst").Wait())
	drained(t, s)
}

func TestResize(t *testing.T) {
	for _, early := range []bool{false, true} {
		r := request()
		r.Terminal, r.Stdout = true, fifo(t, "out")
		out := read(r.Stdout)
		s := ask(t, r)
		master, slave := terminal(t)
		if early {
			ok(t, s.Resize(1, 1))
			ok(t, s.Resize(132, 43))
		}
		ok(t, s.Attach(master))
		if !early {
			ok(t, s.Resize(132, 43))
		}
		ws, err := unix.IoctlGetWinsize(int(slave.Fd()), unix.TIOCGWINSZ)
		ok(t, err)
		equal(t, "size", *ws, unix.Winsize{Col: 132, Row: 43})
		slave.Close()
		ok(t, s.Resize(80, 24))
		drained(t, s)
		within(t, "output", out)
		ok(t, s.Resize(80, 24))
		ok(t, s.Close())
		ok(t, s.Resize(80, 24))
	}
	s := ask(t, request())
	ok(t, s.Resize(80, 24)) // no terminal
}

// While the process lives, nobody having the terminal open is not the end:
// systemd in a container closes and opens it all the time.
func TestTerminalReopened(t *testing.T) {
	r := request()
	r.Terminal, r.Stdout = true, fifo(t, "out")
	out := read(r.Stdout)
	s := ask(t, r)
	master, slave := terminal(t)
	fd, err := dup(master)
	ok(t, err)
	ok(t, s.Attach(master))
	for range 3 {
		slave.WriteString("x")
		slave.Close()
		time.Sleep(20 * time.Millisecond)
		slave = openSlave(t, fd)
	}
	slave.WriteString("y")
	slave.Close()
	unix.Close(fd)
	drained(t, s)
	equal(t, "output", string(within(t, "output", out)), "xxxy")
}

// Nobody reads: neither Drain nor Close waits longer than told, and a client
// that comes back gets everything.
func TestTerminalReaderVanishes(t *testing.T) {
	r := request()
	r.Terminal, r.Stdout = true, fifo(t, "out")
	s := ask(t, r)
	cmd := runTTY(t, s, true, "bytes", "1000000", "role", "burst")
	f, err := os.Open(r.Stdout)
	ok(t, err)
	first := make([]byte, 300000)
	_, err = io.ReadFull(f, first)
	ok(t, err)
	f.Close()
	time.Sleep(50 * time.Millisecond)
	rest := read(r.Stdout)
	ok(t, cmd.Wait())
	drained(t, s)
	same(t, append(first, within(t, "the rest", rest)...), pattern(1000000))

	r.Stdout = fifo(t, "out")
	s = ask(t, r)
	cmd = runTTY(t, s, true, "bytes", "1000000", "role", "burst")
	f, err = os.OpenFile(r.Stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
	ok(t, err)
	last := -1
	eventually(t, "full", func() bool {
		time.Sleep(20 * time.Millisecond)
		n, _ := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ)
		last, n = n, last
		return n > 32<<10 && n == last
	})
	f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	deadline(t, s.Drain(ctx))
	ok(t, s.Close())
	cmd.Wait()
}

// A process in the background that has the terminal does not keep the client
// from seeing the end.
func TestTerminalBackgroundHolder(t *testing.T) {
	r := request()
	r.Terminal, r.Stdout = true, fifo(t, "out")
	out := read(r.Stdout)
	s := ask(t, r)
	ok(t, runTTY(t, s, false, "role", "holder", "sleep", "5000").Wait())
	began := time.Now()
	drained(t, s)
	equal(t, "output", string(within(t, "output", out)), "held")
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("took %s", d)
	}
}

// The start failed: the client sees the end all the same.
func TestTerminalNeverAttached(t *testing.T) {
	r := request()
	r.Terminal, r.Stdout = true, fifo(t, "out")
	out := read(r.Stdout)
	s := ask(t, r)
	s.Exited()
	equal(t, "output", string(within(t, "output", out)), "")
	drained(t, s)
	master, slave := terminal(t)
	defer slave.Close()
	ok(t, s.Attach(master)) // too late, and no harm
	slave.WriteString("x")
	drained(t, s)
}

func TestAttachRefused(t *testing.T) {
	s := ask(t, request())
	master, slave := terminal(t)
	defer slave.Close()
	if s.Attach(master) == nil {
		t.Error("without a terminal")
	}
	r := request()
	r.Terminal = true
	s = ask(t, r)
	ok(t, s.Close())
	master, slave2 := terminal(t)
	defer slave2.Close()
	if s.Attach(master) == nil {
		t.Error("after Close")
	}
}
