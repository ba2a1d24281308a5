package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
	"github.com/myshim/myshim/process/stdio"
)

// Process is a process of a container: its init, or one of an exec.
type Process struct {
	ID        string // of the exec, "" for the init
	Container *Container
	Stdio     stdio.Request // as it was asked for

	spec   *specs.Process
	exited chan struct{} // closed when the process has ended
	ending sync.Once

	mu       sync.Mutex
	streams  *stdio.Streams  // guarded by mu; nil before the start of an exec
	status   Status          // guarded by mu; Created, Running, Stopped or Deleted
	busy     chan struct{}   // guarded by mu; closed when the start in progress is over
	quiet    bool            // guarded by mu; the start failed: its end is no event
	pid      int             // guarded by mu; 0 before the start of an exec
	kernel   *kernel.Process // guarded by mu; nil when pid is 0, or the process has ended
	exit     ExitStatus      // guarded by mu; once Stopped
	size     *terminalSize   // guarded by mu; of the terminal, asked for before the start
	noStdin  bool            // guarded by mu; its end was asked for before the start
	deletion *deletion       // guarded by mu; the one in progress, or done
}

type terminalSize struct{ width, height uint16 }

// deletion is one that is done once, and waited for by all who ask for it.
type deletion struct {
	done chan struct{} // closed when it is over
	err  error
}

// State is what is true of a process.
type State struct {
	PID    int // stays when the process has ended
	Status Status
	Exit   ExitStatus
}

// State never waits.
func (p *Process) State() State {
	paused := p.Container.pauseStatus()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := State{PID: p.pid, Status: p.status, Exit: p.exit}
	if s.Status == Running && paused != Running {
		s.Status = paused
	}
	return s
}

// Wait waits until the process has ended, or the container is deleted, and tells
// how it ended. When it returns, State knows it too.
func (p *Process) Wait(ctx context.Context) (ExitStatus, error) {
	select {
	case <-p.exited:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.exit, nil
	case <-ctx.Done():
		return ExitStatus{}, ctx.Err()
	}
}

// Signal sends a signal to the process. One that has ended is ErrNotFound.
func (p *Process) Signal(sig unix.Signal) error {
	p.mu.Lock()
	k, pid := p.kernel, p.pid
	p.mu.Unlock()
	if k == nil && pid == 0 {
		return &stateError{"cannot kill a process that is not started"}
	}
	if k == nil {
		return fmt.Errorf("process already finished: %w", ErrNotFound)
	}
	err := k.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("process already finished: %w", ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("send %v to process %d: %w", sig, k.PID, err)
	}
	return nil
}

// Resize sets the size of the process's terminal, in characters. Without a
// terminal, or after the end, it does nothing.
func (p *Process) Resize(width, height uint16) error {
	p.mu.Lock()
	streams := p.streams
	if streams == nil {
		p.size = &terminalSize{width, height}
	}
	p.mu.Unlock()
	if streams == nil {
		return nil
	}
	return streams.Resize(width, height)
}

// CloseStdin lets the process see the end of its standard input, when it is
// started if it is not yet: a client whose input is empty asks for it early.
func (p *Process) CloseStdin() error {
	p.mu.Lock()
	streams := p.streams
	if streams == nil {
		p.noStdin = true
	}
	p.mu.Unlock()
	if streams == nil {
		return nil
	}
	return streams.CloseStdin()
}

// attach gives the process its streams, and does what was asked for when it had
// none.
func (p *Process) attach(streams *stdio.Streams) error {
	p.mu.Lock()
	p.streams = streams
	size, noStdin := p.size, p.noStdin
	p.mu.Unlock()
	if noStdin {
		if err := streams.CloseStdin(); err != nil {
			return err
		}
	}
	if size == nil && p.spec.ConsoleSize != nil {
		size = &terminalSize{uint16(p.spec.ConsoleSize.Width), uint16(p.spec.ConsoleSize.Height)}
	}
	if size == nil {
		return nil
	}
	return streams.Resize(size.width, size.height)
}

// stdio is nil before the start of an exec.
func (p *Process) stdio() *stdio.Streams {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.streams
}

// process is nil before the start of an exec, and when the process has ended.
func (p *Process) process() *kernel.Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kernel
}

// run says that the process exists.
func (p *Process) run(k *kernel.Process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kernel, p.pid = k, k.PID
}

// begin reserves the start of the process.
func (p *Process) begin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy != nil || p.deletion != nil {
		return &stateError{"the process is being started or deleted already"}
	}
	if err := p.status.allows(Start, "process"); err != nil {
		return err
	}
	p.busy = make(chan struct{})
	return nil
}

// started says that the process runs, and announces it before anybody can see
// that it has ended, even if it has by now.
func (p *Process) started(announce func()) {
	p.mu.Lock()
	p.status = next[p.status][Start]
	busy := p.busy
	p.busy = nil
	p.mu.Unlock()
	announce()
	close(busy)
}

// failed says that the process could not be started. It is over, like one that
// has ended, but without the event of an exit.
func (p *Process) failed(err error) {
	code := 255
	switch { // as a shell has it
	case errors.Is(err, unix.ENOENT):
		code = 127
	case errors.Is(err, unix.EACCES):
		code = 126
	}
	p.mu.Lock()
	p.quiet = true
	p.exit = ExitStatus{Code: code, At: time.Now()}
	busy, k := p.busy, p.kernel
	p.busy = nil
	p.mu.Unlock()
	if k == nil { // nothing to wait for
		p.stop(p.exit, func() {})
	}
	close(busy)
}

// starting says whether a start is in progress.
func (p *Process) starting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.busy != nil
}

// settled waits until no start is in progress.
func (p *Process) settled() {
	p.mu.Lock()
	busy := p.busy
	p.mu.Unlock()
	if busy != nil {
		<-busy
	}
}

// watch waits for the end of the process, in a goroutine of its own, and tells
// the container of it.
func (p *Process) watch(k *kernel.Process) {
	status, err := k.Wait()
	at := time.Now()
	if err != nil {
		log.L.WithError(err).Warnf("the exit of %s is not known", p)
		status = unix.WaitStatus(unix.SIGKILL)
	}
	if p == p.Container.Init {
		p.Container.die()
	}
	exit := ExitStatus{Code: status.ExitStatus(), At: at}
	if status.Signaled() {
		exit.Code = 128 + int(status.Signal())
	}
	p.settled()
	p.mu.Lock()
	quiet := p.quiet
	if quiet {
		exit = p.exit
	}
	p.kernel = nil
	p.mu.Unlock()
	if err := k.Close(); err != nil {
		log.L.WithError(err).Warn("close a pidfd")
	}
	p.stdio().Exited() // clients wait for the end of the output before they delete
	p.Container.ended(p, exit, quiet)
}

// stop makes the process one that has ended. It is announced when State knows
// it, and before Wait returns.
func (p *Process) stop(exit ExitStatus, announce func()) {
	p.ending.Do(func() {
		p.mu.Lock()
		p.status, p.exit = next[p.status][Exit], exit
		p.mu.Unlock()
		announce()
		close(p.exited)
	})
}

// remove deletes the process, by what do does: once, whoever asks for it
// meanwhile or later. If do fails it can be tried again.
func (p *Process) remove(ctx context.Context, do func(context.Context) error) error {
	p.mu.Lock()
	d := p.deletion
	if d == nil {
		err := p.status.allows(Delete, "process")
		if p.busy != nil {
			err = &stateError{"cannot delete a process that is being started"}
		}
		if err != nil {
			p.mu.Unlock()
			return err
		}
		d = &deletion{done: make(chan struct{})}
		p.deletion = d
		// Who asked may give up; what is begun is finished.
		go func() {
			d.err = do(context.WithoutCancel(ctx))
			p.mu.Lock()
			if d.err != nil {
				p.deletion = nil
			} else {
				p.status = next[p.status][Delete]
			}
			p.mu.Unlock()
			close(d.done)
		}()
	}
	p.mu.Unlock()
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drainTime is how long a process's output may take to be delivered before the
// process is deleted; background processes may hold the streams for ever.
const drainTime = 10 * time.Second

// closeStreams delivers the output of a process that has ended, and closes its
// streams.
func (p *Process) closeStreams(ctx context.Context) {
	streams := p.stdio()
	if streams == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	if err := streams.Drain(ctx); err != nil {
		log.L.WithError(err).Warnf("not all output of %s is delivered", p)
	}
	if err := streams.Close(); err != nil {
		log.L.WithError(err).Warnf("close the streams of %s", p)
	}
}

// String names the process for log lines.
func (p *Process) String() string {
	if p.ID == "" {
		return p.Container.ID
	}
	return p.Container.ID + "/" + p.ID
}
