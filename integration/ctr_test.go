package integration

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/console"
	"github.com/myshim/myshim/integration/harness"
	"golang.org/x/sys/unix"
)

// Ctr runs containerd's command line client, as a user would.
func (e *env) ctr(words ...string) result {
	e.Helper()
	cmd := e.daemon.Ctr(e.ctx, words...)
	var out, warn bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &warn
	err := harness.Run(cmd)
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		e.Fatal(err)
	}
	return result{out.String(), deprecation.ReplaceAllString(warn.String(), ""), cmd.ProcessState.ExitCode()}
}

// Deprecation is containerd's opinion on this machine's cgroups.
var deprecation = regexp.MustCompile("(?m)^.*DEPRECATION.*\n")

func (e *env) wantCtr(want result, words ...string) {
	e.Helper()
	if got := e.ctr(words...); got != want {
		e.Errorf("ctr %s:\n%+v, want\n%+v", strings.Join(words, " "), got, want)
	}
}

// CtrRun is "ctr run" with the runtime under test.
func (e *env) ctrRun(words ...string) []string {
	return append([]string{"run", "--runtime", e.runtime.Type}, words...)
}

func TestCtrRun(t *testing.T) {
	each(t, func(e *env) {
		e.wantCtr(result{"hello\n", "", 0}, e.ctrRun("--rm", baseImage, newID())...)
		e.wantCtr(result{"out\n", "err\n", 3}, e.ctrRun("--rm", baseImage, newID(), "/bin/testbox", "all", "echo", "out", "--", "warn", "err", "--", "exit", "3")...)
		for name, c := range map[string]struct {
			flags []string
			words []string
			want  string
		}{
			"environment": {[]string{"--env", "A=b"}, []string{"env"}, "A=b\n"},
			"directory":   {[]string{"--cwd", "/data"}, []string{"pwd"}, "/data\n"},
			"user":        {[]string{"--user", "1000:2000"}, []string{"id"}, "\"GID\": [\n  2000,"},
			"hostname":    {[]string{"--hostname", "named"}, []string{"hostname"}, "named\n"},
			"read-only":   {[]string{"--read-only"}, []string{"write", "/data"}, "EROFS"},
			"mount":       {[]string{"--mount", "type=tmpfs,dst=/mnt,options=size=64k"}, []string{"stat", "/mnt"}, "041777"},
			"host net":    {[]string{"--net-host"}, []string{"report", "net"}, "\"lo\""},
			"privileged":  {[]string{"--privileged"}, []string{"write", "/proc/sys/kernel/hostname"}, "ok"},
			"memory":      {[]string{"--memory-limit", "100000000"}, []string{"echo", "limited"}, "limited"},
			"user ns":     {[]string{"--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"}, []string{"report", "userns"}, "0     100000      65536"},
		} {
			r := e.ctr(e.ctrRun(append(append(append([]string{"--rm"}, c.flags...), baseImage, newID(), "/bin/testbox"), c.words...)...)...)
			if r.code != 0 || !strings.Contains(r.out, c.want) {
				e.Errorf("%s: %+v, want %q", name, r, c.want)
			}
		}
	})
}

func TestCtrDetached(t *testing.T) {
	each(t, func(e *env) {
		id := newID()
		quiet := result{}
		e.wantCtr(quiet, e.ctrRun("-d", baseImage, id, "/bin/still")...)
		if r := e.ctr("task", "ls"); !regexp.MustCompile(id + ` +\d+ +RUNNING`).MatchString(r.out) {
			e.Errorf("task ls: %+v", r)
		}
		e.wantCtr(result{"inside\n", "", 0}, "task", "exec", "--exec-id", "one", id, "/bin/testbox", "echo", "inside")
		e.wantCtr(result{"", "", 9}, "task", "exec", "--exec-id", "two", id, "/bin/testbox", "exit", "9")
		e.wantCtr(result{"/data\n", "", 0}, "task", "exec", "--exec-id", "three", "--cwd", "/data", "--user", "1000", id, "/bin/testbox", "pwd")
		if r := e.ctr("task", "ps", id); strings.Count(r.out, "\n") != 2 {
			e.Errorf("task ps: %+v, want a title and a process", r)
		}
		e.wantCtr(quiet, "task", "pause", id)
		if r := e.ctr("task", "ls"); !strings.Contains(r.out, "PAUSED") {
			e.Errorf("task ls: %+v", r)
		}
		e.wantCtr(quiet, "task", "resume", id)
		if r := e.ctr("task", "metrics", id); r.code != 0 || !strings.Contains(r.out, "pids.current") {
			e.Errorf("task metrics: %+v", r)
		}
		if r := e.ctr("container", "rm", id); r.code == 0 {
			e.Errorf("a running container is removed: %+v", r)
		}
		if r := e.ctr("task", "rm", id); r.code == 0 || !strings.Contains(r.err, "must be stopped") {
			e.Errorf("a running task is removed: %+v", r)
		}
		e.wantCtr(quiet, "task", "kill", "-s", "SIGKILL", id)
		if r := e.ctr("task", "rm", id); r.code != 0 || !strings.Contains(r.err, "137") {
			e.Errorf("task rm: %+v, want its exit code told", r)
		}
		e.wantCtr(quiet, "container", "rm", id)
	})
}

// A terminal as a person has it: ctr on a pty of its own.
func TestCtrTerminal(t *testing.T) {
	each(t, func(e *env) {
		master, path, err := console.NewPty()
		e.must(err)
		defer master.Close()
		e.must(master.Resize(console.WinSize{Width: 99, Height: 33}))
		slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
		e.must(err)
		cmd := e.daemon.Ctr(e.ctx, e.ctrRun("--rm", "-t", baseImage, newID(), "/bin/testbox", "all", "tty", "--", "tty-lines")...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		e.must(harness.Start(cmd))
		slave.Close()
		var screen harness.Buffer
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(&screen, master)
		}()
		e.must(screen.Await(e.ctx, "ready"))
		if !strings.Contains(screen.String(), `"/dev/pts/0"`) {
			e.Errorf("no terminal: %s", screen.String())
		}
		_, err = io.WriteString(master, "typed\r")
		e.must(err)
		e.must(screen.Await(e.ctx, "[typed]"))
		_, err = io.WriteString(master, "\x04")
		e.must(err)
		e.must(harness.Wait(cmd))
		<-read
	})
}

func TestCtrLogURI(t *testing.T) {
	each(t, func(e *env) {
		dir := e.dir()
		id := newID()
		e.wantCtr(result{}, e.ctrRun("-d", "--log-uri", "file://"+filepath.Join(dir, "log"), baseImage, id, "/bin/testbox", "echo", "logged")...)
		if r := e.ctr("task", "rm", "-f", id); r.code != 0 { // it warns if it had to kill it
			e.Errorf("ctr task rm: %+v", r)
		}
		e.wantCtr(result{}, "container", "rm", id)
		if data, err := os.ReadFile(filepath.Join(dir, "log")); err != nil || string(data) != "logged\n" && string(data) != "" {
			e.Errorf("%q, %v", data, err) // killed before it wrote, perhaps
		}
	})
}

// PlainRoot is a directory with what is in the base image.
func (e *env) plainRoot() string {
	e.Helper()
	root := filepath.Join(e.dir(), "root")
	e.must(os.Mkdir(root, 0o755))
	base, err := harness.Base()
	e.must(err)
	e.must(base.Write(root))
	return root
}

// A root file system that is a plain directory, without image and snapshot.
func TestCtrRootfs(t *testing.T) {
	each(t, func(e *env) {
		root := e.plainRoot()
		id := newID()
		e.wantCtr(result{"from a directory\n", "", 0}, e.ctrRun("--rm", "--rootfs", root, id, "/bin/testbox", "all", "put", "/data/new", "x", "--", "echo", "from a directory")...)
		if _, err := os.Stat(filepath.Join(root, "data/new")); err != nil {
			e.Error(err)
		}
		if points, err := harness.MountPoints(root); err != nil || len(points) > 0 {
			e.Errorf("mounted below it: %q, %v", points, err)
		}
	})
}

// What a user gets to see when a program can't be run.
func TestCtrNotExecutable(t *testing.T) {
	each(t, func(e *env) {
		for _, c := range notExecutable {
			if c.late && e.oracle() {
				continue
			}
			r := e.ctr(e.ctrRun("--rm", baseImage, newID(), c.path)...)
			if r.code == 0 || !strings.Contains(r.err, c.want) || !strings.Contains(r.err, c.path) {
				e.Errorf("%s: %+v, want %q", c.path, r, c.want)
			}
		}
	})
}
