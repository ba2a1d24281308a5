package stdio

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// logTo is a request whose logger notes in the directory what it gets.
func logTo(t *testing.T, scheme, mode string) (Request, string) {
	dir := t.TempDir()
	r := request()
	r.Stdout = scheme + ":///proc/self/exe?role=logger&mode=" + mode + "&dir=" + dir
	r.Stderr = r.Stdout
	return r, dir
}

func TestLogger(t *testing.T) {
	root(t)
	for _, c := range []struct{ scheme, mode string }{{"binary", "ok"}, {"binary", "mute"}, {"binary-v2", "ok"}} {
		r, dir := logTo(t, c.scheme, c.mode)
		r.UID, r.GID = 1, 1
		s := ask(t, r)
		equal(t, "started before the process", content(dir+"/starts"), "x")
		ok(t, run(t, s, "role", "words").Wait())
		// It sees the end before Close.
		eventually(t, "end", func() bool { return content(dir+"/out") == "out|EOF" && content(dir+"/err") == "err|EOF" })
		drained(t, s)
		ok(t, s.Close())
		equal(t, "starts", content(dir+"/starts"), "x")
		equal(t, "args", content(dir+"/args"), `["dir" "`+dir+`" "mode" "`+c.mode+`" "role" "logger"] ["CONTAINER_ID=web-1" "CONTAINER_NAMESPACE=ns"] pgid=true`)
	}
}

// A log in stdout takes stderr too, unless that has a path of its own.
func TestLoggerStderr(t *testing.T) {
	r, dir := logTo(t, "binary", "ok")
	r.Stderr = ""
	s := ask(t, r)
	ok(t, run(t, s, "role", "words").Wait())
	drained(t, s)
	ok(t, s.Close())
	equal(t, "stderr", content(dir+"/err"), "err|EOF")

	r, dir = logTo(t, "binary", "ok")
	r.Stderr = "file://" + dir + "/own"
	s = ask(t, r)
	ok(t, run(t, s, "role", "words").Wait())
	drained(t, s)
	ok(t, s.Close())
	equal(t, "stderr", content(dir+"/err"), "|EOF")
	equal(t, "own", content(dir+"/own"), "err")
}

func TestLoggerNotReady(t *testing.T) {
	for _, c := range []struct {
		scheme, mode, want string
		limit              time.Duration
	}{
		{"binary-v2", "mute", "without saying that it is ready", time.Minute},
		{"binary-v2", "dead", "without saying that it is ready", time.Minute},
		{"binary", "silent", context.DeadlineExceeded.Error(), 300 * time.Millisecond},
		{"binary", "silent", "not ready after 2s", time.Minute},
	} {
		r, _ := logTo(t, c.scheme, c.mode)
		ctx, cancel := context.WithTimeout(t.Context(), c.limit)
		s, err := Open(ctx, r)
		cancel()
		if err == nil {
			s.Close()
			t.Errorf("%s %s: ready", c.scheme, c.mode)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v", c.scheme, c.mode, err)
		}
	}
}

// The new logger reads what the dead one has left, and what comes.
func TestLoggerRestarts(t *testing.T) {
	r, dir := logTo(t, "binary-v2", "once")
	s := ask(t, r)
	eventually(t, "second logger", func() bool { return content(dir+"/starts") == "xx" })
	ok(t, run(t, s, "bytes", "1000000", "role", "burst").Wait())
	drained(t, s)
	ok(t, s.Close())
	same(t, []byte(strings.TrimSuffix(content(dir+"/out"), "|EOF")), pattern(1000000))
}

// With a logger that keeps dying the container goes on all the same.
func TestLoggerGivenUp(t *testing.T) {
	for _, mode := range []string{"fickle", "dead"} {
		r, dir := logTo(t, "binary", mode)
		s := ask(t, r)
		ok(t, run(t, s, "bytes", "3000000", "role", "burst").Wait())
		drained(t, s)
		ok(t, s.Close())
		equal(t, mode, len(content(dir+"/starts")), 1+restarts)
	}
}

// Dying after the end is how a logger should end: it is not started again.
func TestLoggerEndsWithTheContainer(t *testing.T) {
	r, dir := logTo(t, "binary", "ok")
	s := ask(t, r)
	s.Started()
	eventually(t, "end", func() bool { return content(dir+"/out") == "|EOF" })
	time.Sleep(10 * restartDelay)
	equal(t, "starts", content(dir+"/starts"), "x")
}

func TestLoggerIsEnded(t *testing.T) {
	for mode, want := range map[string]string{
		"stubborn": "text|EOF|TERM", // waits for SIGTERM
		"slowtail": "text|EOF",      // has time to finish
		"deaf":     "text|EOF",      // SIGKILL
	} {
		r, dir := logTo(t, "binary", mode)
		s := ask(t, r)
		s.Files()[1].WriteString("text")
		s.Started()
		drained(t, s)
		began := time.Now()
		ok(t, s.Close())
		if d := time.Since(began); d > eofGrace+termGrace+time.Second {
			t.Errorf("%s took %s", mode, d)
		}
		equal(t, mode, content(dir+"/out"), want)
	}
}

// A background process that has the pipe holds up Drain and Close no longer
// than they are told.
func TestLoggerBackgroundHolder(t *testing.T) {
	r, dir := logTo(t, "binary", "stubborn")
	s := ask(t, r)
	ok(t, run(t, s, "role", "holder", "sleep", "1800").Wait())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	deadline(t, s.Drain(ctx))
	ok(t, s.Close())
	equal(t, "starts", content(dir+"/starts"), "x")
}

// Close does not wait for a restart.
func TestLoggerClosedWhileRestarting(t *testing.T) {
	restartDelay = time.Hour
	t.Cleanup(func() { restartDelay = 10 * time.Millisecond })
	r, _ := logTo(t, "binary", "dead")
	s := ask(t, r)
	time.Sleep(100 * time.Millisecond)
	ok(t, s.Close())
}

// The pipe of a dead logger neither kills the container nor blocks it before
// it is full.
func TestLoggerPipeHeld(t *testing.T) {
	restartDelay = time.Hour
	t.Cleanup(func() { restartDelay = 10 * time.Millisecond })
	r, dir := logTo(t, "binary", "dead")
	s := ask(t, r)
	eventually(t, "start", func() bool { _, err := os.Stat(filepath.Join(dir, "args")); return !errors.Is(err, os.ErrNotExist) })
	time.Sleep(100 * time.Millisecond)
	ok(t, run(t, s, "bytes", "200000", "role", "burst").Wait())
}
