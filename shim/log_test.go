package shim

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// logFIFO is containerd's end of a daemon's log.
type logFIFO struct {
	t    *testing.T
	f    *os.File
	text string
}

func (c *caller) openLog() *logFIFO {
	c.t.Helper()
	name := filepath.Join(c.bundle, "log")
	if err := unix.Mkfifo(name, 0o700); err != nil {
		c.t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { f.Close() })
	return &logFIFO{t: c.t, f: f}
}

// rest returns what there is to read.
func (l *logFIFO) rest() string {
	text := l.text
	l.text = ""
	buf := make([]byte, 64<<10)
	for {
		l.f.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		n, err := l.f.Read(buf)
		if err != nil {
			return text
		}
		text += string(buf[:n])
	}
}

// until reads up to some text, and returns what was there before it.
func (l *logFIFO) until(want string) string {
	l.t.Helper()
	var before string
	eventually(l.t, "the log has "+want, func() bool {
		l.text = l.rest()
		var found bool
		before, _, found = strings.Cut(l.text, want)
		if found {
			l.text = l.text[len(before)+len(want):]
		}
		return found
	})
	return before
}

func TestLogWriter(t *testing.T) {
	var out bytes.Buffer
	room := 100
	w := &logWriter{write: func(p []byte) (int, error) {
		n := len(p)
		if n > room {
			if n <= 4096 {
				return 0, unix.EAGAIN
			}
			n = room
		}
		room -= n
		return out.Write(p[:n])
	}}
	write := func(s string) {
		t.Helper()
		if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatalf("%d %v", n, err)
		}
	}
	write("one\n")
	write(strings.Repeat("x", 5000) + "\n") // as much as there is room for
	write("two\n")
	write("three\n")
	room = 1000
	write("four\n")
	write("five\n")
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 6 || lines[0] != "one" || lines[1] != strings.Repeat("x", 96) ||
		!strings.HasSuffix(lines[2], `level=warning msg="log: 3 lines dropped, nobody read them"`) || lines[3] != "four" || lines[4] != "five" {
		t.Errorf("%q", lines)
	}
}

// A daemon whose log nobody reads goes on, and tells later how much is missing.
func TestFullLog(t *testing.T) {
	c := newCaller(t, "full")
	fifo := c.openLog()
	d := connect(t, c.start())
	long := strings.Repeat("x", 1000)
	for range 200 {
		d.call("Log", long)
	}
	if text := fifo.rest(); len(text) > 64<<10 || !strings.HasSuffix(text, "\n") {
		t.Errorf("%d bytes, ending in %q", len(text), text[len(text)-20:])
	}
	d.call("Log", "after")
	before := fifo.until(`msg=after`)
	if !strings.Contains(before, "lines dropped") {
		t.Errorf("no word of the dropped lines: %s", before)
	}
	d.shutdown()
}

// It may be no FIFO, or not there at all.
func TestNoLog(t *testing.T) {
	c := newCaller(t, "nolog")
	d := connect(t, c.start())
	d.call("Log", "x")
	d.shutdown()
	d.exits(5 * time.Second)
	name := filepath.Join(c.bundle, "log")
	if err := os.WriteFile(name, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d = connect(t, c.start())
	d.call("Log", "y")
	d.shutdown()
	if b, err := os.ReadFile(name); err != nil || !strings.HasPrefix(string(b), "before\ntime=") || !strings.Contains(string(b), "msg=y") {
		t.Errorf("%s %v", b, err)
	}
}
