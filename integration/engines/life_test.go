package engines

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// State is what inspect tells of it.
const state = "{{.State.Status}} {{.State.ExitCode}}"

func (e *env) state(name, want string) {
	e.Helper()
	e.want(want, "inspect", "-f", state, name)
}

func TestLife(t *testing.T) {
	each(t, func(e *env) {
		name := e.box("--hostname living", "/bin/testbox", "all", "echo", "out", "--", "warn", "err", "--", "trap", "HUP")
		e.state(name, "running 0")
		e.eventually("ready", "logs", name)
		e.ok("logs", name)
		if out := e.ok("ps", "--format", "{{.Names}} {{.Image}} {{.Status}}"); !regexp.MustCompile(name + " .*" + image + " Up").MatchString(out) {
			e.Errorf("ps: %q", out)
		}
		if out := e.quietly("top", name); strings.Count(out.out, "\n") != 2 || !strings.Contains(out.out, "trap HUP") {
			e.Errorf("top: %+v, want a title and a process", out)
		}
		e.want("living", "exec", name, "/bin/testbox", "hostname")
		e.ok("kill", "-s", "USR1", name)
		e.eventually("SIGUSR1", "logs", name)
		e.ok("kill", "-s", "HUP", name)
		e.want("0", "wait", name)
		e.state(name, "exited 0")
		e.ok("logs", name)
		e.ok("start", name)
		e.state(name, "running 0")
		e.eventually("(?s)(ready.*){2}", "logs", name)
		e.ok("restart", "-t", "0", name)
		e.state(name, "running 0")
		e.eventually("(?s)(ready.*){3}", "logs", name)
		e.ok("stop", "-t", "0", name)
		e.state(name, "exited 137")
		e.ok("start", name)
		e.fails(1, "running", "rm", name)
		e.ok("rm", "-f", name)
		e.fails(1, "(?i)no such", "inspect", name)
	})
}

func TestCreate(t *testing.T) {
	each(t, func(e *env) {
		name := e.name()
		e.ok("create", "--runtime", e.runtime.Type, "--net", "none", "--name", name, image, "/bin/still")
		e.do("inspect", "-f", state, name)
		e.ok("start", name)
		e.ok("rename", name, "renamed")
		e.ok("rename", "renamed", name)
		e.ok("kill", name)
		e.want("137", "wait", name)
	})
}

// What a stop sends first, and what comes when that does not help.
func TestStop(t *testing.T) {
	each(t, func(e *env) {
		obeys := e.box("", "/bin/testbox", "trap")
		e.eventually("ready", "logs", obeys)
		e.ok("stop", obeys)
		e.state(obeys, "exited 0")
		other := e.box("--stop-signal SIGUSR2", "/bin/testbox", "trap", "USR2")
		e.eventually("ready", "logs", other)
		e.ok("stop", other)
		e.state(other, "exited 0")
		e.want("ready\nSIGUSR2", "logs", other)
		stubborn := e.box("", "/bin/testbox", "trap", "USR1")
		e.eventually("ready", "logs", stubborn)
		e.ok("stop", "-t", "1", stubborn)
		e.state(stubborn, "exited 137")
	})
}

func TestExitCodes(t *testing.T) {
	each(t, func(e *env) {
		for _, code := range []int{0, 1, 2, 42, 125, 126, 127, 128, 137, 143, 255} {
			r := e.do(e.run("--rm", "--net", "none", image, "/bin/testbox", "exit", fmt.Sprint(code))...)
			if r.code != code {
				e.Errorf("exit %d: %+v", code, r)
			}
		}
		// In the host's pid namespace, as the first process of an own one ignores signals.
		for _, c := range []struct{ signal, code string }{{"KILL", "137"}, {"TERM", "143"}, {"HUP", "129"}, {"RTMIN+1", "163"}} {
			name := e.box("--pid host")
			e.ok("kill", "-s", c.signal, name)
			e.want(c.code, "wait", name)
		}
	})
}

// What can't be run: the words that the engines look for, and the codes they make of it.
func TestNotExecutable(t *testing.T) {
	each(t, func(e *env) {
		for _, c := range []struct {
			flags, path string
			code        int // of "docker run"; nerdctl has 1 for all
			want        string
		}{
			{"", "missing", 127, "executable file not found"},
			{"", "/bin/missing", 127, "no such file or directory"},
			{"", "/data", 126, "permission denied|is a directory"},
			{"", "/etc/not-executable", 126, "permission denied"},
			{"", "/etc/hosts/x", 125, "not a directory"},
			{"--user 1000", "/etc/secret", 126, "permission denied"},
			{"-w /etc/secret", "/bin/true", 125, "not a directory"},
			{"-v /etc/hostname:/data", "/bin/true", 125, "not a directory"},
			{"-v /etc:/etc/secret", "/bin/true", 125, "not a directory"},
			{"--user nobody-knows", "/bin/true", 125, "(?i)no users? found|unable to find user"},
			{"--device /dev/missing", "/bin/true", 127, "no such file|not a device"},
			{"--sysctl kernel.hostname=x", "/bin/true", 125, "sysctl"},
		} {
			code := 1
			if e.docker() {
				code = c.code
			}
			words := append(strings.Fields("--rm --net none "+c.flags), image, c.path)
			e.fails(code, c.want, e.run(words...)...)
		}
	})
}

func TestExec(t *testing.T) {
	each(t, func(e *env) {
		name := e.box("-e INSIDE=yes -w /data --user 1000:1000 --group-add 2001")
		exec := func(flags string, words ...string) []string {
			return append(append(append([]string{"exec"}, strings.Fields(flags)...), name), words...)
		}
		e.want("inside", exec("", "/bin/echo", "inside")...)
		e.ok(exec("", "/bin/testbox", "env")...)
		e.want("/data", exec("", "/bin/testbox", "pwd")...)
		e.ok(exec("", "/bin/testbox", "report", "ids", "status")...)
		e.ok(exec("-u root", "/bin/testbox", "report", "ids", "status")...)
		e.ok(exec("-u 1000:extra", "/bin/testbox", "id")...)
		e.ok(exec("--privileged -u root", "/bin/testbox", "report", "status")...)
		e.want("/work", exec("-w /work", "/bin/testbox", "pwd")...)
		if out := e.ok(exec("-e A=b", "/bin/testbox", "env")...); !strings.Contains(out, "A=b") || !strings.Contains(out, "INSIDE=yes") {
			e.Error(out)
		}
		for _, code := range []int{1, 42, 126, 127, 137, 255} {
			if r := e.do(exec("", "/bin/testbox", "exit", fmt.Sprint(code))...); r.code != code && e.docker() { // nerdctl says it in words
				e.Errorf("exit %d: %+v", code, r)
			}
		}
		e.do(exec("", "/bin/testbox", "all", "echo", "out", "--", "warn", "err")...)
		e.ok(exec("-d", "/bin/testbox", "put", "/tmp/detached", "done")...)
		e.eventually("done", exec("", "/bin/cat", "/tmp/detached")...)
		if r := e.quietly(exec("", "missing")...); r.code == 0 || !strings.Contains(r.err+r.out, "executable file not found") {
			e.Errorf("missing: %+v", r)
		}
		for path, code := range map[string]int{"missing": 127, "/bin/missing": 127, "/data": 126, "/etc/not-executable": 126} {
			if r := e.quietly(exec("", path)...); r.code != code && e.docker() {
				e.Errorf("%s: %+v, want %d", path, r, code)
			}
		}
		e.ok("kill", name)
		e.want("137", "wait", name)
		e.fails(1, "not running|no running task|not found|stopped", exec("", "/bin/true")...)
	})
}

func TestPause(t *testing.T) {
	each(t, func(e *env) {
		name := e.box("", "/bin/testbox", "ticks", "0.1")
		e.ok("pause", name)
		e.want("paused true", "inspect", "-f", "{{.State.Status}} {{.State.Paused}}", name)
		e.do("inspect", "-f", state, name)
		e.fails(1, "paused", "exec", name, "/bin/true")
		e.ok("unpause", name)
		e.state(name, "running 0")
		e.ok("exec", name, "/bin/true")
		e.ok("pause", name)
		e.ok("rm", "-f", name)
		other := e.box("")
		e.ok("pause", other)
		e.do("stop", "-t", "1", other)
	})
}

func TestUpdate(t *testing.T) {
	each(t, func(e *env) {
		name := e.box("--memory 64m --memory-swap 64m --cpu-period 100000 --cpu-quota 100000 --pids-limit 100")
		read := func(file string) string {
			return e.quietly("exec", name, "/bin/cat", "/sys/fs/cgroup/"+file).out
		}
		for _, c := range []struct{ flags, file, want string }{
			{"--memory 128m --memory-swap 128m", "memory/memory.limit_in_bytes", "134217728\n"},
			{"--memory 32m --memory-swap 64m", "memory/memory.memsw.limit_in_bytes", "67108864\n"},
			{"--memory-reservation 16m", "memory/memory.soft_limit_in_bytes", "16777216\n"},
			{"--cpu-quota 25000", "cpu/cpu.cfs_quota_us", "25000\n"},
			{"--cpu-shares 256", "cpu/cpu.shares", "256\n"},
			{"--cpuset-cpus 1", "cpuset/cpuset.cpus", "1\n"},
			{"--pids-limit 7", "pids/pids.max", "7\n"},
			{"--pids-limit -1", "pids/pids.max", "max\n"},
		} {
			r := e.do(append(append([]string{"update"}, strings.Fields(c.flags)...), name)...)
			if got := read(c.file); r.code != 0 || got != c.want {
				e.Errorf("update %s: %+v, %s is %q, want %q", c.flags, r, c.file, got, c.want)
			}
		}
	})
}

func TestStats(t *testing.T) {
	each(t, func(e *env) {
		name := e.box("--memory 256m", "/bin/testbox", "memhog", "50000000", "inf")
		e.eventually("touched", "logs", name)
		if r := e.quietly("exec", name, "/bin/testbox", "put", "/data/written", strings.Repeat("x", 100000)); r.code != 0 {
			e.Error(r)
		}
		var s struct{ Name, CPUPerc, MemUsage, MemPerc, NetIO, BlockIO, PIDs string }
		text := e.quietly("stats", "--no-stream", "--no-trunc", "--format", "{{json .}}", name).out
		if err := json.Unmarshal([]byte(strings.TrimSpace(text)), &s); err != nil {
			e.Fatalf("%q: %v", text, err)
		}
		pids := e.quietly("exec", name, "/bin/cat", "/sys/fs/cgroup/pids/pids.current")
		if s.Name != name || !regexp.MustCompile(`^(4[789]|5[0-9])\.?\d*MiB / 256MiB$`).MatchString(s.MemUsage) || s.PIDs == "0" || !strings.Contains(s.CPUPerc, "%") {
			e.Errorf("%+v; pids.current %q", s, pids.out)
		}
		e.Logf("%+v", s)
	})
}

func TestOOM(t *testing.T) {
	each(t, func(e *env) {
		name := e.box("--memory 24m --memory-swap 24m", "/bin/testbox", "memhog", "100000000", "inf")
		e.want("137", "wait", name)
		if e.docker() {
			e.want("true 137", "inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", name)
		}
		// A child is killed, the container goes on.
		other := e.box("--memory 24m --memory-swap 24m", "/bin/testbox", "sleep", "inf")
		if r := e.do("exec", other, "/bin/testbox", "memhog", "100000000"); r.code != 137 && e.docker() {
			e.Errorf("exec: %+v", r)
		}
		e.state(other, "running 0")
	})
}

func TestCopy(t *testing.T) {
	each(t, func(e *env) {
		dir := e.dir()
		e.must(os.WriteFile(filepath.Join(dir, "in"), []byte("from the host\n"), 0o640))
		name := e.box("-v " + dir + ":/bound")
		e.ok("cp", filepath.Join(dir, "in"), name+":/data/in")
		e.want("from the host", "exec", name, "/bin/cat", "/data/in")
		e.ok("cp", name+":/data/owned", filepath.Join(dir, "out"))
		if text, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || string(text) != "owned\n" {
			e.Errorf("%q, %v", text, err)
		}
		e.ok("cp", name+":/bound/in", filepath.Join(dir, "through"))
		e.ok("kill", name)
		e.want("137", "wait", name)
		e.ok("cp", name+":/data/in", filepath.Join(dir, "afterwards"))
		if text, err := os.ReadFile(filepath.Join(dir, "afterwards")); err != nil || string(text) != "from the host\n" {
			e.Errorf("%q, %v", text, err)
		}
	})
}

func TestShared(t *testing.T) {
	each(t, func(e *env) {
		first := e.box("--ipc shareable --hostname first")
		for _, c := range []struct{ flags, words, want string }{
			{"--net container:" + first, "report net", "lo"},
			{"--net none --ipc container:" + first, "stat /dev/shm", "041777"},
			{"--net none --pid container:" + first, "read /proc/1/cmdline", "11"},
		} {
			words := append(strings.Fields("--rm "+c.flags+" "+image+" /bin/testbox"), strings.Fields(c.words)...)
			if r := e.do(e.run(words...)...); r.code != 0 || !strings.Contains(r.out, c.want) {
				e.Errorf("%s: %+v", c.flags, r)
			}
		}
		second := e.name()
		e.ok(e.run("-d", "--net", "none", "--pid", "container:"+first, "--name", second, image, "/bin/sleep", "inf")...)
		e.ok("kill", second)
		e.want("137", "wait", second)
		e.state(first, "running 0")
	})
}

func TestLogs(t *testing.T) {
	each(t, func(e *env) {
		const size = 1 << 20
		name := e.box("", "/bin/testbox", "burst", fmt.Sprint(size))
		e.want("0", "wait", name)
		e.eventually(fmt.Sprintf("(?s)^.{%d,}$", 1000), "logs", name)
		if got := len(e.quietly("logs", name).out); got != size {
			e.Errorf("%d of %d bytes", got, size)
		}
	})
}

func TestCommit(t *testing.T) {
	each(t, func(e *env) {
		name := e.box("")
		e.ok("exec", name, "/bin/testbox", "put", "/data/committed", "yes")
		e.ok("commit", name, "committed:latest")
		e.Cleanup(func() { e.quietly("rmi", "-f", "committed:latest") })
		e.state(name, "running 0")
		e.want("yes", e.run("--rm", "--net", "none", "committed:latest", "/bin/cat", "/data/committed")...)
	})
}

func TestHealth(t *testing.T) {
	each(t, func(e *env) {
		name := e.box("--health-cmd=cat:/data/healthy --health-interval=1s --health-retries=1 --health-start-period=0s")
		status := func(want string) {
			if !e.docker() { // without systemd nothing checks it by itself
				e.quietly("container", "healthcheck", name)
			}
			e.eventually(want, "inspect", "-f", "{{.State.Health.Status}}", name)
		}
		status("^unhealthy$")
		e.ok("exec", name, "/bin/testbox", "put", "/data/healthy", "fine")
		status("^healthy$")
	})
}
