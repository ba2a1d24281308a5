package integration

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"syscall"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Box is a container with its task, as seen through containerd's client.
type box struct {
	proc
	c    client.Container
	task client.Task
}

// Proc is a container's init or an exec in it.
type proc struct {
	client.Process
	e        *env
	stdin    *io.PipeWriter // nil unless asked for
	out, err *harness.Buffer
	exit     <-chan client.ExitStatus
	status   *client.ExitStatus // once wait has seen it
}

// Setup is what an opt can change of a container before it is made.
type setup struct {
	id        string
	image     client.Image
	spec      []oci.SpecOpts
	stdin     bool
	terminal  bool
	io        cio.Creator // instead of buffers
	container []client.NewContainerOpts
	task      []client.NewTaskOpts
	options   any  // of the runtime
	shared    bool // joins namespaces of others: a few invariants don't hold

	ownSnapshot bool // container has the option that makes it
}

type opt func(*setup)

func args(words ...string) opt {
	return withSpec(oci.WithProcessArgs(words...))
}

// Testbox runs an applet.
func testbox(words ...string) opt {
	return args(append([]string{"/bin/testbox"}, words...)...)
}

// Still is the program that does nothing.
func still() opt { return args("/bin/still") }

func withSpec(opts ...oci.SpecOpts) opt {
	return func(s *setup) { s.spec = append(s.spec, opts...) }
}

// Edit changes the spec by hand, after all that containerd's options did.
func edit(change func(s *specs.Spec)) opt {
	return withSpec(func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		change(s)
		return nil
	})
}

func withStdin(s *setup)    { s.stdin = true }
func withTerminal(s *setup) { s.terminal = true; s.spec = append(s.spec, oci.WithTTY) }

func withID(id string) opt      { return func(s *setup) { s.id = id } }
func withIO(io cio.Creator) opt { return func(s *setup) { s.io = io } }
func withTask(opts ...client.NewTaskOpts) opt {
	return func(s *setup) { s.task = append(s.task, opts...) }
}

// NewBox makes a container, without a task.
func (e *env) newBox(opts ...opt) (*box, *setup) {
	e.Helper()
	s := &setup{id: newID(), image: e.image}
	for _, o := range opts {
		o(s)
	}
	spec := append([]oci.SpecOpts{oci.WithImageConfig(s.image)}, s.spec...)
	all := []client.NewContainerOpts{client.WithImage(s.image)}
	if !s.ownSnapshot {
		all = append(all, client.WithNewSnapshot(s.id, s.image))
	}
	all = append(append(all, s.container...), // the spec's options may read the snapshot
		client.WithRuntime(e.runtime.Type, s.options),
		client.WithNewSpec(spec...))
	c, err := e.daemon.Client.NewContainer(e.ctx, s.id, all...)
	e.must(err)
	e.afterTest(func(ctx context.Context) {
		if err := c.Delete(ctx, client.WithSnapshotCleanup); err != nil && !errdefs.IsNotFound(err) {
			e.Errorf("delete container %s: %v", s.id, err)
		}
	})
	return &box{c: c, proc: proc{e: e}}, s
}

// TryCreate makes container and task.
func (e *env) tryCreate(opts ...opt) (*box, error) {
	e.Helper()
	b, s := e.newBox(opts...)
	creator := b.creator(s.io, s.stdin, s.terminal)
	task, err := b.c.NewTask(e.ctx, creator, s.task...)
	if err != nil {
		return b, err
	}
	b.task, b.Process = task, task
	e.afterTest(func(ctx context.Context) {
		if _, err := task.Delete(ctx, client.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			e.Errorf("delete task %s: %v", s.id, err)
		}
	})
	b.exit, err = task.Wait(e.ctx)
	e.must(err)
	if !s.shared {
		b.checkCreated()
	}
	return b, nil
}

// Creator connects the process to the buffers.
func (p *proc) creator(own cio.Creator, stdin, terminal bool) cio.Creator {
	if own != nil {
		return own
	}
	p.out, p.err = &harness.Buffer{}, &harness.Buffer{}
	var in io.Reader
	if stdin {
		in, p.stdin = io.Pipe()
	}
	opts := []cio.Opt{cio.WithStreams(in, p.out, p.err), cio.WithFIFODir(filepath.Join(p.e.daemon.Dir, "fifo"))}
	if terminal {
		opts = append(opts, cio.WithTerminal)
	}
	return cio.NewCreator(opts...)
}

func (e *env) create(opts ...opt) *box {
	e.Helper()
	b, err := e.tryCreate(opts...)
	e.must(err)
	return b
}

// Launch creates and starts.
func (e *env) launch(opts ...opt) *box {
	e.Helper()
	b := e.create(opts...)
	b.start()
	return b
}

func (b *box) start() {
	b.e.Helper()
	b.e.must(b.task.Start(b.e.ctx))
	b.checkStarted()
}

// Result is of a process that ran to its end.
type result struct {
	out, err string
	code     int
}

// Run does all of it: create, start, wait, delete.
func (e *env) run(opts ...opt) result {
	e.Helper()
	r, err := e.tryRun(opts...)
	e.must(err)
	return r
}

func (e *env) tryRun(opts ...opt) (result, error) {
	e.Helper()
	b, err := e.tryCreate(opts...)
	if err != nil {
		return result{}, err
	}
	if err := b.task.Start(e.ctx); err != nil {
		_, derr := b.task.Delete(e.ctx)
		return result{}, errors.Join(err, derr)
	}
	b.checkStarted()
	return b.end(), nil
}

// Wait for the exit code.
func (p *proc) wait() int {
	p.e.Helper()
	if p.status == nil {
		select {
		case status := <-p.exit:
			p.e.must(status.Error())
			p.status = &status
		case <-p.e.ctx.Done():
			p.e.Fatalf("wait for %s: %v", p.ID(), p.e.ctx.Err())
		}
	}
	return int(p.status.ExitCode())
}

// End waits for the exit and for the end of the output, deletes, and returns all
// that was written. (Containerd's client closes its readers in Delete, whatever is
// still in the FIFOs.)
func (p *proc) end() result {
	p.e.Helper()
	code := p.wait()
	p.awaitEOF()
	status, err := p.Delete(p.e.ctx)
	p.e.must(err)
	if int(status.ExitCode()) != code {
		p.e.Errorf("%s: Delete says exit code %d, Wait said %d", p.ID(), status.ExitCode(), code)
	}
	r := result{code: code}
	if p.out != nil {
		r.out, r.err = p.out.String(), p.err.String()
	}
	return r
}

func (p *proc) kill(s syscall.Signal) {
	p.e.Helper()
	p.e.must(p.Kill(p.e.ctx, s))
}

func (p *proc) awaitEOF() {
	p.e.Helper()
	done := make(chan struct{})
	go func() {
		p.IO().Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-p.e.ctx.Done():
		p.e.Fatalf("%s has ended, its output hasn't: %d and %d bytes so far", p.ID(), p.out.Len(), p.err.Len())
	}
}

// Remove kills and deletes the task, in the middle of a test.
func (b *box) remove() {
	b.e.Helper()
	_, err := b.task.Delete(b.e.ctx, client.WithProcessKill)
	b.e.must(err)
}

// Await waits until the process has written text to stdout.
func (p *proc) await(text string) {
	p.e.Helper()
	p.e.must(p.out.Await(p.e.ctx, text))
}

func (p *proc) write(text string) {
	p.e.Helper()
	_, err := io.WriteString(p.stdin, text)
	p.e.must(err)
}

// State of the process, from the shim.
func (p *proc) state() client.ProcessStatus {
	p.e.Helper()
	s, err := p.Status(p.e.ctx)
	p.e.must(err)
	return s.Status
}

// ExecSetup is what an execOpt can change.
type execSetup struct {
	id       string
	process  *specs.Process
	stdin    bool
	terminal bool
	io       cio.Creator
}

type execOpt func(*execSetup)

func execStdin(s *execSetup)    { s.stdin = true }
func execTerminal(s *execSetup) { s.terminal = true; s.process.Terminal = true }
func execEdit(change func(p *specs.Process)) execOpt {
	return func(s *execSetup) { change(s.process) }
}
func execIO(io cio.Creator) execOpt { return func(s *execSetup) { s.io = io } }

// TryExec prepares an exec with the container's process spec, as ctr does.
func (b *box) tryExec(words []string, opts ...execOpt) (*proc, error) {
	b.e.Helper()
	spec, err := b.c.Spec(b.e.ctx)
	b.e.must(err)
	s := &execSetup{id: newID(), process: spec.Process}
	s.process.Args, s.process.Terminal = words, false
	for _, o := range opts {
		o(s)
	}
	p := &proc{e: b.e}
	if p.Process, err = b.task.Exec(b.e.ctx, s.id, s.process, p.creator(s.io, s.stdin, s.terminal)); err != nil {
		return nil, err
	}
	p.exit, err = p.Wait(b.e.ctx)
	return p, err
}

func (b *box) exec(words []string, opts ...execOpt) *proc {
	b.e.Helper()
	p, err := b.tryExec(words, opts...)
	b.e.must(err)
	b.e.must(p.Start(b.e.ctx))
	return p
}

// ExecRun runs an exec of testbox to its end.
func (b *box) execRun(words []string, opts ...execOpt) result {
	b.e.Helper()
	return b.exec(append([]string{"/bin/testbox"}, words...), opts...).end()
}
