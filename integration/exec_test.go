package integration

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestExec(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		r := b.execRun([]string{"all", "echo", "out", "--", "warn", "err", "--", "exit", "5"})
		if r != (result{"out\n", "err\n", 5}) {
			e.Errorf("%+v", r)
		}
		if s := b.state(); s != client.Running {
			e.Errorf("the container is %s", s)
		}
	})
}

func TestExecExitCodes(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		for _, code := range []int{0, 1, 2, 42, 127, 255} {
			if r := b.execRun([]string{"exit", strconv.Itoa(code)}); r.code != code {
				e.Errorf("exit %d: got %d", code, r.code)
			}
		}
	})
}

func TestExecProcess(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		umask := uint32(0o027)
		r := b.execRun([]string{"all", "pwd", "--", "id", "--", "env"}, execEdit(func(p *specs.Process) {
			p.Cwd = "/data"
			p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{2000, 2001}, Umask: &umask}
			p.Env = []string{"PATH=/bin", "ONE=1", "EMPTY=", "ONE=2"}
		}))
		for _, want := range []string{"/data\n", "\"Groups\": [\n  2000,\n  2001\n ]", "\nONE=2\n", "\nEMPTY=\n", "\nHOME=/home/user"} {
			if !strings.Contains(r.out, want) {
				e.Errorf("no %q in %q", want, r.out)
			}
		}
		if strings.Contains(r.out, "FLAVOUR") || strings.Contains(r.out, "ONE=1") {
			e.Errorf("variables of the container or overridden ones in %q", r.out)
		}
	})
}

// What the kernel or the host's bounding set lacks is left out, not an error.
func TestMissingCapability(t *testing.T) {
	each(t, func(e *env) {
		e.weakness("runc applies all or nothing: it cannot create the container")
		missing := ""
		for i, name := range capNames {
			if hostBounding()&(1<<i) == 0 {
				missing = "CAP_" + name
			}
		}
		if missing == "" {
			e.Skip("this machine has all capabilities")
		}
		b := e.launch(still(), withSpec(oci.WithAddedCapabilities([]string{missing}))) // which compares with the spec
		p := b.exec([]string{"/bin/still"})
		if p.payload(&specs.Process{}) == nil {
			e.Error("the exec has ended")
		}
	})
}

// The exec's process is as confined as its spec says, seen from outside.
func TestExecInvariants(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		spec, err := b.c.Spec(e.ctx)
		e.must(err)
		for name, change := range map[string]func(p *specs.Process){
			"root":    func(*specs.Process) {},
			"user":    func(p *specs.Process) { p.User = specs.User{UID: 1000, GID: 1000} },
			"no caps": func(p *specs.Process) { p.Capabilities = &specs.LinuxCapabilities{} },
			"ambient": func(p *specs.Process) {
				p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5, 7}}
				some := []string{"CAP_NET_RAW", "CAP_KILL"}
				p.Capabilities = &specs.LinuxCapabilities{Bounding: some, Permitted: some, Effective: some, Inheritable: some, Ambient: some}
			},
			"new privileges": func(p *specs.Process) { p.NoNewPrivileges = false },
		} {
			p := b.exec([]string{"/bin/still"}, execEdit(change))
			change(spec.Process)
			if dir := p.payload(spec.Process); dir == nil {
				e.Errorf("%s: it has ended", name)
			} else {
				e.checkProcess(dir, spec)
			}
			p.kill(unix.SIGKILL)
			p.end()
			spec, err = b.c.Spec(e.ctx)
			e.must(err)
		}
	})
}

func TestExecStdin(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		p := b.exec([]string{"/bin/testbox", "cat"}, execStdin)
		p.write("first\n")
		p.await("first\n")
		p.write("second\n")
		e.must(p.stdin.Close())
		e.must(p.CloseIO(e.ctx, client.WithStdinCloser))
		if r := p.end(); r.out != "first\nsecond\n" || r.code != 0 {
			e.Errorf("%+v", r)
		}
	})
}

// What can't be executed is an error of Start, and is gone quickly.
func TestExecNotExecutable(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		for _, c := range notExecutable {
			if c.late && e.oracle() {
				continue
			}
			p, err := b.tryExec([]string{c.path})
			e.must(err)
			err = p.Start(e.ctx)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				e.Errorf("%s: %v, want %q", c.path, err, c.want)
			}
			if _, err := p.Delete(e.ctx); err != nil {
				e.Errorf("%s: delete: %v", c.path, err)
			}
			if p.out.Len() != 0 {
				e.Errorf("%s: output %q", c.path, p.out)
			}
		}
		if r := b.execRun([]string{"echo", "still there"}); r.out != "still there\n" {
			e.Errorf("after the failures: %+v", r)
		}
	})
}

// Late ones are only found by execve itself, whose error runc cannot report: the
// process starts and exits with 255.
var notExecutable = []struct {
	path, want string
	late       bool
}{
	{path: "missing", want: "executable file not found in $PATH"},
	{path: "/bin/missing", want: "no such file or directory"},
	{path: "./missing", want: "no such file or directory"},
	{path: "/etc/not-executable", want: "permission denied"},
	{path: "/data", want: "is a directory"},
	{path: "/bin/no-interpreter", want: "no such file or directory", late: true},
	{path: "/bin/garbage", want: "exec format error", late: true},
}

func TestExecDuplicateID(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		same := func(s *execSetup) { s.id = "twice" }
		p := b.exec([]string{"/bin/still"}, same)
		if _, err := b.tryExec([]string{"/bin/still"}, same); !errdefs.IsAlreadyExists(err) {
			e.Errorf("a second exec of the same id: %v", err)
		}
		p.kill(unix.SIGKILL)
		p.wait()
		if _, err := b.tryExec([]string{"/bin/still"}, same); !errdefs.IsAlreadyExists(err) {
			e.Errorf("a second exec of a finished one's id: %v", err)
		}
		p.end()
		if r := b.execRun([]string{"echo", "again"}, same); r.out != "again\n" {
			e.Errorf("after its delete: %+v", r)
		}
	})
}

// Execs that run when init ends, end with it, and before it as others see it.
func TestExecsEndWithInit(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		var execs []*proc
		for range 5 {
			execs = append(execs, b.exec([]string{"/bin/still"}))
		}
		b.kill(unix.SIGKILL)
		b.wait()
		for _, p := range execs {
			select {
			case s := <-p.exit:
				if s.ExitCode() != 137 {
					e.Errorf("exec: exit code %d", s.ExitCode())
				}
			case <-e.ctx.Done():
				e.Fatal("an exec never ends")
			}
		}
		p, err := b.tryExec([]string{"/bin/still"})
		if err == nil {
			err = p.Start(e.ctx)
		}
		e.wrongState("exec in a stopped container", err)
	})
}

func TestExecDeletedWithoutStart(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		p, err := b.tryExec([]string{"/bin/still"}, execIO(cio.NullIO))
		e.must(err)
		if s := p.state(); s != client.Created {
			e.Errorf("status %s", s)
		}
		if _, err := p.Delete(e.ctx); err != nil {
			e.Error(err)
		}
	})
}

func TestExecNullIO(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still(), withIO(cio.NullIO))
		words := []string{"/bin/testbox", "all", "cat", "--", "echo", "nobody listens"}
		if e.oracle() {
			words = words[:3] // its /dev/null is open for reading only: echo gets EBADF
		}
		p := b.exec(words, execIO(cio.NullIO))
		if r := p.end(); r.code != 0 {
			e.Errorf("exit code %d", r.code)
		}
	})
}

func TestExecsAtOnce(t *testing.T) {
	each(t, func(e *env) {
		b := e.launch(still())
		var wg sync.WaitGroup
		for i := range count(20, 200) {
			wg.Go(func() {
				word := fmt.Sprint("exec-", i)
				p, err := b.tryExec([]string{"/bin/testbox", "all", "echo", word, "--", "exit", strconv.Itoa(i % 256)})
				if err == nil {
					err = p.Start(e.ctx)
				}
				if err != nil {
					e.Error(err)
					return
				}
				status := <-p.exit
				p.IO().Wait()
				if _, err := p.Delete(e.ctx); err != nil {
					e.Error(err)
				}
				if p.out.String() != word+"\n" || int(status.ExitCode()) != i%256 {
					e.Errorf("%s: %q, exit code %d", word, p.out, status.ExitCode())
				}
			})
		}
		wg.Wait()
	})
}
