package kernel

import (
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv("TRACEME") != "" {
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0); errno != 0 {
			os.Exit(1)
		}
		_ = unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// A child that has made us its tracer, and stops, has not ended.
func TestWaitForTraced(t *testing.T) {
	runtime.LockOSThread() // the tracer is this thread
	defer runtime.UnlockOSThread()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child, err := os.StartProcess(self, []string{self}, &os.ProcAttr{Env: []string{"TRACEME=1"}})
	if err != nil {
		t.Fatal(err)
	}
	for stat(child.Pid)[0] != "t" {
		time.Sleep(time.Millisecond)
	}
	p, err := OpenChild(child.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	type end struct {
		status unix.WaitStatus
		err    error
	}
	ended := make(chan end, 1)
	go func() {
		status, err := p.Wait()
		ended <- end{status, err}
	}()
	select {
	case e := <-ended:
		t.Fatalf("status %#x (%v) of a process that is in state %s", e.status, e.err, stat(child.Pid)[0])
	case <-time.After(50 * time.Millisecond):
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := <-ended; e.err != nil || e.status.Signal() != unix.SIGKILL {
		t.Errorf("status %#x (%v)", e.status, e.err)
	}
}
