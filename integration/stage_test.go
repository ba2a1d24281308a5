package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/fifo"
	"github.com/containerd/ttrpc"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Stage is a test without containerd, straight on a shim's command line and
// socket.
type stage struct {
	*env
	peer *harness.Peer
	root string
}

func eachPeer(t *testing.T, test func(s *stage)) {
	t.Helper()
	forRuntimes(t, func(t *testing.T, r harness.Runtime) { test(newStage(t, r)) })
}

func newStage(t *testing.T, r harness.Runtime) *stage {
	t.Helper()
	root, err := shared.baseRoot()
	if err != nil {
		t.Fatal(err)
	}
	peer, err := harness.NewPeer(fmt.Sprint("p", serial.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	peer.Debug = true
	t.Cleanup(func() {
		if err := peer.Close(); err != nil {
			t.Error(err)
		}
	})
	e := newEnv(t, r, peer.SocketDir(), filepath.Join(peer.Dir, "b"))
	return &stage{env: e, peer: peer, root: root}
}

// Task is one container of a shim, by the shim's own calls.
type task struct {
	*harness.Shim
	s       *stage
	id      string
	setup   *setup
	options proto.Message
	streams *streams
	member  bool // of a pod whose shim was started for another container
}

// Call is the runtime's start and delete.
func (s *stage) call() harness.Call { return harness.Call{Runtime: s.runtime} }

// Bundle makes one for a container with these options.
func (s *stage) bundle(opts ...opt) (*harness.Bundle, *setup) {
	s.Helper()
	set := &setup{id: newID()}
	for _, o := range opts {
		o(set)
	}
	spec, err := harness.Spec(set.id, set.spec...)
	s.must(err)
	b, err := s.peer.NewBundle(set.id, spec, s.root)
	s.must(err)
	s.Cleanup(func() {
		if s.Failed() {
			s.Logf("log of %s:\n%s", b.ID, b.Log.String())
		}
		if err := b.Remove(); err != nil {
			s.Error(err)
		}
	})
	return b, set
}

// Shim starts one, for a container that is still to be created.
func (s *stage) shim(opts ...opt) *task {
	s.Helper()
	return s.shimBy(s.call(), opts...)
}

func (s *stage) shimBy(call harness.Call, opts ...opt) *task {
	s.Helper()
	b, set := s.bundle(opts...)
	shim, err := s.peer.Start(s.ctx, call, b)
	s.must(err)
	t := &task{Shim: shim, s: s, id: b.ID, setup: set}
	s.afterTest(func(ctx context.Context) { t.end(ctx, call) })
	return t
}

// Member makes another container in the same shim, over a connection of its own.
func (t *task) newMember(opts ...opt) *task {
	t.s.Helper()
	b, set := t.s.bundle(opts...)
	shim, err := t.Again(t.s.ctx)
	t.s.must(err)
	shim.Bundle = b
	m := &task{Shim: shim, s: t.s, id: b.ID, setup: set, member: true}
	t.s.afterTest(func(ctx context.Context) { m.end(ctx, t.s.call()) })
	return m
}

// End takes down what the test has left of it, as containerd does for a client
// that doesn't.
func (t *task) end(ctx context.Context, call harness.Call) {
	_, _ = t.Kill(ctx, &taskv3.KillRequest{ID: t.id, Signal: uint32(unix.SIGKILL), All: true})
	if state, err := t.State(ctx, &taskv3.StateRequest{ID: t.id}); err == nil && state.Pid != 0 {
		_, _ = t.Wait(ctx, &taskv3.WaitRequest{ID: t.id})
	}
	_, _ = t.Delete(ctx, &taskv3.DeleteRequest{ID: t.id})
	if !t.member {
		_, _ = t.Shutdown(ctx, &taskv3.ShutdownRequest{ID: t.id})
	}
	if t.streams != nil {
		t.streams.close()
	}
	if !t.member {
		soon, cancel := context.WithTimeout(ctx, 5*time.Second)
		_ = t.Gone(soon)
		cancel()
		if _, _, err := t.s.peer.Delete(ctx, call, t.Bundle); err != nil {
			t.s.Error(err)
		}
		// A shim with containers that weren't deleted stays; the test is over.
		_ = t.Signal(unix.SIGKILL)
	}
	_ = t.Disconnect()
}

// Create with streams of its own.
func (t *task) create() error {
	t.s.Helper()
	t.streams = t.s.newStreams(t.id, t.setup.terminal)
	return t.createWith(t.streams.request())
}

func (t *task) createWith(r *taskv3.CreateTaskRequest) error {
	t.s.Helper()
	r.ID, r.Bundle, r.Rootfs, r.Terminal = t.id, t.Bundle.Dir, t.Bundle.Rootfs, t.setup.terminal
	if t.options != nil {
		var err error
		r.Options, err = anypb.New(t.options)
		t.s.must(err)
	}
	_, err := t.Create(t.s.ctx, r)
	return errgrpc.ToNative(err)
}

// Run makes a container and starts it.
func (s *stage) launch(opts ...opt) *task {
	s.Helper()
	t := s.shim(opts...)
	t.launch()
	return t
}

func (t *task) launch() {
	t.s.Helper()
	t.s.must(t.create())
	t.s.must(t.start(""))
}

func (t *task) start(execID string) error {
	_, err := t.Start(t.s.ctx, &taskv3.StartRequest{ID: t.id, ExecID: execID})
	return errgrpc.ToNative(err)
}

func (t *task) state(execID string) (*taskv3.StateResponse, error) {
	r, err := t.State(t.s.ctx, &taskv3.StateRequest{ID: t.id, ExecID: execID})
	return r, errgrpc.ToNative(err)
}

func (t *task) kill(execID string, signal unix.Signal) error {
	_, err := t.Kill(t.s.ctx, &taskv3.KillRequest{ID: t.id, ExecID: execID, Signal: uint32(signal)})
	return errgrpc.ToNative(err)
}

func (t *task) wait(execID string) (*taskv3.WaitResponse, error) {
	r, err := t.Wait(t.s.ctx, &taskv3.WaitRequest{ID: t.id, ExecID: execID})
	return r, errgrpc.ToNative(err)
}

func (t *task) delete(execID string) (*taskv3.DeleteResponse, error) {
	r, err := t.Delete(t.s.ctx, &taskv3.DeleteRequest{ID: t.id, ExecID: execID})
	return r, errgrpc.ToNative(err)
}

func (t *task) pause() error {
	_, err := t.Pause(t.s.ctx, &taskv3.PauseRequest{ID: t.id})
	return errgrpc.ToNative(err)
}

func (t *task) resume() error {
	_, err := t.Resume(t.s.ctx, &taskv3.ResumeRequest{ID: t.id})
	return errgrpc.ToNative(err)
}

func (t *task) pids() ([]uint32, error) {
	r, err := t.Pids(t.s.ctx, &taskv3.PidsRequest{ID: t.id})
	var pids []uint32
	for _, p := range r.GetProcesses() {
		pids = append(pids, p.Pid)
	}
	return pids, errgrpc.ToNative(err)
}

func (t *task) closeIO(execID string) error {
	_, err := t.CloseIO(t.s.ctx, &taskv3.CloseIORequest{ID: t.id, ExecID: execID, Stdin: true})
	return errgrpc.ToNative(err)
}

// Shutdown may end the connection before the answer is read.
func (t *task) shutdown() error {
	_, err := t.Shutdown(t.s.ctx, &taskv3.ShutdownRequest{ID: t.id})
	if errors.Is(err, ttrpc.ErrClosed) {
		return nil
	}
	return errgrpc.ToNative(err)
}

// Exec with streams of its own, or none.
func (t *task) exec(execID string, io *streams, words ...string) error {
	t.s.Helper()
	spec, err := json.Marshal(&specs.Process{Args: words, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true})
	t.s.must(err)
	r := &taskv3.ExecProcessRequest{ID: t.id, ExecID: execID, Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: spec}}
	if io != nil {
		c := io.request()
		r.Stdin, r.Stdout, r.Stderr, r.Terminal = c.Stdin, c.Stdout, c.Stderr, io.terminal
	}
	_, err = t.Exec(t.s.ctx, r)
	return errgrpc.ToNative(err)
}

// Finish waits, deletes and shuts down, as containerd's client and containerd
// do after a good life, and the shim must be gone.
func (t *task) finish() {
	t.s.Helper()
	_, err := t.wait("")
	t.s.must(err)
	_, err = t.delete("")
	t.s.must(err)
	t.s.must(t.shutdown())
	t.s.must(t.Gone(t.s.ctx))
}

// Streams are FIFOs with readers on them.
type streams struct {
	dir      string
	terminal bool
	out, err *stream
}

// Stream is what comes out of one FIFO; eof is closed at its end.
type stream struct {
	harness.Buffer
	path string
	eof  chan struct{}
}

func (s *stage) newStreams(id string, terminal bool) *streams {
	s.Helper()
	dir := filepath.Join(s.peer.Dir, "fifo-"+id)
	s.must(os.Mkdir(dir, 0o700))
	io := &streams{dir: dir, terminal: terminal}
	s.must(unix.Mkfifo(io.stdin(), 0o600))
	io.out = s.newStream(filepath.Join(dir, "out"))
	io.out.read()
	if !terminal {
		io.err = s.newStream(filepath.Join(dir, "err"))
		io.err.read()
	}
	return io
}

func (io *streams) stdin() string { return filepath.Join(io.dir, "in") }

func (io *streams) request() *taskv3.CreateTaskRequest {
	r := &taskv3.CreateTaskRequest{Stdin: io.stdin(), Stdout: io.out.path, Terminal: io.terminal}
	if io.err != nil {
		r.Stderr = io.err.path
	}
	return r
}

func (s *stage) newStream(path string) *stream {
	s.Helper()
	s.must(unix.Mkfifo(path, 0o600))
	return &stream{path: path}
}

// Read waits in the background for what comes, to the end of file.
func (s *stream) read() {
	s.eof = make(chan struct{})
	go func() {
		defer close(s.eof)
		f, err := os.Open(s.path) // until somebody writes
		if err != nil {
			return
		}
		defer f.Close()
		_, _ = io.Copy(&s.Buffer, f)
	}()
}

// Close ends the reader, also one that still waits for a writer.
func (io *streams) close() {
	for _, s := range []*stream{io.out, io.err} {
		if s != nil {
			if f, err := os.OpenFile(s.path, os.O_RDWR|unix.O_NONBLOCK, 0); err == nil {
				f.Close()
			}
		}
	}
	_ = os.RemoveAll(io.dir)
}

// OpenWriter opens the client's end of a process' stdin as containerd's client
// does: the first write waits until the shim has opened its own.
func (s *stage) openWriter(path string) io.WriteCloser {
	s.Helper()
	f, err := fifo.OpenFifo(s.ctx, path, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	s.must(err)
	return f
}

// AwaitEOF of a stream.
func (s *stage) awaitEOF(io *stream) {
	s.Helper()
	select {
	case <-io.eof:
	case <-s.ctx.Done():
		s.Fatalf("no end of file after %d bytes: %.200q", io.Len(), io.String())
	}
}
