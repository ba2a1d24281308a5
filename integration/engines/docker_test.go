package engines

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/integration/harness"
)

// Pid is the host's number of a container's first process.
func (e *env) pid(name string) int {
	e.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(e.quietly("inspect", "-f", "{{.State.Pid}}", name).out))
	e.must(err)
	return pid
}

// What a test of the engines runs on is what it says.
func TestShim(t *testing.T) {
	each(t, func(e *env) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.pid(e.box(""))))
		e.must(err)
		_, rest, _ := strings.Cut(string(status), "PPid:")
		parent := strings.Fields(rest)[0]
		if exe, err := os.Readlink("/proc/" + parent + "/exe"); err != nil || exe != e.runtime.Shim {
			e.Errorf("a container's parent runs %s, %v, want %s", exe, err, e.runtime.Shim)
		}
	})
}

func TestDockerRestartPolicy(t *testing.T) {
	on(t, docker, func(e *env) {
		failing := e.box("--restart on-failure:2", "/bin/testbox", "exit", "3")
		e.eventually("^exited 3 2$", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", failing)
		always := e.box("--restart always")
		pid := e.pid(always)
		e.must(unix.Kill(pid, unix.SIGKILL))
		e.eventually("^running 1$", "inspect", "-f", "{{.State.Status}} {{.RestartCount}}", always)
		if e.pid(always) == pid {
			e.Error("the same process")
		}
		stopped := e.box("--restart unless-stopped")
		e.ok("stop", "-t", "0", stopped)
		e.state(stopped, "exited 137")
		// What can't be started isn't tried again.
		hopeless := e.name()
		e.fails(127, "no such file", e.run("-d", "--net", "none", "--restart", "always", "--name", hopeless, image, "/bin/missing")...)
		e.want("created 127 0", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", hopeless)
	})
}

func TestDockerEvents(t *testing.T) {
	on(t, docker, func(e *env) {
		since := time.Now()
		name := e.box("--memory 24m --memory-swap 24m")
		e.ok("exec", name, "/bin/true")
		e.do("exec", name, "/bin/testbox", "memhog", "100000000")
		e.quietly("exec", name, "missing")
		e.ok("pause", name)
		e.ok("unpause", name)
		e.ok("restart", "-t", "0", name)
		e.ok("update", "--memory", "32m", "--memory-swap", "32m", name)
		e.ok("kill", name)
		e.want("137", "wait", name)
		e.ok("rm", name)
		e.eventually("destroy", "events", "--since", stamp(since), "--until", stamp(time.Now()), "--filter", "container="+name, "--format", "{{.Action}}")
		r := e.quietly("events", "--since", stamp(since), "--until", stamp(time.Now()), "--filter", "container="+name, "--format", "{{.Action}} {{index .Actor.Attributes \"exitCode\"}}")
		e.seen.add("events", r)
		for _, want := range []string{"exec_die 0", "oom", "exec_die 137", "pause", "unpause", "die 137"} {
			if !strings.Contains(r.out, want) {
				e.Errorf("no %q in the events: %s", want, r.out)
			}
		}
	})
}

func stamp(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }

// Containers go on without dockerd, and are found again, with what they have come to.
func TestLiveRestore(t *testing.T) {
	on(t, docker, func(e *env) {
		for _, c := range []struct {
			name string
			end  func() error
		}{{"killed", docker.docker.kill}, {"stopped", docker.docker.stop}} {
			stays := e.box("", "/bin/testbox", "ticks", "0.1")
			ends := e.box("", "/bin/testbox", "all", "wait-for", "/data/go", "--", "exit", "7")
			paused := e.box("")
			e.ok("pause", paused)
			restarts := e.box("--restart always", "/bin/testbox", "all", "wait-for", "/data/go", "--", "exit", "7")
			pid := e.pid(stays)
			roots := []int{e.pid(ends), e.pid(restarts)}
			e.must(c.end())
			for _, pid := range roots {
				e.must(os.WriteFile(fmt.Sprintf("/proc/%d/root/data/go", pid), nil, 0o644))
			}
			for _, pid := range roots {
				for unix.Kill(pid, 0) == nil && e.ctx.Err() == nil {
					time.Sleep(10 * time.Millisecond)
				}
			}
			e.must(docker.docker.start(e.ctx))
			e.state(stays, "running 0")
			if e.pid(stays) != pid {
				e.Errorf("%s: another process", c.name)
			}
			e.ok("exec", stays, "/bin/true")
			e.eventually("^exited 7$", "inspect", "-f", state, ends)
			e.state(paused, "paused 0")
			e.ok("unpause", paused)
			e.eventually("(?s)^tick 0\n.*tick 49", "logs", stays)
			e.ok("exec", paused, "/bin/true")
			e.eventually("^running", "inspect", "-f", state, restarts)
			for _, name := range []string{stays, ends, paused, restarts} {
				e.ok("rm", "-f", name)
			}
		}
	})
}

// ContainerdDies while dockerd runs: containers go on.
func TestDockerContainerdDies(t *testing.T) {
	on(t, docker, func(e *env) {
		stays := e.box("")
		ends := e.box("", "/bin/testbox", "all", "wait-for", "/data/go", "--", "exit", "7")
		pid, ending := e.pid(stays), e.pid(ends)
		e.must(docker.daemon.Kill())
		e.must(docker.daemon.Start(e.ctx))
		// Dockerd does not hear of what happens before it has subscribed again; the
		// first exec of which it hears the end tells when.
		for hears := false; !hears && e.ctx.Err() == nil; {
			ctx, cancel := context.WithTimeout(e.ctx, 2*time.Second)
			hears = harness.Run(e.engine.command(ctx, "exec", stays, "/bin/true")) == nil
			cancel()
		}
		e.must(os.WriteFile(fmt.Sprintf("/proc/%d/root/data/go", ending), nil, 0o644))
		e.eventually("^exited 7$", "inspect", "-f", state, ends)
		e.state(stays, "running 0")
		if e.pid(stays) != pid {
			e.Error("another process")
		}
		e.ok("exec", stays, "/bin/true")
		e.ok("stop", "-t", "0", stays)
		e.state(stays, "exited 137")
	})
}

// Other is e with a second dockerd, of this configuration, over the same containerd.
func (e *env) other(config map[string]any, flags ...string) *env {
	e.Helper()
	d, err := startDockerd(e.ctx, docker.daemon, fmt.Sprint("d", serial.Add(1)), config, flags...)
	e.must(err)
	e.Cleanup(func() { e.must(errors.Join(d.stop(), d.remove())) })
	other := *e
	other.engine = &engine{name: "docker", daemon: docker.daemon, docker: d}
	return &other
}

// As the README says it: the runtime has a name, and is the default.
func TestDockerDefaultRuntime(t *testing.T) {
	on(t, docker, func(e *env) {
		d := e.other(map[string]any{
			"default-runtime": "chosen",
			"runtimes":        map[string]any{"chosen": map[string]any{"runtimeType": e.runtime.Type}},
		})
		name := d.name()
		d.ok("run", "-d", "--net", "none", "--restart", "always", "--name", name, image, "/bin/still")
		d.want("chosen", "inspect", "-f", "{{.HostConfig.Runtime}}", name)
		d.ok("exec", name, "/bin/true")
		d.want("hello", "run", "--rm", "--net", "none", "--runtime", "chosen", image)
		if out := d.quietly("info", "-f", "{{.DefaultRuntime}} {{.Runtimes}}"); !strings.Contains(out.out, "chosen") {
			e.Errorf("info: %+v", out)
		}
		// Without live-restore dockerd ends its containers, and starts them again.
		pid := d.pid(name)
		e.must(d.engine.docker.stop())
		if unix.Kill(pid, 0) == nil {
			e.Error("dockerd has ended, and its container hasn't")
		}
		e.must(d.engine.docker.start(e.ctx))
		d.eventually("^running", "inspect", "-f", state, name)
		if d.pid(name) == pid {
			e.Error("the same process")
		}
	})
}

// Root of a container is somebody else on the host.
func TestDockerUsernsRemap(t *testing.T) {
	on(t, docker, func(e *env) {
		dir := e.dir()
		for file, text := range map[string]string{"subuid": "daemon:200000:65536\n", "subgid": "daemon:300000:65536\n"} {
			e.must(os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
			if _, err := os.Stat("/etc/" + file); err != nil {
				e.Skipf("*** userns-remap NOT TESTED: %v ***", err)
			}
			e.must(unix.Mount(filepath.Join(dir, file), "/etc/"+file, "", unix.MS_BIND, ""))
			e.Cleanup(func() { e.must(unix.Unmount("/etc/"+file, unix.MNT_DETACH)) })
		}
		d := e.other(nil, "--userns-remap", "daemon")
		// Its images are its own, in the store that it had before containerd's.
		tar := filepath.Join(dir, "tar")
		e.ok("export", "-o", tar, e.box(""))
		d.ok("import", "--change", "ENV PATH=/bin", tar, image)
		name := d.box("-v " + dir + ":/mnt --memory 64m --hostname mapped")
		for _, c := range []struct{ words, want string }{
			{"report userns", "200000      65536"},
			{"report ids", "0"},
			{"write / /data /mnt /proc/sys/kernel/hostname", "EACCES"},
			{"stat / /data/owned /dev/null /dev/shm /proc/1 /mnt", "1000:2000"},
			{"hostname", "mapped"},
			{"statfs /dev/shm /dev/mqueue /sys /proc", ""},
		} {
			if r := d.do(append([]string{"exec", name, "/bin/testbox"}, strings.Fields(c.words)...)...); r.code != 0 || !strings.Contains(r.out, c.want) {
				e.Errorf("%s: %+v", c.words, r)
			}
		}
		d.want("named\n1000", d.run("--rm", "--net", "none", "--user", "1000", "-e", "A=named", image, "/bin/testbox", "all", "echo", "named", "--", "echo", "1000")...)
		d.ok(d.run("--rm", "--net", "none", "--userns", "host", "--privileged", image, "/bin/testbox", "report", "userns")...)
		d.ok("stop", "-t", "0", name)
		d.ok("start", name)
		d.ok("exec", name, "/bin/true")
	})
}
