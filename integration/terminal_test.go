package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Terminal is what testbox tells of one.
type terminal struct {
	Name, Size, Mode, Owner string
	Controlling             bool
}

func (e *env) wantTerminal(what, output string, want terminal) {
	e.Helper()
	var got map[string]terminal
	if err := json.Unmarshal([]byte(output), &got); err != nil {
		e.Errorf("%s: %v in %q", what, err, output)
		return
	}
	for _, fd := range []string{"0", "1", "2"} {
		if got[fd] != want {
			e.Errorf("%s: descriptor %s: %+v, want %+v", what, fd, got[fd], want)
		}
	}
}

func TestTerminal(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(testbox("all", "tty", "--", "sleep", "inf"), withTerminal,
			withSpec(oci.WithTTYSize(132, 43), oci.WithUIDGID(1000, 1000)))
		b.await("}\r\n")
		b.await("\r\n}\r\n")
		e.wantTerminal("init", b.out.String(), terminal{"/dev/pts/0", "132x43", "020620", "1000:5", true})

		r := b.execRun([]string{"tty"}, execTerminal, execEdit(func(p *specs.Process) {
			p.ConsoleSize = &specs.Box{Width: 40, Height: 12}
			p.User = specs.User{}
		}))
		e.wantTerminal("exec", r.out, terminal{"/dev/pts/1", "40x12", "020620", "0:5", true})
		if r := b.execRun([]string{"tty"}); strings.TrimSpace(r.out) != "{}" {
			e.Errorf("an exec without a terminal has %s", r.out)
		}
	})
}

// The container's console is its terminal.
func TestConsole(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(testbox("all", "echo", "up", "--", "sleep", "inf"), withTerminal)
		b.await("up")
		r := b.execRun([]string{"stat", "/dev/console", "/dev/pts/0", "/dev/ptmx", "/dev/pts/ptmx"})
		var got map[string]struct{ Mode, Device, Target string }
		e.must(json.Unmarshal([]byte(r.out), &got))
		if got["/dev/console"] != got["/dev/pts/0"] || got["/dev/console"].Device != "136:0" {
			e.Errorf("console %+v, terminal %+v", got["/dev/console"], got["/dev/pts/0"])
		}
		if r := b.execRun([]string{"put", "/dev/console", "to the console\n"}); r.code != 0 {
			e.Errorf("write to the console: %+v", r)
		}
		b.await("to the console")
	})
}

func TestResize(t *testing.T) {
	each(t, func(e *env) {
		b := e.create(testbox("winch"), withTerminal)
		e.must(b.task.Resize(e.ctx, 90, 30)) // before there is anybody to notice
		b.start()
		b.await("90x30\r\n")
		for _, size := range [][2]uint32{{100, 40}, {1, 1}, {500, 200}} {
			e.must(b.Resize(e.ctx, size[0], size[1]))
			b.await(fmt.Sprintf("\n%dx%d\r\n", size[0], size[1]))
		}
		p := b.exec([]string{"/bin/testbox", "winch"}, execTerminal)
		e.must(p.Resize(e.ctx, 77, 22))
		p.await("77x22\r\n")
		p.kill(unix.SIGKILL)
		p.end()
		b.kill(unix.SIGKILL)
		b.wait()
	})
}

// The terminal's line discipline works: echo, end of file, and the signals of
// control characters.
func TestTerminalInput(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(testbox("tty-lines"), withTerminal, withStdin)
		b.await("ready")
		b.write("word\n")
		b.await("word\r\n[word]\r\n")
		b.write("\x04") // ^D
		if code := b.wait(); code != 0 {
			e.Errorf("exit code %d after the end of file", code)
		}

		b = e.launch(testbox("trap", "QUIT"), withTerminal, withStdin)
		b.await("ready")
		b.write("\x03")
		b.await("SIGINT")
		p := b.exec([]string{"/bin/testbox", "trap", "INT"}, execTerminal, execStdin)
		p.await("ready")
		p.write("\x03")
		if code := p.wait(); code != 0 {
			e.Errorf("exec: exit code %d after ^C", code)
		}
		if strings.Count(b.out.String(), "SIGINT") != 1 {
			e.Errorf("^C on the exec's terminal reached init: %q", b.out)
		}
		b.write("\x1c")
		if code := b.wait(); code != 0 {
			e.Errorf("exit code %d after ^\\", code)
		}
	})
}

func TestTerminalLargeOutput(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(testbox("burst", fmt.Sprint(much), "4"), withTerminal)
		r := b.end()
		if r.code != 4 {
			e.Errorf("exit code %d", r.code)
		}
		e.wantBurst("init", strings.ReplaceAll(r.out, "\r\n", "\n"), much, 1)
		b = e.launch(still())
		r = b.execRun([]string{"burst", fmt.Sprint(much)}, execTerminal)
		e.wantBurst("exec", strings.ReplaceAll(r.out, "\r\n", "\n"), much, 1)
	})
}

// A child that keeps the terminal open neither delays Wait nor lives on as its
// owner: Delete ends.
func TestTerminalHeldByChild(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		io := s.newStreams("io", true)
		s.Cleanup(io.close)
		s.must(c.exec("E", io, "/bin/testbox", "all", "echo", "before", "--", "background", "sleep", "inf"))
		s.must(c.start("E"))
		_, err := c.wait("E")
		s.must(err)
		started := time.Now()
		_, err = c.delete("E")
		s.must(err)
		if took := time.Since(started); took > 30*time.Second {
			s.Errorf("delete took %v", took)
		}
		s.awaitEOF(io.out)
		if !strings.HasPrefix(io.out.String(), "before\r\n") {
			s.Errorf("output %q", io.out.String())
		}
	})
}

// A client that stops reading does not stop the shim.
func TestTerminalReaderGoes(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.shim(testbox("burst", fmt.Sprint(much)), withTerminal)
		c.streams = s.newStreams(c.id, true)
		fifo := s.newStream(filepath.Join(c.streams.dir, "fifo"))
		in := s.openReader(fifo)
		s.must(c.createWith(&taskv3.CreateTaskRequest{Stdout: fifo.path}))
		s.must(c.start(""))
		s.must(in.Close())
		s.must(c.exec("E", nil, "/bin/testbox", "true"))
		s.must(c.start("E"))
		if exit, err := c.wait("E"); err != nil || exit.ExitStatus != 0 {
			s.Errorf("exec: %v, %v", exit, err)
		}
		s.must(c.kill("", unix.SIGKILL))
		_, err := c.wait("")
		s.must(err)
		_, err = c.delete("")
		s.must(err)
	})
}

func TestTerminalToFile(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("it opens the URI as a FIFO")
		path := filepath.Join(s.peer.Dir, "terminal.log")
		c := s.shim(testbox("echo", "from a terminal"), withTerminal)
		s.must(c.createWith(&taskv3.CreateTaskRequest{Stdout: "file://" + path}))
		s.must(c.start(""))
		c.finish()
		if data, err := os.ReadFile(path); err != nil || string(data) != "from a terminal\r\n" {
			s.Errorf("%q, %v", data, err)
		}
	})
}

func TestTerminalToLogger(t *testing.T) {
	eachPeer(t, func(s *stage) {
		uri, dir := s.binaryURI("binary", "logger")
		c := s.shim(testbox("echo", "from a terminal"), withTerminal)
		s.must(c.createWith(&taskv3.CreateTaskRequest{Stdout: uri}))
		s.must(c.start(""))
		c.finish()
		s.awaitFile(filepath.Join(dir, "done"))
		if got := s.awaitFile(filepath.Join(dir, "stdout")); got != "from a terminal\r\n" {
			s.Errorf("%q", got)
		}
	})
}
