package shim

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// The test binary is also the shim: with this variable set it does what the
// shim does, with a service that serves nothing but its tests.
const asShim = "MYSHIM_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(asShim) != "" {
		if s := os.Getenv("MYSHIM_TEST_IDLE"); s != "" {
			var err error
			if idleTimeout, err = time.ParseDuration(s); err != nil {
				panic(err)
			}
		}
		Main(testRuntime())
	}
	status := m.Run()
	if status == 0 {
		status = leaks()
	}
	os.Exit(status)
}

// leaks looks for what a test has left behind.
func leaks() (status int) {
	shims := running()
	for end := time.Now().Add(5 * time.Second); len(shims) > 0 && time.Now().Before(end); shims = running() {
		time.Sleep(10 * time.Millisecond) // the last one may be exiting
	}
	if len(shims) > 0 {
		fmt.Fprintf(os.Stderr, "shims were left running: %s\n", shims)
		status = 1
	}
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:") {
			fmt.Fprintf(os.Stderr, "a socket was left open: %s\n", fd)
			status = 1
		}
	}
	if n := runtime.NumGoroutine(); n > 5 {
		buf := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "%d goroutines were left:\n%s\n", n, buf[:runtime.Stack(buf, true)])
		status = 1
	}
	return status
}

func running() (shims []string) {
	self, _ := os.Executable()
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		if to, err := os.Readlink(exe); err == nil && to == self && exe != fmt.Sprintf("/proc/%d/exe", os.Getpid()) {
			shims = append(shims, exe)
		}
	}
	return shims
}

// testRuntime serves the methods of service "test", with the message types of
// Connect.
func testRuntime() Runtime {
	return Runtime{
		Name:        "io.containerd.test.v1",
		Version:     "1.2.3",
		Revision:    "abcdef",
		Annotations: map[string]string{"a": "b"},
		Features:    func() ([]byte, error) { return []byte(`{"ociVersionMin":"1.0.0"}`), nil },
		Serve:       serveTest,
		Ended:       func(Cleanup) Exit { return Exit{PID: 4711, Status: 3, At: time.Unix(1000, 5)} },
		Cleanup: func(_ context.Context, c Cleanup) error {
			state, err := os.ReadFile(filepath.Join(c.Bundle, "state"))
			if err != nil {
				return err
			}
			if string(state) == "stuck" {
				return fmt.Errorf("kill %s in %s: it does not die", c.ID, c.Namespace)
			}
			log.L.Warn("cleaned up")
			return os.Remove(filepath.Join(c.Bundle, "state"))
		},
		Actions: []Action{{Name: "echo", Args: "WORD...", Help: "for the test", Run: func(args []string) error {
			fmt.Println(args)
			return nil
		}}},
	}
}

// held are the containers of a test.
type held struct {
	mu  sync.Mutex
	ids map[string]bool // guarded by mu
}

func (h *held) hold(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ids[id] = true
}

func (h *held) Release(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.ids, id)
}

func (h *held) CloseIfIdle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ids) == 0
}

func serveTest(ctx context.Context, d Daemon, server *ttrpc.Server) (Service, error) {
	if s := os.Getenv("MYSHIM_TEST_SERVE"); s == "fail" {
		return nil, errors.New("serve: no")
	} else if s != "" {
		pause, err := time.ParseDuration(s)
		if err != nil {
			return nil, err
		}
		time.Sleep(pause)
	}
	h := &held{ids: map[string]bool{}}
	methods := map[string]func(id string) error{
		"Pid":      func(string) error { return nil },
		"Shutdown": func(string) error { d.Shutdown(); return nil },
		"Log":      func(id string) error { log.L.Info(id); log.L.Debug("debug " + id); return nil },
		"Hold":     func(id string) error { h.hold(id); return nil },
		"Lend": func(id string) error {
			h.hold(id)
			time.AfterFunc(2*time.Second, func() { h.Release(id) })
			return nil
		},
		"Block": func(string) error { <-ctx.Done(); return nil },
		"Garbage": func(string) error {
			for range 100 {
				_ = bytes.Repeat([]byte("x"), 1<<16)
			}
			return nil
		},
		"Publish": func(n string) error {
			count, err := strconv.Atoi(n)
			for i := range count {
				d.Publish("/tasks/oom", &eventsapi.TaskOOM{ContainerID: strconv.Itoa(i)})
			}
			return err
		},
	}
	registered := map[string]ttrpc.Method{}
	for name, method := range methods {
		registered[name] = func(_ context.Context, unmarshal func(any) error) (any, error) {
			var request taskapi.ConnectRequest
			if err := unmarshal(&request); err != nil {
				return nil, err
			}
			return &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid())}, method(request.ID)
		}
	}
	server.RegisterService("test", &ttrpc.ServiceDesc{Methods: registered})
	return h, nil
}

// caller is what containerd is to a shim.
type caller struct {
	t         *testing.T
	id        string
	bundle    string
	socketDir string
	ttrpc     string // address of the events server
	env       []string
	debug     bool
}

// newCaller makes a bundle. Of the tests that use it, none depends on another.
func newCaller(t *testing.T, id string) *caller {
	t.Helper()
	c := &caller{t: t, id: id, socketDir: shortDir(t)}
	c.newBundle(`{"ociVersion":"1.2.0"}`)
	return c
}

// shortDir is one whose sockets' paths are not too long.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		files, _ := os.ReadDir(dir)
		for _, f := range files {
			t.Errorf("%s was left in the socket directory", f.Name())
		}
		os.RemoveAll(dir)
	})
	return dir
}

func (c *caller) newBundle(config string) {
	c.t.Helper()
	c.bundle = c.t.TempDir()
	if err := os.WriteFile(filepath.Join(c.bundle, "config.json"), []byte(config), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// member is another container of the same pod, or not.
func (c *caller) member(id, config string) *caller {
	c.t.Helper()
	m := *c
	m.id = id
	m.newBundle(config)
	return &m
}

func (c *caller) command(args ...string) *exec.Cmd {
	c.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{"-namespace", "ns", "-address", "/run/c.sock", "-publish-binary", "/bin/c", "-id", c.id}, args...)...)
	cmd.Dir = c.bundle
	// GORACE: with -race, each process would take a second longer to exit.
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", asShim+"=1", "GOMAXPROCS=2", "MAX_SHIM_VERSION=2", "TTRPC_ADDRESS="+c.ttrpc)
	cmd.Env = append(cmd.Env, c.env...)
	return cmd
}

func (c *caller) params(extensions ...proto.Message) []byte {
	c.t.Helper()
	p := &bootapi.BootstrapParams{InstanceID: c.id, Namespace: "ns", ContainerdGrpcAddress: "/run/c.sock", SocketDir: &c.socketDir}
	if c.debug {
		p.LogLevel = bootapi.LogLevel_LOG_LEVEL_DEBUG
	}
	for _, e := range extensions {
		if err := p.AddExtension(e); err != nil {
			c.t.Fatal(err)
		}
	}
	b, err := proto.Marshal(p)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

// start returns the address.
func (c *caller) start(extensions ...proto.Message) string {
	c.t.Helper()
	cmd := c.command("start")
	cmd.Stdin = bytes.NewReader(c.params(extensions...))
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("start: %v: %s", err, out)
	}
	var result bootapi.BootstrapResult
	if err := proto.Unmarshal(out, &result); err != nil {
		c.t.Fatalf("start: %v: %q", err, out)
	}
	if result.Version != 3 || result.Protocol != "ttrpc" {
		c.t.Errorf("start: %v", &result)
	}
	return result.Address
}

// delete returns the answer and standard error.
func (c *caller) delete() (*taskapi.DeleteResponse, string) {
	c.t.Helper()
	cmd := c.command("-bundle", c.bundle, "delete")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("delete: %v: %s", err, &stderr)
	}
	answer := new(taskapi.DeleteResponse)
	if err := proto.Unmarshal(out, answer); err != nil {
		c.t.Fatalf("delete: %v: %q", err, out)
	}
	return answer, stderr.String()
}

// client is a connection to a daemon.
type client struct {
	t    *testing.T
	conn *ttrpc.Client
	pid  int
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// connect also sees to it that the daemon does not outlive the test.
func connect(t *testing.T, address string) *client {
	t.Helper()
	c := &client{t: t, conn: ttrpc.NewClient(dial(t, address))}
	t.Cleanup(func() { c.conn.Close() })
	c.pid = c.call("Pid", "")
	pidfd, err := unix.PidfdOpen(c.pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		unix.Close(pidfd)
	})
	return c
}

func (c *client) try(method, id string) (pid int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var response taskapi.ConnectResponse
	err = c.conn.Call(ctx, "test", method, &taskapi.ConnectRequest{ID: id}, &response)
	return int(response.ShimPid), err
}

func (c *client) call(method, id string) (pid int) {
	c.t.Helper()
	pid, err := c.try(method, id)
	if err != nil {
		c.t.Fatalf("%s: %v", method, err)
	}
	return pid
}

// shutdown returns when the socket is gone: see TestShutdownIsAnswered.
func (c *client) shutdown() {
	c.t.Helper()
	if _, err := c.try("Shutdown", ""); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		c.t.Fatalf("Shutdown: %v", err)
	}
}

// alive does not count a zombie: whoever reaps it is not the shim.
func alive(pid int) bool {
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil
}

// kill returns when nobody listens any more, which is after the process has
// ceased to be alive.
func (c *client) kill(address string) {
	c.t.Helper()
	if err := unix.Kill(c.pid, unix.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, "nobody listens", func() bool {
		conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
}

func (c *client) exits(within time.Duration) {
	c.t.Helper()
	for end := time.Now().Add(within); alive(c.pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("the daemon is still alive after %v", within)
		}
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so after 20 s: %s", what)
		}
	}
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

func TestLifecycle(t *testing.T) {
	c := newCaller(t, "one")
	address := c.start()
	file := strings.TrimPrefix(address, "unix://")
	if filepath.Dir(file) != c.socketDir {
		t.Errorf("socket %s is not in %s", file, c.socketDir)
	}
	if st, err := os.Lstat(file); err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%s: %v %v", file, st.Mode(), err)
	}
	if b, err := os.ReadFile(filepath.Join(c.bundle, "address")); err != nil || string(b) != address {
		t.Errorf("address: %s %v, want %s", b, err, address)
	}
	d := connect(t, address)

	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", d.pid))
	if err != nil {
		t.Fatal(err)
	}
	if want := "\x00-namespace\x00ns\x00-id\x00one\x00-address\x00/run/c.sock\x00"; !strings.HasSuffix(string(line), want) {
		t.Errorf("command line %q", line)
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", d.pid)); err != nil || cwd != c.bundle {
		t.Errorf("working directory %s %v", cwd, err)
	}
	if sid, err := unix.Getsid(d.pid); err != nil || sid != d.pid {
		t.Errorf("session %d %v, pid %d", sid, err, d.pid)
	}
	if own, its := oomScore(t, os.Getpid()), oomScore(t, d.pid); its != min(own+1, 1000) {
		t.Errorf("oom_score_adj %d, ours is %d", its, own)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.pid))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(status)) {
		if mask, ok := strings.CutPrefix(l, "SigIgn:"); ok {
			// glibc's posix_spawn, with which make starts what it runs, leaves
			// signals 32 and 33 ignored, and Go does not touch those.
			const ofGlibc = 1<<31 | 1<<32
			if bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64); err != nil || bits&^ofGlibc != 0 {
				t.Errorf("signals are ignored, and so in what it runs: %s", l)
			}
		}
	}

	d.shutdown()
	if exists(file) {
		t.Error("the socket is still there after Shutdown")
	}
	d.exits(5 * time.Second)
	if answer, stderr := c.delete(); stderr != "" || answer.ExitStatus != 137 {
		t.Errorf("delete: %v %s", answer, stderr)
	}
}

func oomScore(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A Shutdown that is the first request of its connection is answered too.
// ttrpc's client does not always tell: with both the answer and the end of the
// connection there, it takes either.
func TestShutdownIsAnswered(t *testing.T) {
	request, err := proto.Marshal(&ttrpc.Request{Service: "test", Method: "Shutdown"})
	if err != nil {
		t.Fatal(err)
	}
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(request)))
	frame = append(append(frame, 0, 0, 0, 1, 1, 0), request...)
	for i := range 30 {
		c := newCaller(t, "s"+strconv.Itoa(i))
		address := c.start()
		d := connect(t, address)
		conn := dial(t, address)
		if _, err := conn.Write(frame); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil || len(answer) < 10 || answer[8] != 2 {
			t.Errorf("answer %x %v", answer, err)
		}
		conn.Close()
		d.exits(5 * time.Second)
	}
}

// containerd waits for the end of start's output, and connects at once.
func TestStartDoesNotWait(t *testing.T) {
	c := newCaller(t, "slow")
	c.env = []string{"MYSHIM_TEST_SERVE=3s"}
	before := time.Now()
	address := c.start()
	conn := dial(t, address)
	if took := time.Since(before); took > 2*time.Second {
		t.Errorf("start and connect took %v", took)
	}
	conn.Close()
	connect(t, address).shutdown()
}

func TestLegacy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for containerd's default socket directory")
	}
	for name, options := range map[string]proto.Message{"none": nil, "runc": &runcoptions.Options{SystemdCgroup: true}} {
		c := newCaller(t, "legacy-"+name)
		cmd := c.command("start")
		if options != nil {
			a, err := anypb.New(options)
			if err != nil {
				t.Fatal(err)
			}
			b, err := proto.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stdin = bytes.NewReader(b)
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		if dir := filepath.Dir(strings.TrimPrefix(string(out), "unix://")); dir != "/run/containerd/s" {
			t.Errorf("%s: answer %q", name, out)
		}
		d := connect(t, string(out))
		if answer, stderr := c.delete(); stderr != "" || answer.ExitStatus != 137 {
			t.Errorf("%s: delete: %v %s", name, answer, stderr)
		}
		d.exits(0)
	}
}

func TestGrouping(t *testing.T) {
	const inPod = `{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}`
	pod := newCaller(t, "pod").member("pod", inPod)
	address := pod.start()
	d := connect(t, address)
	d.call("Hold", "pod")

	one := pod.member("one", inPod)
	if got := one.start(); got != address {
		t.Errorf("a member is at %s, the pod at %s", got, address)
	}
	d.call("Hold", "one")
	other := pod.member("other", `{}`)
	if got := other.start(); got == address {
		t.Errorf("another container is at %s too", got)
	} else {
		connect(t, got).shutdown()
	}

	// One that containerd attached without `start`.
	two := pod.member("two", inPod)
	bootstrap := fmt.Sprintf(`{"version":3,"address":%q,"protocol":"ttrpc"}`, address)
	if err := os.WriteFile(filepath.Join(two.bundle, "bootstrap.json"), []byte(bootstrap), 0o600); err != nil {
		t.Fatal(err)
	}
	d.call("Hold", "two")

	for _, c := range []*caller{one, two} {
		if _, stderr := c.delete(); stderr != "" {
			t.Errorf("delete: %s", stderr)
		}
		if !alive(d.pid) {
			t.Fatalf("the daemon has exited with %s, and the pod is left", c.id)
		}
	}
	if _, stderr := pod.delete(); stderr != "" {
		t.Errorf("delete: %s", stderr)
	}
	d.exits(0) // delete has waited for it
}

// The same container again, while the first daemon is alive, and after it was
// killed.
func TestStartAgain(t *testing.T) {
	c := newCaller(t, "again")
	address := c.start()
	d := connect(t, address)
	if got := c.start(); got != address {
		t.Errorf("second start: %s, first %s", got, address)
	}
	if pid := connect(t, address).pid; pid != d.pid {
		t.Errorf("second daemon %d, first %d", pid, d.pid)
	}
	d.kill(address)
	if got := c.start(); got != address {
		t.Errorf("start after SIGKILL: %s, before %s", got, address)
	}
	again := connect(t, address)
	if again.pid == d.pid {
		t.Error("the killed daemon answers")
	}
	// Not waiting for it: containerd sees its connection end before.
	if err := unix.Kill(again.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, stderr := c.delete(); stderr != "" {
		t.Errorf("delete: %s", stderr)
	}
	if exists(strings.TrimPrefix(address, "unix://")) {
		t.Error("the socket of the killed daemon is left")
	}
}

// A daemon that was told to exit leaves the socket of its successor alone.
func TestSuccessor(t *testing.T) {
	events := newEventsServer(t) // not serving: the last event delays the exit
	c := newCaller(t, "succeeded")
	c.ttrpc = events.address
	address := c.start()
	d := connect(t, address)
	d.call("Publish", "1")
	d.shutdown()
	if got := c.start(); got != address {
		t.Errorf("second start: %s, first %s", got, address)
	}
	if !alive(d.pid) {
		t.Fatal("the first daemon did not wait for its event")
	}
	second := connect(t, address)
	events.serve()
	d.exits(5 * time.Second)
	if second.pid == d.pid || !exists(strings.TrimPrefix(address, "unix://")) {
		t.Error("the successor's socket is gone")
	}
	second.shutdown()
}

func TestDelete(t *testing.T) {
	c := newCaller(t, "deleted")
	state := filepath.Join(c.bundle, "state")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(state, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := connect(t, c.start())
	d.call("Hold", c.id)
	d.call("Hold", "other")
	write("x")
	answer, stderr := c.delete()
	if answer.Pid != 4711 || answer.ExitStatus != 3 || !answer.ExitedAt.AsTime().Equal(time.Unix(1000, 5)) {
		t.Errorf("delete: %v", answer)
	}
	if strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, `level=warning msg="cleaned up"`) {
		t.Errorf("warnings: %s", stderr)
	}
	if !alive(d.pid) {
		t.Fatal("the daemon has exited, and serves another container")
	}

	write("stuck")
	cmd := c.command("-bundle", c.bundle, "delete")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "kill deleted in ns: it does not die") {
		t.Errorf("Cleanup that fails: %v %s", err, out)
	}
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}

	// As in shimtest: Shutdown is not called, and delete has to end it.
	other := c.member("other", `{}`)
	if err := os.Rename(filepath.Join(c.bundle, "address"), filepath.Join(other.bundle, "address")); err != nil {
		t.Fatal(err)
	}
	if _, stderr := other.delete(); stderr != "" {
		t.Errorf("delete: %s", stderr)
	}
	d.exits(0)
	for range 2 {
		if err := os.RemoveAll(c.bundle); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(c.bundle, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, stderr := c.delete(); stderr != "" {
			t.Errorf("delete of nothing: %s", stderr)
		}
	}
}

// Nothing of the caller's reaches the daemon.
func TestDescriptors(t *testing.T) {
	c := newCaller(t, "fds")
	if err := unix.Mkfifo(filepath.Join(c.bundle, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := c.command("start")
	cmd.Stdin = bytes.NewReader(c.params())
	cmd.ExtraFiles = []*os.File{w, w, w}
	out, err := cmd.CombinedOutput()
	w.Close()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("somebody still holds the pipe: %d %v", n, err)
	}
	var result bootapi.BootstrapResult
	if err := proto.Unmarshal(out, &result); err != nil {
		t.Fatal(err)
	}
	d := connect(t, result.Address)
	open := map[string]int{}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", d.pid))
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err != nil {
			t.Fatal(err)
		}
		to, _, _ = strings.Cut(to, ":[")
		open[to]++
	}
	for to, n := range open {
		switch {
		case to == "/dev/null" && n == 2, to == filepath.Join(c.bundle, "log") && n == 1, to == "socket" && n == 2:
		case to == "anon_inode", strings.HasPrefix(to, "/sys/fs/cgroup/"): // of the Go runtime
		default:
			t.Errorf("%d × %s is open", n, to)
		}
	}
	d.shutdown()
}

func TestShimCgroup(t *testing.T) {
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		root += "/pids"
	}
	name := fmt.Sprintf("/myshim-test-%d", os.Getpid())
	if err := os.Mkdir(root+name, 0o755); err != nil {
		t.Skipf("needs a cgroup of its own: %v", err)
	}
	defer func() {
		eventually(t, "the cgroup is empty", func() bool { return os.Remove(root+name) == nil })
	}()
	c := newCaller(t, "cgroup")
	d := connect(t, c.start(&runcoptions.Options{ShimCgroup: name}))
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", d.pid))
	if err != nil || !strings.Contains(string(b), ":"+name+"\n") {
		t.Errorf("%s %v", b, err)
	}
	d.shutdown()
	d.exits(5 * time.Second)

	for options, want := range map[string]string{
		"/nonexistent/x": `shim_cgroup "/nonexistent/x": `,
		"/a/../../x":     `shim_cgroup "/a/../../x": the path leads out`,
	} {
		c.fails(want, c.params(&runcoptions.Options{ShimCgroup: options}))
	}
}

// fails checks that start does, and that it leaves nothing.
func (c *caller) fails(want string, stdin []byte) {
	c.t.Helper()
	cmd := c.command("start")
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || stdout.Len() > 0 || !strings.Contains(stderr.String(), want) {
		c.t.Errorf("start: %v %q %q, want %q", err, &stdout, &stderr, want)
	}
	if files, _ := os.ReadDir(c.socketDir); len(files) > 0 {
		c.t.Errorf("a failed start has left %v", files)
	}
}

func TestStartFails(t *testing.T) {
	c := newCaller(t, "failing")
	c.newBundle(`{"annotations":`)
	c.fails("config.json: at byte 15: unexpected EOF", c.params())
	c.newBundle(`{}`)
	c.fails("stdin holds neither", []byte("what?"))
	c.id = ""
	c.fails("-id is missing", nil)
	c.id = "failing"
	long := *c
	long.socketDir = "/" + strings.Repeat("x", 50)
	long.fails("is too long", long.params())
	c.env = []string{"SCHED_CORE=1"}
	cmd := c.command("start")
	cmd.Stdin = bytes.NewReader(c.params())
	if out, err := cmd.CombinedOutput(); err != nil { // most virtual machines have no threads to schedule
		if !strings.Contains(string(out), "core scheduling (SCHED_CORE): ") {
			t.Errorf("SCHED_CORE: %s", out)
		}
	} else {
		connect(t, c.start()).shutdown()
	}
}

func TestServeFails(t *testing.T) {
	c := newCaller(t, "noserve")
	fifo := c.openLog()
	c.env = []string{"MYSHIM_TEST_SERVE=fail"}
	address := c.start()
	fifo.until(`level=error msg="the daemon does not start" error="serve: no"`)
	eventually(t, "the daemon is gone", func() bool {
		conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	if _, stderr := c.delete(); stderr != "" {
		t.Errorf("delete: %s", stderr)
	}
}

// Nobody came, or all have gone, and nothing is served.
func TestIdle(t *testing.T) {
	c := newCaller(t, "idle")
	c.env = []string{"MYSHIM_TEST_IDLE=1s"}
	c.start() // gives up: no client
	eventually(t, "the socket is gone", func() bool {
		files, _ := os.ReadDir(c.socketDir)
		return len(files) == 0
	})

	d := connect(t, c.start())
	time.Sleep(1500 * time.Millisecond)
	if !alive(d.pid) {
		t.Fatal("exited in spite of a client")
	}
	d.call("Hold", "x")
	d.conn.Close()
	time.Sleep(1500 * time.Millisecond)
	if !alive(d.pid) {
		t.Fatal("exited in spite of a container")
	}
	c.id = "x"
	c.delete()
	d.exits(0)

	c.id = "idle"
	d = connect(t, c.start())
	d.conn.Close()
	d.exits(5 * time.Second)

	// It is without a container later than without a client.
	d = connect(t, c.start())
	d.call("Lend", "x")
	d.conn.Close()
	d.exits(10 * time.Second)
}

func TestSignals(t *testing.T) {
	c := newCaller(t, "signals")
	c.debug = true
	fifo := c.openLog()
	d := connect(t, c.start())
	for _, s := range []unix.Signal{unix.SIGHUP, unix.SIGPIPE, unix.SIGUSR1} {
		if err := unix.Kill(d.pid, s); err != nil {
			t.Fatal(err)
		}
	}
	fifo.until(`level=info msg="goroutine 1 [`)
	fifo.until(".(*Server).Serve(")
	d.call("Log", "still alive")
	fifo.until(`level=info msg="still alive"`)
	fifo.until(`level=debug msg="debug still alive"`)
	d.call("Hold", "x")
	if err := unix.Kill(d.pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	fifo.until(`msg="exiting because of terminated"`)
	d.exits(5 * time.Second)
}

// What a daemon has, it has from the first connection on.
func TestNoLeaks(t *testing.T) {
	server := newEventsServer(t)
	server.serve()
	c := newCaller(t, "leaks")
	c.ttrpc = server.address
	fifo := c.openLog()
	address := c.start()
	d := connect(t, address)
	d.call("Publish", "1")
	server.take(1)
	count := func() (fds, goroutines int) {
		t.Helper()
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.pid))
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(d.pid, unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		text := fifo.until("created by " + /* the last one */ "github.com/containerd/ttrpc.(*serverConn).run in goroutine")
		time.Sleep(200 * time.Millisecond)
		text += fifo.rest()
		return len(open), strings.Count(text, `msg="goroutine `)
	}
	fds, goroutines := count()
	for range 30 {
		conn := &client{t: t, conn: ttrpc.NewClient(dial(t, address))}
		conn.call("Publish", "10")
		conn.conn.Close()
	}
	server.take(300)
	d.call("Garbage", "")
	time.Sleep(quietAfter + 500*time.Millisecond) // memory is freed
	if f, g := count(); f > fds || g > goroutines {
		t.Errorf("%d descriptors and %d goroutines, first %d and %d", f, g, fds, goroutines)
	}
	d.shutdown()
}

func TestInfo(t *testing.T) {
	c := newCaller(t, "")
	options, err := anypb.New(&runcoptions.Options{BinaryName: "crun"})
	if err != nil {
		t.Fatal(err)
	}
	for name, options := range map[string]*anypb.Any{"none": nil, "runc": options, "unknown": {TypeUrl: "x.Y", Value: []byte("z")}} {
		cmd := exec.Command(c.command().Path, "-info")
		cmd.Env = c.command().Env
		if options != nil {
			b, err := proto.Marshal(options)
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stdin = bytes.NewReader(b)
		}
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got types.RuntimeInfo
		if err := proto.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		want := &types.RuntimeInfo{
			Name: "io.containerd.test.v1", Version: &types.RuntimeVersion{Version: "1.2.3", Revision: "abcdef"}, Options: options,
			Features: &anypb.Any{
				TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/features/Features",
				Value:   []byte(`{"ociVersionMin":"1.0.0"}`),
			},
			Annotations: map[string]string{"a": "b"},
		}
		if !proto.Equal(&got, want) {
			t.Errorf("%s: got %v, want %v", name, &got, want)
		}
	}
	err = testRuntime().info(strings.NewReader("\xff"), io.Discard)
	if err == nil || !strings.Contains(err.Error(), "stdin holds no options: ") {
		t.Errorf("no protobuf: %v", err)
	}
}

func TestOtherActions(t *testing.T) {
	c := newCaller(t, "x")
	for args, want := range map[string]string{
		"-v":         "  Version:  1.2.3\n  Revision: abcdef\n  Go version: " + runtime.Version() + "\n",
		"--version":  "  Version:  1.2.3\n",
		"-help":      " echo WORD...         for the test\n",
		"echo a b":   "[a b]\n",
		"frobnicate": `unknown action "frobnicate", see -help`,
		"":           "no action, see -help",
	} {
		out, err := c.command(strings.Fields(args)...).CombinedOutput()
		if !strings.Contains(string(out), want) || (err != nil) != strings.Contains(want, "see") {
			t.Errorf("%s: %v %s", args, err, out)
		}
	}
}
