package stdio

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOutputEnds(t *testing.T) {
	for _, c := range []bool{false, true} {
		r := request()
		r.Copy, r.Stdout, r.Stderr = c, fifo(t, "out"), fifo(t, "err")
		out, err := read(r.Stdout), read(r.Stderr)
		s := ask(t, r)
		run(t, s, "role", "words")
		// The client sees the end when the process is gone, before Close.
		equal(t, "stdout", string(within(t, "stdout", out)), "out")
		equal(t, "stderr", string(within(t, "stderr", err)), "err")
	}
}

func TestFilesForTheProcess(t *testing.T) {
	r := request()
	r.Stdin, r.Stdout, r.Stderr = fifo(t, "in"), fifo(t, "out"), fifo(t, "err")
	s := ask(t, r)
	for i, mode := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_WRONLY} {
		fd := s.Files()[i].Fd()
		flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
		ok(t, err)
		equal(t, "flags", flags&(unix.O_ACCMODE|unix.O_NONBLOCK), mode)
		flags, err = unix.FcntlInt(fd, unix.F_GETFD, 0)
		ok(t, err)
		equal(t, "descriptor flags", flags, unix.FD_CLOEXEC)
		size, err := unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0)
		ok(t, err)
		equal(t, "capacity", size, pipeSize)
	}
}

// All of 8 MiB arrives although the process exits at once, and everything is
// closed as soon as Drain allows.
func TestBurst(t *testing.T) {
	want := pattern(8 << 20)
	for name, change := range map[string]func(*Request){
		"direct": func(*Request) {},
		"copied": func(r *Request) { r.Copy = true },
		"slow":   func(r *Request) { r.Copy = true },
		"file":   func(r *Request) { r.Stdout = "file://" + filepath.Dir(r.Stdout) + "/log" },
	} {
		t.Run(name, func(t *testing.T) {
			r := request()
			r.Stdout = fifo(t, "out")
			change(&r)
			got := make(chan []byte, 1)
			switch name {
			case "file":
			case "slow":
				go func() {
					f, _ := os.Open(r.Stdout)
					defer f.Close()
					var all []byte
					for b := make([]byte, 256<<10); ; time.Sleep(5 * time.Millisecond) {
						n, _ := f.Read(b)
						if n == 0 {
							break
						}
						all = append(all, b[:n]...)
					}
					got <- all
				}()
			default:
				go func() { got <- <-read(r.Stdout) }()
			}
			s := ask(t, r)
			ok(t, run(t, s, "bytes", "8388608", "role", "burst").Wait())
			drained(t, s)
			ok(t, s.Close())
			if name == "file" {
				got <- []byte(content(strings.TrimPrefix(r.Stdout, "file://")))
			}
			same(t, within(t, "output", got), want)
		})
	}
}

// A client that vanishes kills nobody, and the next one reads on.
func TestReaderVanishes(t *testing.T) {
	for _, c := range []bool{false, true} {
		r := request()
		r.Copy, r.Stdout = c, fifo(t, "out")
		s := ask(t, r)
		cmd := run(t, s, "bytes", "4000000", "role", "burst")
		first := make([]byte, 1000000)
		f, err := os.Open(r.Stdout)
		ok(t, err)
		_, err = io.ReadFull(f, first)
		ok(t, err)
		f.Close()
		time.Sleep(50 * time.Millisecond)
		rest := within(t, "the rest", read(r.Stdout))
		same(t, append(first, rest...), pattern(4000000))
		ok(t, cmd.Wait())
	}
}

// Without any client nothing waits: not Open, not a process that writes less
// than the FIFO holds, not Close. Who comes before Close gets it all.
func TestNoClient(t *testing.T) {
	r := request()
	r.Stdin, r.Stdout, r.Stderr = fifo(t, "in"), fifo(t, "out"), fifo(t, "err")
	s := ask(t, r)
	ok(t, run(t, s, "role", "words").Wait())
	f, err := os.OpenFile(r.Stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
	ok(t, err)
	defer f.Close()
	ok(t, s.Close())
	b, err := io.ReadAll(f)
	ok(t, err)
	equal(t, "stdout", string(b), "out")
}

// A client that is slow to open its end misses nothing of a short process.
func TestSlowClient(t *testing.T) {
	before := readerTimeout
	t.Cleanup(func() { readerTimeout = before })
	readerTimeout = 10 * time.Second
	r := request()
	r.Stdout = fifo(t, "out")
	out := make(chan []byte, 1)
	go func() {
		time.Sleep(50 * time.Millisecond)
		out <- <-read(r.Stdout)
	}()
	s := ask(t, r)
	ok(t, run(t, s, "role", "words").Wait())
	ok(t, s.Close())
	equal(t, "output", string(within(t, "output", out)), "out")
}

func TestStdinDetachAndReattach(t *testing.T) {
	for _, c := range []bool{false, true} {
		for _, closeFirst := range []bool{false, true} { // CloseStdin before the client closes
			r := request()
			r.Copy, r.Stdin, r.Stdout = c, fifo(t, "in"), fifo(t, "out")
			out := read(r.Stdout)
			s := ask(t, r)
			run(t, s, "role", "cat")
			for _, text := range []string{"a", "b"} {
				ok(t, os.WriteFile(r.Stdin, []byte(text), 0))
				time.Sleep(20 * time.Millisecond)
			}
			client, err := os.OpenFile(r.Stdin, os.O_WRONLY, 0)
			ok(t, err)
			if closeFirst {
				ok(t, s.CloseStdin())
			}
			select {
			case b := <-out:
				t.Fatalf("ended early, with %q", b)
			case <-time.After(50 * time.Millisecond):
			}
			_, err = client.WriteString("c")
			ok(t, err)
			client.Close()
			ok(t, s.CloseStdin())
			ok(t, s.CloseStdin())
			equal(t, "output", string(within(t, "output", out)), "abc|EOF")
		}
	}
}

func TestLargeRoundTrip(t *testing.T) {
	for _, c := range []bool{false, true} {
		r := request()
		r.Copy, r.Stdin, r.Stdout = c, fifo(t, "in"), fifo(t, "out")
		out := read(r.Stdout)
		s := ask(t, r)
		run(t, s, "role", "cat")
		want := pattern(20 << 20)
		ok(t, os.WriteFile(r.Stdin, want, 0))
		ok(t, s.CloseStdin())
		same(t, within(t, "output", out), append(want, "|EOF"...))
	}
}

// The client learns that nobody reads stdin any more.
func TestStdinOfTheDead(t *testing.T) {
	for _, c := range []bool{false, true} {
		r := request()
		r.Copy, r.Stdin = c, fifo(t, "in")
		s := ask(t, r)
		client, err := os.OpenFile(r.Stdin, os.O_WRONLY, 0)
		ok(t, err)
		ok(t, run(t, s, "role", "words").Wait())
		eventually(t, "EPIPE", func() bool {
			_, err := client.WriteString("x")
			return errors.Is(err, unix.EPIPE)
		})
		client.Close()
	}
}

// A process of another user can open /dev/stdout; only what it gets is chowned.
func TestOwner(t *testing.T) {
	root(t)
	for _, c := range []bool{false, true} {
		r := request()
		r.Copy, r.UID, r.GID = c, 12345, 54321
		r.Stdin, r.Stdout, r.Stderr = fifo(t, "in"), fifo(t, "out"), fifo(t, "err")
		out := read(r.Stdout)
		s := ask(t, r)
		exe := filepath.Join(t.TempDir(), "exe")
		self, err := os.ReadFile("/proc/self/exe")
		ok(t, err)
		ok(t, os.WriteFile(exe, self, 0o755))
		for dir := filepath.Dir(exe); dir != "/tmp"; dir = filepath.Dir(dir) {
			ok(t, os.Chmod(dir, 0o755))
		}
		cmd := exec.Command(exe, "role", "reopen")
		f := s.Files()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = f[0], f[1], f[2]
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 54321}}
		ok(t, cmd.Run())
		s.Started()
		equal(t, "output", string(within(t, "output", out)), "reopened")
		var st unix.Stat_t
		ok(t, unix.Stat(r.Stdout, &st))
		equal(t, "FIFO chowned", st.Uid == 12345 && st.Gid == 54321, !c)
	}
}

func TestNull(t *testing.T) {
	root(t)
	var before, after unix.Stat_t
	ok(t, unix.Stat("/dev/null", &before))
	r := request()
	r.UID, r.GID, r.Stdout = 1, 1, fifo(t, "out")
	out := read(r.Stdout)
	s := ask(t, r)
	f := s.Files()
	for _, i := range []int{0, 2} {
		var st unix.Stat_t
		ok(t, unix.Fstat(int(f[i].Fd()), &st))
		equal(t, "device", st.Rdev, before.Rdev)
		_, err := f[i].WriteString("x")
		ok(t, err)
		n, _ := f[i].Read(make([]byte, 1))
		equal(t, "read", n, 0)
	}
	run(t, s, "role", "vandal")
	const refused = "read-only file system read-only file system invalid argument;"
	if got := string(within(t, "output", out)); !strings.HasPrefix(got, refused) || !strings.HasSuffix(got, refused) {
		t.Errorf("of /dev/null: %s", got)
	}
	ok(t, unix.Stat("/dev/null", &after))
	equal(t, "mode", after.Mode, before.Mode)
	equal(t, "owner", after.Uid, before.Uid)
}

func TestAllNull(t *testing.T) {
	s := ask(t, request())
	ok(t, run(t, s, "role", "words").Wait())
	ok(t, s.CloseStdin())
	drained(t, s)
}

func TestFile(t *testing.T) {
	root(t)
	log := filepath.Join(t.TempDir(), "a", "b", "log")
	const want = "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 "
	for i, r := range []Request{{Stdout: "file://" + log, Stderr: "file://" + log}, {Stdout: "file://" + log}, {Stdout: log, Stderr: log}} {
		r.UID, r.GID = 1, 1
		s := ask(t, r)
		ok(t, run(t, s, "role", "turns").Wait())
		drained(t, s)
		ok(t, s.Close())
		equal(t, "log", content(log), strings.Repeat(want, i+1)) // appended, in order
	}
	var st unix.Stat_t
	ok(t, unix.Stat(log, &st))
	equal(t, "mode", st.Mode, unix.S_IFREG|0o644)
	equal(t, "owner", st.Uid, 0)
	ok(t, unix.Stat(filepath.Dir(log), &st))
	equal(t, "mode of the parent", st.Mode, unix.S_IFDIR|0o755)

	r := request()
	r.Stdout = log
	s := ask(t, r)
	run(t, s, "role", "vandal").Wait()
	drained(t, s)
	ok(t, unix.Stat(log, &st))
	equal(t, "mode, after the process tried", st.Mode, unix.S_IFREG|0o644)
	equal(t, "untouched", strings.HasPrefix(content(log), want), true)
}

// A full disk loses output, and does not stop the container.
func TestFullDisk(t *testing.T) {
	r := request()
	r.Stdout = "/dev/full"
	s := ask(t, r)
	ok(t, run(t, s, "bytes", "1000000", "role", "burst").Wait())
	drained(t, s)
}

func TestSourceFile(t *testing.T) {
	r := request()
	r.Stdin, r.Stdout = filepath.Join(t.TempDir(), "in"), fifo(t, "out")
	ok(t, os.WriteFile(r.Stdin, []byte("text"), 0o600))
	out := read(r.Stdout)
	s := ask(t, r)
	run(t, s, "role", "cat")
	equal(t, "output", string(within(t, "output", out)), "text|EOF")
}

func TestOnePathTwice(t *testing.T) {
	for _, c := range []bool{false, true} {
		r := request()
		p := fifo(t, "out")
		r.Copy, r.Stdout, r.Stderr = c, p, p
		out := read(p)
		s := ask(t, r)
		run(t, s, "role", "words")
		equal(t, "output", string(within(t, "output", out)), "outerr")
	}
	// stdin too: the process would read what it writes.
	r := request()
	p := fifo(t, "all")
	r.Stdin, r.Stdout, r.Stderr = p, p, p
	ok(t, ask(t, r).Close())
}

func TestOddPaths(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", dir+"/socket")
	ok(t, err)
	defer l.Close()
	target := fifo(t, "target")
	ok(t, os.Symlink(target, dir+"/link"))
	ok(t, os.Symlink(dir+"/nowhere", dir+"/dangling"))
	for path, want := range map[string]error{
		dir:                                       ErrInvalid,
		dir + "/socket":                           ErrInvalid,
		dir + "/missing":                          fs.ErrNotExist,
		dir + "/missing/x":                        fs.ErrNotExist,
		dir + "/dangling":                         fs.ErrNotExist,
		"file://" + dir:                           ErrInvalid,
		"file://" + dir + "/dangling":             fs.ErrNotExist,
		"file://" + dir + "/socket/x":             unix.ENOTDIR,
		"file:///dev/null/x":                      unix.ENOTDIR,
		dir + "/" + strings.Repeat("x", 300):      unix.ENAMETOOLONG,
		"binary://" + dir + "/missing":            fs.ErrNotExist,
		"binary://" + dir:                         fs.ErrPermission,
		dir + "/link":                             nil,
		"fifo://" + dir + "/link":                 nil,
		"file://" + dir + "/link":                 nil,
		"file://localhost" + dir + "/new%20file":  nil,
		"/dev/zero":                               nil,
		"/" + strings.Repeat("/", 4000) + target:  nil,
		"binary:///proc/self/exe?mode=dead&role=": nil,
	} {
		for i := range 3 {
			r := request()
			*[]*string{&r.Stdin, &r.Stdout, &r.Stderr}[i] = path
			want := want
			if i == 0 && strings.Contains(path, "file:") || i != 1 && strings.Contains(path, "binary:") {
				want = ErrInvalid
			}
			s, err := Open(t.Context(), r)
			if err == nil {
				ok(t, s.Close())
			}
			if !errors.Is(err, want) {
				t.Errorf("%d %s: got %v, want %v", i, path, err, want)
			}
		}
	}
	equal(t, "missing made", exists(dir+"/missing"), false)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// A bad URI is found before anything is touched.
func TestNothingTouched(t *testing.T) {
	dir := t.TempDir()
	r := request()
	r.Stdout, r.Stderr = "file://"+dir+"/a/b", "ftp:///x"
	_, err := Open(t.Context(), r)
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `unknown STDIO scheme "ftp"`) {
		t.Error(err)
	}
	equal(t, "made", exists(dir+"/a"), false)
}

// Processes in the background hold the pipe: Drain gives up with its context,
// Close ends the copy, and the client sees the end.
func TestBackgroundHolder(t *testing.T) {
	r := request()
	r.Copy, r.Stdout = true, fifo(t, "out")
	out := read(r.Stdout)
	s := ask(t, r)
	ok(t, run(t, s, "role", "holder", "sleep", "1500").Wait())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	deadline(t, s.Drain(ctx))
	ok(t, s.Close())
	equal(t, "output", string(within(t, "output", out)), "held")
}

// Close stops copies that wait for a reader.
func TestCloseIsPrompt(t *testing.T) {
	r := request()
	r.Copy, r.Stdin, r.Stdout = true, fifo(t, "in"), fifo(t, "out")
	s := ask(t, r)
	run(t, s, "bytes", "4000000", "role", "burst")
	time.Sleep(50 * time.Millisecond)
	began := time.Now()
	ok(t, s.Close())
	ok(t, s.Close())
	if d := time.Since(began); d > time.Second {
		t.Errorf("took %s", d)
	}
}

// One goroutine for each copied stream, one for a logger, none otherwise.
func TestIdleGoroutines(t *testing.T) {
	in, out, err := fifo(t, "in"), fifo(t, "out"), fifo(t, "err")
	dir := t.TempDir()
	log := "binary:///proc/self/exe?mode=ok&role=logger&dir=" + dir
	time.Sleep(100 * time.Millisecond) // for those of other tests to end
	for name, c := range map[string]struct {
		r    Request
		want int
	}{
		"nothing":            {Request{}, 0},
		"direct":             {Request{Stdin: in, Stdout: out, Stderr: err}, 0},
		"copied":             {Request{Copy: true, Stdin: in, Stdout: out, Stderr: err}, 3},
		"file":               {Request{Stdout: "file://" + dir + "/x"}, 1},
		"logger":             {Request{Stdout: log, Stderr: log}, 1},
		"terminal":           {Request{Terminal: true, Stdin: in, Stdout: out, Stderr: err}, 2},
		"terminal, no stdin": {Request{Terminal: true, Stdout: out}, 1},
		"terminal, logger":   {Request{Terminal: true, Stdout: log, Stderr: log}, 2},
	} {
		before := runtime.NumGoroutine()
		c.r.UID, c.r.GID = -1, -1
		s := ask(t, c.r)
		var slave *os.File
		if c.r.Terminal {
			var master *os.File
			master, slave = terminal(t)
			ok(t, s.Attach(master))
		}
		equal(t, name, runtime.NumGoroutine()-before, c.want)
		ok(t, s.Close())
		slave.Close()
		eventually(t, name+": end", func() bool { return runtime.NumGoroutine() == before })
	}
}

func TestConcurrently(t *testing.T) {
	for range 100 {
		r := request()
		r.Terminal, r.Stdin, r.Stdout = true, fifo(t, "in"), fifo(t, "out")
		s := ask(t, r)
		master, slave := terminal(t)
		var wg sync.WaitGroup
		for _, f := range []func(){
			func() { s.Attach(master) },
			func() { s.Started() },
			func() { s.CloseStdin() },
			func() { ok(t, s.CloseStdin()) },
			func() { ok(t, s.Resize(80, 24)) },
			func() { slave.WriteString("text"); slave.Close() },
			func() { s.Exited() },
			func() { s.Drain(t.Context()) },
			func() { ok(t, s.Resize(80, 25)) },
			func() { ok(t, s.Close()) },
			func() { ok(t, s.Close()) },
		} {
			wg.Go(f)
		}
		wg.Wait()
		ok(t, s.Resize(1, 1))
		ok(t, s.CloseStdin())
	}
}
