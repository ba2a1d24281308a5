package launch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/process/kernel"
	"github.com/myshim/myshim/process/script"
)

func TestMain(m *testing.M) {
	before, _ := os.ReadDir("/proc/self/fd")
	code := m.Run()
	after, _ := os.ReadDir("/proc/self/fd")
	children, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range children {
		if text, _ := os.ReadFile(list); len(text) > 0 {
			fmt.Println("children left behind:", string(text))
			code = 1
		}
	}
	// The program of the init and Go's poller stay.
	if len(after) > len(before)+4 {
		fmt.Println("descriptors left behind:", len(after)-len(before))
		code = 1
	}
	os.Exit(code)
}

// run starts a script with nothing but /dev/null.
func run(t testing.TB, s *script.Script) *Init {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	in, err := Start(s, [3]int{fd, fd, fd}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestProgramIsSealed(t *testing.T) {
	f, err := program()
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	content, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(content, Program()) || len(content) > 1024 {
		t.Errorf("the program has %d bytes (%v)", len(content), err)
	}
	if w, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
		if _, err := w.Write([]byte{0}); !errors.Is(err, unix.EPERM) {
			t.Errorf("it can be written: %v", err)
		}
		w.Close()
	}
}

// The file that takes the memfd's place where memory may not be executed.
func TestUnlinkedFile(t *testing.T) {
	f, err := unlinkedFile(Program())
	if err != nil {
		t.Skip("no directory to keep the program in:", err)
	}
	defer f.Close()
	if _, err := f.Write([]byte{0}); err == nil {
		t.Error("it can be written")
	}
	pid, err := syscall.ForkExec(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()), []string{"init"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 127 {
		t.Errorf("without a script it exits with %d, want 127 (%v)", status.ExitStatus(), err)
	}
}

func TestFailure(t *testing.T) {
	s := script.New()
	cell := s.Cell("cell")
	s.Set(cell, script.Int(42))
	s.Add(script.Chdir, s.CString("/nowhere")).For("process.cwd").Because("a test")
	s.End()
	in := run(t, s)
	report, err := in.Next(t.Context())
	step, ok := errors.AsType[*StepError](err)
	if !ok || !errors.Is(err, unix.ENOENT) || step.Index != 1 {
		t.Fatalf("error %v", err)
	}
	if want := `process.cwd: step 1: chdir("/nowhere")  # a test: no such file or directory`; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	if cell.Value(report) != 42 {
		t.Errorf("the cell has %d", cell.Value(report))
	}
	if sid, err := unix.Getsid(in.Process().PID); err != nil || sid != in.Process().PID {
		t.Errorf("it is in session %d (%v), and could signal who is in there", sid, err)
	}
	// It waits to be looked at.
	if err := unix.Kill(in.Process().PID, 0); err != nil {
		t.Error(err)
	}
	if err := in.Kill(); err != nil {
		t.Error(err)
	}
}

func TestCloneAndExecute(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cloning with CLONE_PARENT into a pid namespace needs root")
	}
	args := binary.LittleEndian.AppendUint64(nil, unix.CLONE_PARENT|unix.CLONE_NEWPID)
	s := script.New()
	pid, child := s.Cell("pid"), s.Label("child")
	s.Add(script.Clone3, s.Bytes(append(args, make([]byte, 80)...), "{}"), script.Int(88)).Into(pid)
	s.Jump(pid.Arg(), script.Int(0), child)
	s.Add(script.Exit, script.Int(0))
	s.Place(child)
	s.Report()
	s.Wait()
	s.Add(script.CloseRange, script.Int(script.ControlFD), script.Int(^uint32(0)), script.Int(uint32(unix.CLOSE_RANGE_CLOEXEC)))
	s.Add(script.Execve, s.CString("/bin/sh"), s.Strings([]string{"sh", "-c", "exit $A"}, ""), s.Strings([]string{"A=7"}, ""))
	s.End()

	in := run(t, s)
	first := in.Process().PID
	_, err := in.Next(t.Context())
	if errors.Is(err, unix.ENOSYS) {
		_ = in.Kill()
		t.Skip("no clone3: this is not Linux, but an emulation of it")
	}
	if err != nil {
		t.Fatal(err)
	}
	if in.Process().PID == first {
		t.Error("the clone is not followed")
	}
	if err := unix.Kill(first, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the process before is not reaped: %v", err)
	}
	p := in.Take()
	defer p.Close()
	if err := in.Go([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("after execve: %v, want EOF", err)
	}
	status, err := p.Wait()
	if err != nil || status.ExitStatus() != 7 {
		t.Errorf("exit status %d (%v)", status.ExitStatus(), err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
}

// A clone that is dead before its report is read is no orphan: its exit is there,
// however long that takes.
func TestCloneDiesUnread(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go kernel.ReapOrphans(ctx, time.Millisecond)
	s := script.New()
	pid, child := s.Cell("pid"), s.Label("child")
	zero := script.Int(0)
	s.Add(script.Clone, script.Int(unix.CLONE_PARENT), zero, zero, zero, zero).Into(pid)
	s.Jump(pid.Arg(), zero, child)
	s.Add(script.Exit, zero)
	s.Place(child)
	s.Report()
	s.Add(script.Exit, script.Int(7))
	s.End()
	in := run(t, s)
	time.Sleep(100 * time.Millisecond) // in which the reaper could look many times
	switch _, err := in.Next(t.Context()); {
	case errors.Is(err, unix.EINVAL):
		_ = in.Kill()
		t.Skip("no CLONE_PARENT: this is not Linux, but an emulation of it")
	case err != nil:
		t.Fatal(errors.Join(err, in.Kill()))
	}
	p := in.Take()
	defer p.Close()
	if status, err := p.Wait(); err != nil || status.ExitStatus() != 7 {
		t.Errorf("exit status %d (%v)", status.ExitStatus(), err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
}

// A report of somebody who only got hold of the socket is none: here of a child
// of the process, and not of ours.
func TestReportOfAnother(t *testing.T) {
	s := script.New()
	pid, child := s.Cell("pid"), s.Label("child")
	zero := script.Int(0)
	s.Add(script.Clone, script.Int(int(unix.SIGCHLD)), zero, zero, zero, zero).Into(pid)
	s.Jump(pid.Arg(), zero, child)
	s.Wait()
	s.Place(child)
	s.Report()
	s.End()
	in := run(t, s)
	first := in.Process().PID
	if _, err := in.Next(t.Context()); err == nil || !strings.Contains(err.Error(), "is no part of it") {
		t.Errorf("error %v", err)
	}
	if in.Process().PID != first {
		t.Error("it is taken for a clone")
	}
	if err := in.Kill(); err != nil {
		t.Error(err)
	}
}

// An init whose shim is gone ends by itself.
func TestShimGone(t *testing.T) {
	s := script.New()
	s.Report()
	s.Wait()
	s.End()
	in := run(t, s)
	if _, err := in.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := in.Take()
	defer p.Close()
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(); err != nil || status.ExitStatus() != 1 {
		t.Errorf("exit status %d (%v)", status.ExitStatus(), err)
	}
}

func TestReceive(t *testing.T) {
	s := script.New()
	buffer := s.Bytes(make([]byte, 64), "buffer")
	first, second := s.Receive(buffer, 64)
	n := s.Cell("written")
	s.Add(script.Write, first, buffer, script.Int(5)).Into(n)
	s.Add(script.Write, second, s.CString("two"), script.Int(3))
	s.Report()
	s.Wait()
	s.End()
	in := run(t, s)
	var files [2][2]*os.File
	for i := range files {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		files[i] = [2]*os.File{r, w}
	}
	if err := in.Go([]byte("hello\x00"), int(files[0][1].Fd()), int(files[1][1].Fd())); err != nil {
		t.Fatal(err)
	}
	report, err := in.Next(t.Context())
	if err != nil || n.Value(report) != 5 {
		t.Fatalf("%d bytes written (%v)", n.Value(report), err)
	}
	if err := in.Kill(); err != nil {
		t.Error(err)
	}
	for i, want := range []string{"hello", "two"} {
		files[i][1].Close()
		if got, _ := io.ReadAll(files[i][0]); string(got) != want {
			t.Errorf("pipe %d has %q, want %q", i, got, want)
		}
	}
}

func TestInterrupt(t *testing.T) {
	s := script.New()
	s.Wait()
	s.End()
	in := run(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := in.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Next: %v", err)
	}
	if err := in.Kill(); err != nil {
		t.Error(err)
	}
}

func TestLongScript(t *testing.T) {
	s := script.New()
	big := strings.Repeat("x", 8<<20)
	n := s.Cell("n")
	s.Add(script.Write, script.Int(1), s.CString(big), script.Int(len(big))).Into(n)
	s.Report()
	s.Wait()
	s.End()
	in := run(t, s)
	report, err := in.Next(t.Context())
	if err != nil || n.Value(report) != uint64(len(big)) {
		t.Errorf("%d of %d bytes (%v)", n.Value(report), len(big), err)
	}
	if err := in.Kill(); err != nil {
		t.Error(err)
	}
}

// model is what the init does, in Go, for a few system calls whose results it
// can tell.
type model struct {
	cells     []uint64
	umask     uint64
	keepCaps  uint64
	failed    int // index of the step that failed, -1
	failedErr unix.Errno
}

// modelStep is a step of a random script, in a form that both understand.
type modelStep struct {
	op    string // umask, keepcaps, getkeepcaps, badcall, close, set, jump
	arg   modelArg
	other modelArg // of jump
	to    int      // of jump
	into  int      // cell, 0 for none
	allow unix.Errno
}

type modelArg struct {
	cell  int // 0 for a literal
	value uint64
}

func (m *model) load(a modelArg) uint64 {
	if a.cell != 0 {
		return m.cells[a.cell]
	}
	return a.value
}

func (m *model) run(steps []modelStep) {
	m.failed = -1
	for i := 0; i < len(steps); {
		s := steps[i]
		i++
		var result uint64
		var errno unix.Errno
		a := m.load(s.arg)
		switch s.op {
		case "jump":
			if a == m.load(s.other) {
				i = s.to
			}
			continue
		case "set":
			result = a
		case "umask":
			result, m.umask = m.umask, a&0o777
		case "keepcaps":
			if a > 1 {
				errno = unix.EINVAL
			} else {
				m.keepCaps = a
			}
		case "getkeepcaps":
			result = m.keepCaps
		case "badcall":
			errno = unix.EFAULT
		case "close":
			errno = unix.EBADF
		}
		if errno != 0 {
			if s.allow != script.AnyError && s.allow != errno {
				m.failed, m.failedErr = i-1, errno
				return
			}
			result = -uint64(errno)
		}
		if s.into != 0 {
			m.cells[s.into] = result
		}
	}
}

// randomSteps makes a script in which every jump goes forward, so that it ends.
func randomSteps(r *rand.Rand, cells int) []modelStep {
	steps := make([]modelStep, 1+r.IntN(60))
	arg := func() modelArg {
		if r.IntN(2) == 0 {
			return modelArg{cell: 1 + r.IntN(cells)}
		}
		return modelArg{value: []uint64{0, 1, 2, 0o22, 0o777, 1 << 40, ^uint64(0)}[r.IntN(7)]}
	}
	for i := range steps {
		s := modelStep{
			op:  []string{"umask", "keepcaps", "getkeepcaps", "badcall", "close", "set", "set", "jump"}[r.IntN(8)],
			arg: arg(), other: arg(), to: i + 1 + r.IntN(len(steps)-i), into: r.IntN(cells + 1),
			allow: []unix.Errno{0, unix.EINVAL, unix.EBADF, script.AnyError, script.AnyError, script.AnyError}[r.IntN(6)],
		}
		if s.op == "close" {
			s.arg = modelArg{value: 1000 + r.Uint64N(1000)}
		}
		steps[i] = s
	}
	return steps
}

// encode is the random script for the init, with a report at its end.
func encode(steps []modelStep, cells int) (*script.Script, []script.Cell) {
	s := script.New()
	all := make([]script.Cell, cells+1)
	for i := 1; i <= cells; i++ {
		all[i] = s.Cell(fmt.Sprint("c", i))
	}
	labels := make([]*script.Label, len(steps)+1)
	for i := range labels {
		labels[i] = s.Label(fmt.Sprint("l", i))
	}
	arg := func(a modelArg) script.Arg {
		if a.cell != 0 {
			return all[a.cell].Arg()
		}
		return script.Int(a.value)
	}
	zero := script.Int(0)
	for i, step := range steps {
		s.Place(labels[i])
		var added *script.Step
		switch step.op {
		case "jump":
			s.Jump(arg(step.arg), arg(step.other), labels[step.to])
			continue
		case "set":
			added = s.Set(all[step.into], arg(step.arg))
		case "umask":
			added = s.Add(script.Umask, arg(step.arg))
		case "keepcaps":
			added = s.Add(script.Prctl, script.Int(unix.PR_SET_KEEPCAPS), arg(step.arg), zero, zero, zero)
		case "getkeepcaps":
			added = s.Add(script.Prctl, script.Int(unix.PR_GET_KEEPCAPS), zero, zero, zero, zero)
		case "badcall":
			added = s.Add(script.Chdir, script.Null)
		case "close":
			added = s.Add(script.Close, arg(step.arg))
		}
		if step.into != 0 {
			added.Into(all[step.into])
		}
		added.Allow(step.allow)
	}
	s.Place(labels[len(steps)])
	s.Report()
	s.Wait()
	s.End()
	return s, all
}

// TestModel runs random scripts in the init and in the model of it.
func TestModel(t *testing.T) {
	const scripts, cells = 300, 8
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	umask := unix.Umask(0)
	unix.Umask(umask)
	for n := range scripts {
		steps := randomSteps(r, cells)
		m := &model{cells: make([]uint64, cells+1), umask: uint64(umask)}
		m.run(steps)
		s, all := encode(steps, cells)
		in := run(t, s)
		report, err := in.Next(t.Context())
		step, failed := errors.AsType[*StepError](err)
		switch {
		case err != nil && !failed:
			t.Fatal(err)
		case failed != (m.failed >= 0):
			t.Fatalf("script %d: error %v, the model says step %d", n, err, m.failed)
		case failed && (step.Index != m.failed || step.Err != m.failedErr):
			t.Fatalf("script %d: error %v, the model says step %d: %v", n, err, m.failed, m.failedErr)
		}
		for i := 1; i <= cells; i++ {
			if got := all[i].Value(report); got != m.cells[i] {
				t.Fatalf("script %d: cell %d is %#x, the model says %#x\n%v", n, i, got, m.cells[i], s.Steps())
			}
		}
		if err := in.Kill(); err != nil {
			t.Fatal(err)
		}
	}
}
