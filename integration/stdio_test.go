package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/myshim/myshim/integration/burst"
	"github.com/myshim/myshim/integration/harness"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const much = 8 << 20 // more than any pipe holds

// WantBurst checks that everything arrived.
func (e *env) wantBurst(what string, data string, bytes int64, writers int) {
	e.Helper()
	sum, err := burst.Check(strings.NewReader(data))
	if err != nil {
		e.Errorf("%s: %v", what, err)
	} else if sum.Bytes < bytes || sum.Writers != writers {
		e.Errorf("%s: %+v, want %d bytes of %d writers", what, sum, bytes, writers)
	}
}

// A process that writes much and exits at once, and a client that deletes it at
// once, lose nothing.
func TestOutputThenDelete(t *testing.T) {
	eachPeer(t, func(s *stage) {
		for range count(2, 20) {
			c := s.launch(testbox("burst", fmt.Sprint(much)))
			c.finish()
			s.awaitEOF(c.streams.out)
			s.wantBurst("init", c.streams.out.String(), much, 1)
		}
		c := s.launch(still())
		for i := range count(2, 20) {
			id := fmt.Sprint("e", i)
			streams := s.newStreams(id, false)
			s.Cleanup(streams.close)
			s.must(c.exec(id, streams, "/bin/testbox", "burst", fmt.Sprint(much)))
			s.must(c.start(id))
			_, err := c.wait(id)
			s.must(err)
			_, err = c.delete(id)
			s.must(err)
			s.awaitEOF(streams.out)
			s.wantBurst("exec", streams.out.String(), much, 1)
		}
	})
}

// The same through containerd and its client.
func TestOutputThenExit(t *testing.T) {
	each(t, func(e *env) {
		for range count(2, 20) {
			b := e.launch(testbox("burst", fmt.Sprint(much), "6"))
			r := b.end()
			if r.code != 6 {
				e.Errorf("exit code %d", r.code)
			}
			e.wantBurst("init", r.out, much, 1)
		}
		b := e.launch(still())
		for range count(2, 20) {
			e.wantBurst("exec", b.execRun([]string{"burst", fmt.Sprint(much)}).out, much, 1)
		}
	})
}

func TestBothStreams(t *testing.T) {
	each(t, func(e *env) {
		r := e.run(testbox("all", "burst", fmt.Sprint(much/4), "--", "burst-err", fmt.Sprint(much/4)))
		e.wantBurst("stdout", r.out, much/4, 1)
		e.wantBurst("stderr", r.err, much/4, 1)
	})
}

// The client sees the end of file of both streams as soon as the process is
// over, without a Delete.
func TestEOFAtExit(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(testbox("burst", fmt.Sprint(much)))
		s.awaitEOF(c.streams.out)
		s.awaitEOF(c.streams.err)
		s.wantBurst("stdout", c.streams.out.String(), much, 1)
		c.finish()
	})
}

// Shutdown straight after the start of something that writes much.
func TestShutdownDuringOutput(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(testbox("burst", fmt.Sprint(much)))
		_ = c.shutdown()
		s.awaitEOF(c.streams.out)
		s.wantBurst("stdout", c.streams.out.String(), much, 1)
	})
}

func TestLargeRoundTrip(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(testbox("cat"))
		in := s.openWriter(c.streams.stdin())
		s.must(burst.Write(in, 0, 20<<20))
		s.must(in.Close())
		s.must(c.closeIO(""))
		s.awaitEOF(c.streams.out)
		s.wantBurst("through stdin and stdout", c.streams.out.String(), 20<<20, 1)
		c.finish()
	})
}

// A client that closes its end of stdin has only detached; CloseIO ends it.
func TestStdinDetachReattach(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		s.must(c.kill("", 0))
		for _, id := range []string{"one", "two"} { // and each process has its own
			streams := s.newStreams(id, false)
			s.Cleanup(streams.close)
			s.must(c.exec(id, streams, "/bin/testbox", "cat"))
			s.must(c.start(id))
			for _, word := range []string{"first", "second", "third"} {
				in := s.openWriter(streams.stdin())
				_, err := io.WriteString(in, word+"\n")
				s.must(err)
				s.must(in.Close())
				s.must(streams.out.Await(s.ctx, word+"\n"))
			}
			s.must(c.closeIO(id))
			exit, err := c.wait(id)
			s.must(err)
			if exit.ExitStatus != 0 {
				s.Errorf("exit status %d", exit.ExitStatus)
			}
			s.must(c.closeIO(id))
		}
	})
}

// CloseIO while the client still holds its end: the end of file comes when that
// is closed too, and what is written until then arrives.
func TestCloseIOBeforeClient(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(testbox("cat"))
		in := s.openWriter(c.streams.stdin())
		_, err := io.WriteString(in, "early\n") // it has its end once it can write
		s.must(err)
		s.must(c.closeIO(""))
		_, err = io.WriteString(in, "late\n")
		s.must(err)
		s.must(c.streams.out.Await(s.ctx, "late\n"))
		s.must(in.Close())
		c.finish()
	})
}

// A client's input may be at its end while the container is being made, however long
// the hooks take. It finds the container then, and CloseIO counts. Runc's shim has
// none before; nerdctl run -i hangs over it, now and then.
func TestInputEndsDuringCreation(t *testing.T) {
	eachPeer(t, func(s *stage) {
		if s.oracle() {
			s.Skip("NotFound")
		}
		made := filepath.Join(s.dir(), "made")
		c := s.shim(testbox("cat"), edit(func(spec *specs.Spec) {
			spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: harness.Bin("testbox"), Args: []string{"testbox", "wait-for", made}}}}
		}))
		streams := s.newStreams("client", false)
		s.Cleanup(streams.close)
		created, closed := make(chan error, 1), make(chan error, 1)
		go func() { created <- c.createWith(streams.request()) }()
		in := s.openWriter(streams.stdin())
		_, err := io.WriteString(in, "all of it\n")
		s.must(errors.Join(err, in.Close()))
		if state, err := c.state(""); err != nil || state.Status != tasktypes.Status_UNKNOWN {
			s.Errorf("state: %v, %v", state, err)
		}
		go func() { closed <- c.closeIO("") }()
		s.must(os.WriteFile(made, nil, 0o600))
		s.must(<-created)
		s.must(<-closed)
		s.must(c.start(""))
		s.awaitEOF(streams.out)
		if out := streams.out.String(); out != "all of it\n" {
			s.Errorf("%q", out)
		}
		c.finish()
	})
}

// OpenReader opens a FIFO as containerd's client does, whether or not there is a
// writer yet. Until there is one, reads get the end of file.
func (s *stage) openReader(fifo *stream) *os.File {
	s.Helper()
	f, err := os.OpenFile(fifo.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	s.must(err)
	return f
}

// A slow reader slows the writer down, and that is all.
func TestSlowReader(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.shim(testbox("burst", fmt.Sprint(much)))
		dir := s.newStreams(c.id, false)
		c.streams = dir
		slow := s.newStream(filepath.Join(dir.dir, "slow"))
		in := s.openReader(slow)
		defer in.Close()
		s.must(c.createWith(&taskv3.CreateTaskRequest{Stdout: slow.path, Stderr: dir.err.path}))
		s.must(c.start(""))
		var got bytes.Buffer
		for i := 0; ; i++ {
			if i < 50 {
				time.Sleep(2 * time.Millisecond) // this is the slow reader
			}
			if _, err := io.CopyN(&got, in, 1<<14); errors.Is(err, io.EOF) {
				break
			} else {
				s.must(err)
			}
		}
		s.wantBurst("stdout", got.String(), much, 1)
		c.finish()
	})
}

// Nobody reads: Create doesn't wait for a reader, and what fits into the pipe
// is kept for one who comes later.
func TestReaderComesLate(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("Create waits up to 30 s for a reader")
		c := s.shim(testbox("all", "echo", "kept", "--", "sleep", "inf"))
		c.streams = s.newStreams(c.id, false)
		late := s.newStream(filepath.Join(c.streams.dir, "late"))
		s.must(c.createWith(&taskv3.CreateTaskRequest{Stdout: late.path, Stderr: c.streams.err.path}))
		s.must(c.start(""))
		late.read()
		s.must(late.Await(s.ctx, "kept\n"))
		s.must(c.kill("", unix.SIGKILL))
		s.awaitEOF(late)
		c.finish()
	})
}

// A reader goes away, as containerd does when it restarts, and another comes:
// the writer is neither killed nor told.
func TestReaderGoesAndComes(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.shim(testbox("ticks", "0.001"))
		c.streams = s.newStreams(c.id, false)
		fifo := s.newStream(filepath.Join(c.streams.dir, "fifo"))
		in := s.openReader(fifo)
		s.must(c.createWith(&taskv3.CreateTaskRequest{Stdout: fifo.path, Stderr: c.streams.err.path}))
		s.must(c.start(""))
		next := -1
		for i := range 5 {
			if i > 0 {
				in = s.openReader(fifo)
			}
			buf := make([]byte, 1<<16)
			n, err := in.Read(buf)
			s.must(err)
			s.must(in.Close())
			// Whole lines from where the last reader stopped: nothing was lost.
			for _, line := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\n"), "\n") {
				var i int
				if _, err := fmt.Sscanf(line, "tick %d", &i); err != nil || next >= 0 && i != next {
					s.Fatalf("line %q, want tick %d", line, next)
				}
				next = i + 1
			}
		}
		if st, err := c.state(""); err != nil || st.ExitStatus != 0 {
			s.Errorf("%v, %v", st, err)
		}
	})
}

// Children of a process may hold its streams and go on writing: Wait doesn't
// wait for them, and nothing of theirs is lost.
func TestBackgroundWriters(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		io := s.newStreams("io", false)
		s.Cleanup(io.close)
		s.must(c.exec("E", io, "/bin/testbox", "burst", fmt.Sprint(much), "0", "4"))
		s.must(c.start("E"))
		_, err := c.wait("E")
		s.must(err)
		s.awaitEOF(io.out)
		s.wantBurst("four writers", io.out.String(), much, 4)
		_, err = c.delete("E")
		s.must(err)
	})
}

// A child that never ends holds the streams: Delete ends all the same, and
// then the client's streams do.
func TestStreamsHeldByChild(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		io := s.newStreams("io", false)
		s.Cleanup(io.close)
		s.must(c.exec("E", io, "/bin/testbox", "all", "echo", "before", "--", "background", "sleep", "inf"))
		s.must(c.start("E"))
		_, err := c.wait("E")
		s.must(err)
		ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
		defer cancel()
		_, err = c.Delete(ctx, &taskv3.DeleteRequest{ID: c.id, ExecID: "E"})
		s.must(errgrpc.ToNative(err))
		s.awaitEOF(io.out)
		if !strings.HasPrefix(io.out.String(), "before\nbackground") {
			s.Errorf("output %q", io.out.String())
		}
	})
}

// Any of the streams can be missing.
func TestMissingStreams(t *testing.T) {
	eachPeer(t, func(s *stage) {
		for _, which := range []string{"", "in", "out", "err", "in out", "in err", "out err"} {
			if s.oracle() && which != "" && which != "out err" {
				continue // it opens the FIFO with the empty name
			}
			c := s.shim(testbox("all", "cat", "--", "echo", "to stdout", "--", "warn", "to stderr"))
			c.streams = s.newStreams(c.id, false)
			r := &taskv3.CreateTaskRequest{}
			if strings.Contains(which, "in") {
				r.Stdin = c.streams.stdin()
			}
			if strings.Contains(which, "out") {
				r.Stdout = c.streams.out.path
			}
			if strings.Contains(which, "err") {
				r.Stderr = c.streams.err.path
			}
			s.must(c.createWith(r))
			s.must(c.start(""))
			s.must(c.closeIO(""))
			if exit, err := c.wait(""); err != nil || exit.ExitStatus != 0 {
				s.Errorf("with %q: %v, %v", which, exit, err)
			}
			if r.Stdout != "" {
				s.awaitEOF(c.streams.out)
				if got := c.streams.out.String(); got != "to stdout\n" {
					s.Errorf("with %q: stdout %q", which, got)
				}
			}
			if r.Stderr != "" {
				s.awaitEOF(c.streams.err)
				if got := c.streams.err.String(); got != "to stderr\n" {
					s.Errorf("with %q: stderr %q", which, got)
				}
			}
			c.finish()
		}
	})
}

// File:// makes the directories, appends, and takes both streams.
func TestFileURI(t *testing.T) {
	eachPeer(t, func(s *stage) {
		path := filepath.Join(s.peer.Dir, "new", "directories", "log")
		for i := range 2 {
			c := s.shim(testbox("all", "echo", fmt.Sprint("round ", i), "--", "warn", fmt.Sprint("error ", i)))
			s.must(c.createWith(&taskv3.CreateTaskRequest{Stdout: "file://" + path, Stderr: "file://" + path}))
			s.must(c.start(""))
			c.finish()
			if s.oracle() { // which goes on copying after Delete
				s.awaitContent(path, fmt.Sprintf("error %d\n", i))
			}
		}
		data, err := os.ReadFile(path)
		s.must(err)
		for _, want := range []string{"round 0\n", "error 0\n", "round 1\n", "error 1\n"} {
			if !strings.Contains(string(data), want) {
				s.Errorf("no %q in %q", want, data)
			}
		}
		info, err := os.Stat(path)
		s.must(err)
		if info.Mode().Perm() != 0o644 {
			s.Errorf("mode %v", info.Mode())
		}
	})
}

// A plain path of a regular file is appended to.
func TestPlainFile(t *testing.T) {
	eachPeer(t, func(s *stage) {
		path := filepath.Join(s.peer.Dir, "plain")
		s.must(os.WriteFile(path, []byte("before\n"), 0o600))
		c := s.shim(testbox("echo", "after"))
		s.must(c.createWith(&taskv3.CreateTaskRequest{Stdout: path, Stderr: path}))
		s.must(c.start(""))
		c.finish()
		if data, err := os.ReadFile(path); err != nil || string(data) != "before\nafter\n" {
			s.Errorf("%q, %v", data, err)
		}
	})
}

func TestUnknownScheme(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.shim(still())
		err := c.createWith(&taskv3.CreateTaskRequest{Stdout: "carrier-pigeon://loft", Stderr: "carrier-pigeon://loft"})
		if err == nil || !strings.Contains(err.Error(), "carrier-pigeon") {
			s.Errorf("create: %v", err)
		}
	})
}

// A container's user can open its own streams again, as /dev/stdout is used.
func TestStreamOwner(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.shim(testbox("all", "open", "/proc/self/fd/1", "wronly", "--", "open", "/dev/stderr", "wronly"), withSpec(oci.WithUIDGID(1000, 1000)))
		c.options = &runcoptions.Options{IoUid: 1000, IoGid: 1000}
		s.must(c.create())
		s.must(c.start(""))
		c.finish()
		if got := c.streams.out.String(); got != strings.Repeat("ok\n", 2) {
			s.Errorf("%q", got)
		}
	})
}

// BinaryURI is a logger's, with one argument pair as containerd encodes it.
func (s *stage) binaryURI(scheme, applet string) (uri, dir string) {
	dir = filepath.Join(s.peer.Dir, "logger-"+newID())
	s.must(os.Mkdir(dir, 0o700))
	u := url.URL{Scheme: scheme, Path: harness.Bin("testbox"), RawQuery: url.Values{applet: {dir}}.Encode()}
	return u.String(), dir
}

func (s *stage) awaitFile(path string) string {
	s.Helper()
	for {
		data, err := os.ReadFile(path)
		if err == nil {
			return string(data)
		}
		select {
		case <-s.ctx.Done():
			s.Fatalf("no %s", path)
		case <-time.After(time.Millisecond): // the logger's only means to tell
		}
	}
}

// awaitContent waits until the file has the text.
func (s *stage) awaitContent(path, text string) {
	s.Helper()
	for !strings.Contains(s.awaitFile(path), text) {
		select {
		case <-s.ctx.Done():
			s.Fatalf("no %q in %s", text, path)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestBinaryLogger(t *testing.T) {
	eachPeer(t, func(s *stage) {
		for _, scheme := range []string{"binary", "binary-v2"} {
			uri, dir := s.binaryURI(scheme, "logger")
			c := s.shim(testbox("all", "burst", fmt.Sprint(much), "--", "burst-err", fmt.Sprint(much/8)))
			s.must(c.createWith(&taskv3.CreateTaskRequest{Stdout: uri, Stderr: uri}))
			if _, err := os.Stat(filepath.Join(dir, "started")); err != nil {
				s.Errorf("%s: Create returned before the logger was ready: %v", scheme, err)
			}
			s.must(c.start(""))
			_, err := c.wait("")
			s.must(err)
			if !s.oracle() { // it holds the pipe's other end until Delete
				s.awaitFile(filepath.Join(dir, "done"))
			}
			_, err = c.delete("")
			s.must(err)
			s.awaitFile(filepath.Join(dir, "done"))
			s.must(c.shutdown())
			s.must(c.Gone(s.ctx))
			s.wantBurst(scheme+" stdout", s.awaitFile(filepath.Join(dir, "stdout")), much, 1)
			s.wantBurst(scheme+" stderr", s.awaitFile(filepath.Join(dir, "stderr")), much/8, 1)
			if env := s.awaitFile(filepath.Join(dir, "env")); env != "CONTAINER_ID="+c.id+"\nCONTAINER_NAMESPACE="+harness.Tag {
				s.Errorf("%s: environment %q", scheme, env)
			}
			if _, err := os.Stat(filepath.Join(dir, "ready-error")); err == nil {
				s.Errorf("%s: nobody took the logger's ready", scheme)
			}
		}
	})
}

func TestLoggerMissing(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.shim(still())
		err := c.createWith(&taskv3.CreateTaskRequest{Stdout: "binary:///no/such/logger", Stderr: "binary:///no/such/logger"})
		if err == nil || !strings.Contains(err.Error(), "/no/such/logger") {
			s.Errorf("create: %v", err)
		}
	})
}

// In version 2 of the contract, a logger that doesn't become ready has failed.
func TestLoggerFails(t *testing.T) {
	eachPeer(t, func(s *stage) {
		uri, _ := s.binaryURI("binary-v2", "logger-fail")
		c := s.shim(still())
		if err := c.createWith(&taskv3.CreateTaskRequest{Stdout: uri, Stderr: uri}); err == nil {
			s.Error("create succeeds without its logger")
		}
	})
}

// A logger that never gets ready: the client's patience is the limit, and then
// neither container nor logger is left.
func TestLoggerNeverReady(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("it waits for the logger for ever, and holds locks meanwhile")
		uri, dir := s.binaryURI("binary", "logger-mute")
		c := s.shim(still())
		ctx, cancel := context.WithTimeout(s.ctx, time.Second)
		defer cancel()
		_, err := c.Create(ctx, &taskv3.CreateTaskRequest{ID: c.id, Bundle: c.Bundle.Dir, Rootfs: c.Bundle.Rootfs, Stdout: uri, Stderr: uri})
		if err == nil {
			s.Error("create succeeds without its logger")
		}
		s.awaitFile(filepath.Join(dir, "started"))
	})
}

// The logger dies; the container lives, can be controlled, and is not killed by
// its own output.
func TestLoggerDies(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("the container gets SIGPIPE when its logger is gone")
		uri, dir := s.binaryURI("binary", "logger-die")
		c := s.shim(testbox("all", "wait-for", "/work/go", "--", "burst", "10000", "--", "sleep", "inf"))
		s.must(c.createWith(&taskv3.CreateTaskRequest{Stdout: uri, Stderr: uri}))
		s.must(c.start(""))
		var pid uint32
		_, err := fmt.Sscan(s.awaitFile(filepath.Join(dir, "started")), &pid)
		s.must(err)
		s.must(waitGone(pid))
		s.must(c.exec("go", nil, "/bin/testbox", "put", "/work/go", ""))
		s.must(c.start("go"))
		_, err = c.wait("go")
		s.must(err)
		st, err := c.state("")
		s.must(err)
		if st.ExitStatus != 0 {
			s.Errorf("state %v", st)
		}
		s.must(c.kill("", unix.SIGKILL))
		exit, err := c.wait("")
		s.must(err)
		if exit.ExitStatus != 137 {
			s.Errorf("exit status %d", exit.ExitStatus)
		}
		c.finish()
	})
}

// A shim whose log nobody reads goes on, whether the reader is gone or stuck.
func TestLogNotRead(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("it writes to its log FIFO and waits")
		for name, stuck := range map[string]bool{"gone": false, "stuck": true} {
			c := s.launch(still())
			if stuck {
				f, err := os.OpenFile(filepath.Join(c.Bundle.Dir, "log"), os.O_RDWR, 0)
				s.must(err)
				defer f.Close()
			}
			s.must(c.Bundle.CloseLog())
			for range 200 { // stacks of more than a FIFO holds
				s.must(c.Signal(unix.SIGUSR1))
				ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
				_, err := c.State(ctx, &taskv3.StateRequest{ID: c.id})
				cancel()
				if err != nil {
					s.Fatalf("reader %s: %v", name, err)
				}
			}
			s.must(c.kill("", unix.SIGKILL))
			c.finish()
		}
	})
}
