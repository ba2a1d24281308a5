package integration

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const processDifferencesFile = "testdata/process-differences.txt"

// ProcessCase is what a process may ask for. Its init and an exec do nothing and
// are looked at from outside; another exec looks around. Where the program is
// another one, only how it ends counts.
type processCase struct {
	name    string
	change  func(s *specs.Spec)    // of the container
	exec    func(p *specs.Process) // of the exec, which has the container's process else
	options proto.Message
}

// TestProcesses makes the same processes under both runtimes, and compares all
// that the kernel tells of them, or the error.
func TestProcesses(t *testing.T) {
	reference, subject := pair(t)
	allowed, err := readDifferences(processDifferencesFile)
	if err != nil {
		t.Fatal(err)
	}
	var total int
	for _, group := range slices.Sorted(maps.Keys(processCases)) {
		cases := processCases[group]()
		total += len(cases)
		t.Run(group, func(t *testing.T) {
			var seen [2]map[string]facts
			for i, r := range []harness.Runtime{reference, subject} {
				t.Run(r.Name, func(t *testing.T) {
					s := newStage(t, r)
					if r.Name == harness.Oracle {
						s.oracleLeaves("(D)", "directories in /run/containerd/runc of containers that were not made")
					}
					seen[i] = s.collect(cases)
				})
			}
			if t.Failed() || seen[0] == nil || seen[1] == nil {
				return
			}
			for _, c := range cases {
				sameDepth(seen[0][c.name], seen[1][c.name])
				if diff := compare(group+"/"+c.name, seen[0][c.name], seen[1][c.name], allowed); len(diff) > 0 {
					t.Errorf("%s: %s differs from %s:\n\t%s", c.name, subject.Name, reference.Name, strings.Join(diff, "\n\t"))
				}
			}
		})
	}
	if total < 150 {
		t.Errorf("only %d processes", total)
	}
	if subject.Name == harness.Oracle || flag.Lookup("test.run").Value.String() != "" && !regexp.MustCompile(`^\^?TestProcesses\$?$`).MatchString(flag.Lookup("test.run").Value.String()) {
		return
	}
	for _, a := range allowed {
		if !a.used {
			t.Errorf("%s: no difference any more in %s of %s: remove the line", processDifferencesFile, a.key, a.test)
		}
	}
}

// SameDepth leaves of two processes, of which only one came to life, no more than
// that.
func sameDepth(a, b facts) {
	for _, what := range []string{"create", "exec"} {
		if a[what] == b[what] {
			continue
		}
		for _, f := range []facts{a, b} {
			maps.DeleteFunc(f, func(name, _ string) bool {
				return name != what && (what == "create" || strings.HasPrefix(name, "exec."))
			})
		}
	}
}

// Collect makes all of them in one shim.
func (s *stage) collect(cases []processCase) map[string]facts {
	pod := s.shim(still())
	pod.launch()
	found := map[string]facts{}
	for _, c := range cases {
		change := c.change
		if change == nil {
			change = func(*specs.Spec) {}
		}
		m := pod.newMember(still(), edit(change))
		m.options = c.options
		found[c.name] = m.facts(c).neutral(neutralFor(m.id))
	}
	return found
}

// Phrases are what users and programs look for in errors.
var phrases = []string{
	"executable file not found in $PATH", "no such file or directory", "permission denied", "is a directory", "not a directory",
	"operation not permitted", "exec format error", "not supported", "file name too long", "argument list too long",
}

func outcomeOf(err error) string {
	if err == nil {
		return "ok"
	}
	found := []string{"fails"}
	for _, p := range phrases {
		if strings.Contains(err.Error(), p) {
			found = append(found, p)
		}
	}
	return strings.Join(found, ", ")
}

func (t *task) facts(c processCase) facts {
	t.s.Helper()
	f := facts{}
	spec := t.spec()
	t.setup.terminal = spec.Process != nil && spec.Process.Terminal
	err := t.create()
	if err != nil {
		f["create"] = outcomeOf(err)
		t.s.Logf("%s: create: %v", c.name, err)
		return f
	}
	if err := t.start(""); err != nil {
		f["create"] = outcomeOf(err) // found at the start by runc, where we know it before
		t.s.Logf("%s: start: %v", c.name, err)
		return f
	}
	f["create"] = "ok"
	if name := spec.Process.Args[0]; name != "/bin/still" {
		r, err := t.wait("")
		t.s.must(err)
		f["exit"] = fmt.Sprint(r.ExitStatus)
		t.s.awaitEOF(t.streams.out)
		f["out"] = t.streams.out.String()
		return f
	}
	pid := t.running("")
	if pid == 0 { // ended in place of execve, which runc cannot tell
		r, err := t.wait("")
		t.s.must(err)
		f["exit"] = fmt.Sprint(r.ExitStatus)
		return f
	}
	f.outside("init", pid)
	t.execFacts(f, c, spec.Process)
	t.s.must(t.kill("", unix.SIGKILL))
	r, err := t.wait("")
	t.s.must(err)
	f["exit"] = fmt.Sprint(r.ExitStatus)
	for name := range f { // compared by TestCompare
		if strings.Contains(name, ".mount.") && !strings.HasSuffix(name, ".mount./") {
			delete(f, name)
		}
	}
	return f
}

func (t *task) execFacts(f facts, c processCase, process *specs.Process) {
	t.s.Helper()
	p := *process
	p.Terminal = false
	if c.exec != nil {
		c.exec(&p)
	}
	err := t.execProcess("still", nil, &p)
	if err == nil {
		err = t.start("still")
	}
	f["exec"] = outcomeOf(err)
	if err != nil {
		t.s.Logf("%s: exec: %v", c.name, err)
		return
	}
	if p.Args[0] == "/bin/still" {
		pid := t.running("still")
		if pid == 0 {
			t.s.Fatalf("%s: the exec has ended", c.name)
		}
		f.outside("exec", pid)
		t.s.must(t.kill("still", unix.SIGKILL))
	}
	r, err := t.wait("still")
	t.s.must(err)
	f["exec.exit"] = fmt.Sprint(r.ExitStatus)
	if p.Args[0] != "/bin/still" {
		return
	}
	p.Args = []string{"/bin/testbox", "report", "keyring", "cwd", "ids", "env"}
	io := t.s.newStreams(newID(), false)
	defer io.close()
	if err := errorsOf(t.execProcess("look", io, &p), func() error { return t.start("look") }); err != nil {
		f["exec.inside"] = outcomeOf(err)
		return
	}
	_, err = t.wait("look")
	t.s.must(err)
	t.s.awaitEOF(io.out)
	if err := f.addJSON("exec.inside", io.out.String()); err != nil { // no program that could be trusted to
		f["exec.inside"] = "nothing"
	}
}

// ErrorsOf is the first error.
func errorsOf(err error, then func() error) error {
	if err != nil {
		return err
	}
	return then()
}

// Spec is the config.json of the bundle.
func (t *task) spec() *specs.Spec {
	t.s.Helper()
	data, err := os.ReadFile(filepath.Join(t.Bundle.Dir, "config.json"))
	t.s.must(err)
	s := &specs.Spec{}
	t.s.must(json.Unmarshal(data, s))
	return s
}

// ExecProcess adds an exec of any process.
func (t *task) execProcess(execID string, io *streams, p *specs.Process) error {
	t.s.Helper()
	data, err := json.Marshal(p)
	t.s.must(err)
	r := &taskv3.ExecProcessRequest{ID: t.id, ExecID: execID, Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: data}}
	if io != nil {
		c := io.request()
		r.Stdin, r.Stdout, r.Stderr = c.Stdin, c.Stdout, c.Stderr
	}
	_, err = t.Exec(t.s.ctx, r)
	return errgrpc.ToNative(err)
}

// Running waits until the process is /bin/still, and returns its pid, or 0 if it
// has ended instead.
func (t *task) running(execID string) uint32 {
	t.s.Helper()
	state, err := t.state(execID)
	t.s.must(err)
	dir := procFS{dir: fmt.Sprint("/proc/", state.Pid)}
	for dir.read("cmdline") != "/bin/still\x00" {
		if status := dir.status()["State"]; status == "" || strings.HasPrefix(status, "Z") {
			return 0
		}
		time.Sleep(100 * time.Microsecond)
	}
	return state.Pid
}

func process(change func(p *specs.Process)) func(*specs.Spec) {
	return func(s *specs.Spec) { change(s.Process) }
}

func program(words ...string) func(*specs.Spec) {
	return process(func(p *specs.Process) { p.Args = words })
}

func capabilities(c *specs.LinuxCapabilities) func(*specs.Spec) {
	return process(func(p *specs.Process) { p.Capabilities = c })
}

// FilterOf allows everything but what the rules say.
func filterOf(rules ...specs.LinuxSyscall) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}, Syscalls: rules}
}

// ProcessCases by what they are about. Each group has a shim and a minute.
var processCases = map[string]func() []processCase{
	"users": func() []processCase {
		var all []processCase
		for _, u := range []specs.User{
			{}, {GID: 5}, {UID: 1000}, {UID: 1000, GID: 1000}, {UID: 65534, GID: 65534}, {UID: 4242, GID: 4343},
			{UID: 1<<32 - 2, GID: 1<<32 - 2}, {UID: 1 << 31, GID: 1 << 31}, {AdditionalGids: []uint32{0}}, {AdditionalGids: []uint32{7, 5, 7, 2000}},
			{UID: 1000, GID: 1000, AdditionalGids: []uint32{0, 1, 2}},
		} {
			all = append(all, processCase{name: fmt.Sprintf("%d:%d %v", u.UID, u.GID, u.AdditionalGids), change: process(func(p *specs.Process) { p.User = u })})
		}
		for _, umask := range []uint32{0, 0o22, 0o27, 0o77, 0o777} {
			all = append(all, processCase{name: fmt.Sprintf("umask %#o", umask), change: process(func(p *specs.Process) { p.User.Umask = ptr(umask) })})
		}
		var many []uint32
		for g := range uint32(200) {
			many = append(many, 3000+g)
		}
		return append(all,
			processCase{name: "200 groups", change: process(func(p *specs.Process) { p.User.AdditionalGids = many })},
			processCase{name: "uid -1", change: process(func(p *specs.Process) { p.User.UID = 1<<32 - 1 })},
			processCase{name: "gid -1", change: process(func(p *specs.Process) { p.User.GID = 1<<32 - 1 })},
			processCase{name: "group -1", change: process(func(p *specs.Process) { p.User.AdditionalGids = []uint32{1<<32 - 1} })},
			processCase{name: "exec of another user", exec: func(p *specs.Process) { p.User = specs.User{UID: 1000, GID: 2000, AdditionalGids: []uint32{9}} }},
			processCase{name: "exec of root", change: process(func(p *specs.Process) { p.User = specs.User{UID: 1000, GID: 1000} }), exec: func(p *specs.Process) { p.User = specs.User{} }},
			processCase{name: "exec of user -1", exec: func(p *specs.Process) { p.User.UID = 1<<32 - 1 }},
			processCase{name: "exec without umask", change: process(func(p *specs.Process) { p.User.Umask = ptr(uint32(0o27)) }), exec: func(p *specs.Process) { p.User.Umask = nil }},
			processCase{name: "exec with umask", exec: func(p *specs.Process) { p.User.Umask = ptr(uint32(0o70)) }},
		)
	},
	"capabilities": func() []processCase {
		some := []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"}
		user := func(c *specs.LinuxCapabilities) func(*specs.Spec) {
			return process(func(p *specs.Process) { p.User, p.Capabilities = specs.User{UID: 1000, GID: 1000}, c })
		}
		full := &specs.LinuxCapabilities{Bounding: some, Permitted: some, Effective: some, Inheritable: some, Ambient: some}
		return []processCase{
			{name: "none", change: capabilities(&specs.LinuxCapabilities{})},
			{name: "bounding", change: capabilities(&specs.LinuxCapabilities{Bounding: some})},
			{name: "no inheritable", change: capabilities(&specs.LinuxCapabilities{Bounding: some, Permitted: some, Effective: some})},
			{name: "inheritable", change: capabilities(&specs.LinuxCapabilities{Bounding: some, Permitted: some, Effective: some, Inheritable: some})},
			{name: "ambient", change: capabilities(full)},
			{name: "effective less", change: capabilities(&specs.LinuxCapabilities{Bounding: some, Permitted: some, Effective: some[:1]})},
			{name: "effective more", change: capabilities(&specs.LinuxCapabilities{Bounding: some, Permitted: some[:1], Effective: some})},
			{name: "permitted more than bounding", change: capabilities(&specs.LinuxCapabilities{Bounding: some[:1], Permitted: some, Effective: some})},
			{name: "ambient without inheritable", change: capabilities(&specs.LinuxCapabilities{Bounding: some, Permitted: some, Effective: some, Ambient: some})},
			{name: "nil", change: capabilities(nil)},
			{name: "unknown", change: capabilities(&specs.LinuxCapabilities{Bounding: []string{"CAP_X", "CAP_KILL"}, Permitted: []string{"CAP_X", "CAP_KILL"}})},
			{name: "lower case", change: capabilities(&specs.LinuxCapabilities{Bounding: []string{"cap_kill"}, Permitted: []string{"cap_kill"}})},
			{name: "user", change: user(&specs.LinuxCapabilities{Bounding: some, Permitted: some, Effective: some})},
			{name: "user, ambient", change: user(full)},
			{name: "user, none", change: user(&specs.LinuxCapabilities{})},
			{name: "user, nil", change: user(nil)},
			{name: "user, inheritable", change: user(&specs.LinuxCapabilities{Bounding: some, Permitted: some, Effective: some, Inheritable: some})},
			{name: "exec with more", exec: func(p *specs.Process) {
				all := append(slices.Clone(p.Capabilities.Bounding), "CAP_SYS_PTRACE", "CAP_SYS_ADMIN")
				p.Capabilities = &specs.LinuxCapabilities{Bounding: all, Permitted: all, Effective: all}
			}},
			{name: "exec with none", exec: func(p *specs.Process) { p.Capabilities = &specs.LinuxCapabilities{} }},
			{name: "exec with nil", exec: func(p *specs.Process) { p.Capabilities = nil }},
			{name: "exec of a user, ambient", exec: func(p *specs.Process) { p.User.UID, p.Capabilities = 1000, full }},
			{name: "new privileges", change: process(func(p *specs.Process) { p.NoNewPrivileges = false })},
			{name: "exec with new privileges", exec: func(p *specs.Process) { p.NoNewPrivileges = false }},
			{name: "exec without new privileges", change: process(func(p *specs.Process) { p.NoNewPrivileges = false }), exec: func(p *specs.Process) { p.NoNewPrivileges = true }},
		}
	},
	"each capability": func() []processCase {
		var all []processCase
		for i, name := range capNames {
			if hostBounding()&(1<<i) == 0 {
				continue // runc fails, and we leave it out: see TestMissingCapability
			}
			one := []string{"CAP_" + name}
			all = append(all, processCase{name: name, change: func(s *specs.Spec) {
				s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: one, Permitted: one, Effective: one}
				s.Process.NoNewPrivileges = false
			}, exec: func(p *specs.Process) { p.Args = []string{"/bin/quick"} }})
		}
		return all
	},
	"limits": func() []processCase {
		var all []processCase
		limit := func(name, kind string, soft, hard uint64) {
			all = append(all, processCase{name: name, change: process(func(p *specs.Process) {
				p.Rlimits = []specs.POSIXRlimit{{Type: kind, Soft: soft, Hard: hard}}
			})})
		}
		for _, kind := range []string{"AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS", "RTPRIO", "RTTIME", "SIGPENDING", "STACK"} {
			limit(kind, "RLIMIT_"+kind, 1<<30, 1<<31)
		}
		all = all[:len(all):len(all)]
		limit("unlimited", "RLIMIT_MEMLOCK", 1<<64-1, 1<<64-1)
		limit("nothing", "RLIMIT_CORE", 0, 0)
		limit("unknown", "RLIMIT_X", 0, 0)
		limit("empty", "", 0, 0)
		limit("soft over hard", "RLIMIT_CORE", 2, 1)
		limit("too many files", "RLIMIT_NOFILE", 1<<40, 1<<40)
		scores := []int{0, 1, 500, 1000, 1001, -1001}
		if hostBounding()&(1<<unix.CAP_SYS_RESOURCE) != 0 {
			scores = append(scores, -1, -998, -1000)
		}
		for _, adj := range scores {
			all = append(all, processCase{name: fmt.Sprintf("oom_score_adj %d", adj), change: process(func(p *specs.Process) { p.OOMScoreAdj = &adj })})
		}
		return append(all,
			processCase{name: "no oom_score_adj", change: process(func(p *specs.Process) { p.OOMScoreAdj = nil })},
			processCase{name: "exec with oom_score_adj", exec: func(p *specs.Process) { p.OOMScoreAdj = ptr(321) }},
			processCase{name: "exec with limits", exec: func(p *specs.Process) {
				p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 77, Hard: 88}, {Type: "RLIMIT_CORE", Soft: 1, Hard: 2}}
			}},
			processCase{name: "exec without limits", exec: func(p *specs.Process) { p.Rlimits = nil }},
		)
	},
	"scheduling": func() []processCase {
		var all []processCase
		scheduler := func(name string, s specs.Scheduler) {
			all = append(all, processCase{name: name, change: process(func(p *specs.Process) { p.Scheduler = &s })})
		}
		scheduler("other", specs.Scheduler{Policy: specs.SchedOther})
		scheduler("nice 10", specs.Scheduler{Policy: specs.SchedOther, Nice: 10})
		scheduler("nice -10", specs.Scheduler{Policy: specs.SchedOther, Nice: -10})
		scheduler("nice 99", specs.Scheduler{Policy: specs.SchedOther, Nice: 99})
		scheduler("batch", specs.Scheduler{Policy: specs.SchedBatch, Nice: 3})
		scheduler("idle", specs.Scheduler{Policy: specs.SchedIdle})
		scheduler("fifo", specs.Scheduler{Policy: specs.SchedFIFO, Priority: 3})
		scheduler("round robin", specs.Scheduler{Policy: specs.SchedRR, Priority: 99})
		scheduler("iso", specs.Scheduler{Policy: specs.SchedISO})
		scheduler("unknown", specs.Scheduler{Policy: "SCHED_X"})
		scheduler("unknown flag", specs.Scheduler{Policy: specs.SchedOther, Flags: []specs.LinuxSchedulerFlag{"SCHED_FLAG_X"}})
		scheduler("reset on fork", specs.Scheduler{Policy: specs.SchedBatch, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}})
		scheduler("deadline", specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1e6, Deadline: 1e8, Period: 1e8, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}})
		scheduler("deadline without a runtime", specs.Scheduler{Policy: specs.SchedDeadline})
		for _, io := range []specs.LinuxIOPriority{
			{Class: specs.IOPRIO_CLASS_RT}, {Class: specs.IOPRIO_CLASS_RT, Priority: 7}, {Class: specs.IOPRIO_CLASS_BE}, {Class: specs.IOPRIO_CLASS_BE, Priority: 3},
			{Class: specs.IOPRIO_CLASS_IDLE}, {Class: "IOPRIO_CLASS_X"}, {Class: specs.IOPRIO_CLASS_BE, Priority: 8}, {Class: specs.IOPRIO_CLASS_BE, Priority: -1},
		} {
			all = append(all, processCase{name: fmt.Sprintf("%s %d", io.Class, io.Priority), change: process(func(p *specs.Process) { p.IOPriority = &io })})
		}
		affinity := func(name string, a specs.CPUAffinity) {
			all = append(all, processCase{name: "affinity " + name, exec: func(p *specs.Process) { p.ExecCPUAffinity = &a }})
		}
		affinity("final", specs.CPUAffinity{Final: "1"})
		affinity("initial", specs.CPUAffinity{Initial: "0"})
		affinity("both", specs.CPUAffinity{Initial: "0-1", Final: "0,1"})
		affinity("wrong", specs.CPUAffinity{Final: "x"})
		affinity("reversed", specs.CPUAffinity{Final: "1-0"})
		return append(all,
			processCase{name: "affinity of the container", change: process(func(p *specs.Process) { p.ExecCPUAffinity = &specs.CPUAffinity{Final: "0"} }), exec: func(p *specs.Process) { p.ExecCPUAffinity = nil }},
			processCase{name: "exec with nice", exec: func(p *specs.Process) { p.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: 5} }},
			processCase{name: "exec idle", exec: func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE} }},
			processCase{name: "memory policy", change: func(s *specs.Spec) {
				s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolInterleave, Nodes: "0"}
			}},
			processCase{name: "memory policy of no node", change: func(s *specs.Spec) {
				s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "999"}
			}},
			processCase{name: "memory policy unknown", change: func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_X"} }},
			processCase{name: "personality", change: func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux} }},
			processCase{name: "personality 32", change: func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32} }},
			processCase{name: "personality unknown", change: func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "SOLARIS"} }},
		)
	},
	"programs": func() []processCase {
		var all []processCase
		run := func(words ...string) {
			all = append(all, processCase{name: strings.Join(words, " "), change: program(words...)})
		}
		for _, code := range []string{"0", "1", "42", "126", "127", "255"} {
			run("/bin/testbox", "exit", code)
		}
		run("testbox", "echo", "found on PATH")
		run("true")
		run("false")
		run("missing")
		run("/missing")
		run("./bin/testbox", "exit", "7")
		run("bin/testbox", "exit", "8")
		run("./missing")
		run("/etc/not-executable")
		run("/etc/passwd")
		run("/data")
		run("/bin/testbox/x")
		run("/" + strings.Repeat("x", 300))
		run("/bin/testbox", "echo", strings.Repeat("y", 100_000))
		run("/bin/testbox", "echo", strings.Repeat("z", 200_000))
		run("")
		for _, dir := range []string{"/", "/data", "/new/dir", "/var/run", "/root", "/home/user", "/etc/passwd", "relative", "", "/proc/self/fd/3", "/proc/self/fd/7", "/proc/1/root", "/proc/self/cwd", "/dev/fd/4"} {
			all = append(all, processCase{name: "cwd " + dir, change: process(func(p *specs.Process) { p.Cwd = dir })})
		}
		execs := func(words ...string) {
			all = append(all, processCase{name: "exec " + strings.Join(words, " "), exec: func(p *specs.Process) { p.Args = words }})
		}
		execs("/bin/testbox", "exit", "3")
		execs("true")
		execs("missing")
		execs("/missing")
		execs("/etc/passwd")
		execs("/data")
		execs("bin/true")
		for _, dir := range []string{"/data", "/not/there", "/etc/passwd", "relative", "/proc/self/fd/5"} {
			all = append(all, processCase{name: "exec in " + dir, exec: func(p *specs.Process) { p.Cwd = dir }})
		}
		return append(all,
			processCase{name: "the user's cwd", change: process(func(p *specs.Process) { p.User, p.Cwd = specs.User{UID: 1000, GID: 1000}, "/home/user" })},
			processCase{name: "root's cwd", change: process(func(p *specs.Process) { p.User, p.Cwd = specs.User{UID: 1000, GID: 1000}, "/root" })},
			processCase{name: "no args", change: program()},
		)
	},
	"environments": func() []processCase {
		var all []processCase
		for name, env := range map[string][]string{
			"none": nil, "one": {"A=1"}, "twice": {"A=1", "B=2", "A=3"}, "empty value": {"A="}, "no =": {"A"}, "no name": {"=1"},
			"HOME": {"HOME=/x"}, "empty HOME": {"HOME="}, "HOME twice": {"HOME=/x", "HOME="}, "spaces": {"A B=c d", "C=  "}, "NUL": {"A=\x00"},
			"unicode": {"Ä=ö", "A=\xff\xfe"}, "a long one": {"A=" + strings.Repeat("x", 100_000)}, "too long": {"A=" + strings.Repeat("x", 140_000)},
			"no PATH": {"X=1"}, "LD_PRELOAD": {"LD_PRELOAD=/x.so"}, "of runc": {"_LIBCONTAINER_INITPIPE=3", "_LIBCONTAINER_STATEDIR=/"},
		} {
			all = append(all, processCase{name: name, change: process(func(p *specs.Process) { p.Env = env })})
		}
		return append(all,
			processCase{name: "an empty PATH", change: process(func(p *specs.Process) { p.Env, p.Args = []string{"PATH="}, []string{"testbox", "exit", "1"} })},
			processCase{name: "PATH of the cwd", change: process(func(p *specs.Process) {
				p.Env, p.Cwd, p.Args = []string{"PATH=:/nothing"}, "/bin", []string{"testbox", "exit", "1"}
			})},
			processCase{name: "searched without PATH", change: process(func(p *specs.Process) { p.Env, p.Args = nil, []string{"testbox", "exit", "1"} })},
			processCase{name: "HOME of a user", change: process(func(p *specs.Process) { p.Env, p.User.UID = nil, 1000 })},
			processCase{name: "HOME of nobody known", change: process(func(p *specs.Process) { p.Env, p.User.UID = nil, 77 })},
			processCase{name: "exec's own", exec: func(p *specs.Process) { p.Env = []string{"ONLY=this"} }},
		)
	},
	"security": func() []processCase {
		errno := func(names ...string) specs.LinuxSyscall {
			return specs.LinuxSyscall{Names: names, Action: specs.ActErrno, ErrnoRet: ptr(uint(unix.EXDEV))}
		}
		filtered := func(newPrivileges bool, p *specs.LinuxSeccomp) func(*specs.Spec) {
			return func(s *specs.Spec) { s.Process.NoNewPrivileges, s.Linux.Seccomp = !newPrivileges, p }
		}
		denied := func(words ...string) func(*specs.Spec) {
			return func(s *specs.Spec) {
				s.Linux.Seccomp = filterOf(errno("mkdirat", "personality"))
				s.Process.Args = append([]string{"/bin/testbox"}, words...)
			}
		}
		namespace := func(add bool, kind specs.LinuxNamespaceType) func(*specs.Spec) {
			return func(s *specs.Spec) {
				s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == kind })
				if add {
					s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
				}
			}
		}
		return []processCase{
			{name: "seccomp", change: filtered(false, filterOf(errno("mkdirat")))},
			{name: "seccomp, new privileges", change: filtered(true, filterOf(errno("mkdirat")))},
			{name: "seccomp of a user", change: func(s *specs.Spec) {
				filtered(true, filterOf(errno("mkdirat")))(s)
				s.Process.User = specs.User{UID: 1000, GID: 1000}
			}},
			{name: "seccomp and no capabilities", change: func(s *specs.Spec) {
				filtered(true, filterOf(errno("mkdirat")))(s)
				s.Process.Capabilities = &specs.LinuxCapabilities{}
			}},
			{name: "seccomp without flags", change: func(s *specs.Spec) {
				s.Linux.Seccomp = filterOf()
				s.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{}
			}},
			{name: "seccomp with log", change: func(s *specs.Spec) {
				s.Linux.Seccomp = filterOf(errno("mkdirat"))
				s.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog}
			}},
			{name: "seccomp with an unknown call", change: filtered(false, filterOf(errno("call_of_the_future")))},
			{name: "seccomp with an unknown flag", change: func(s *specs.Spec) {
				s.Linux.Seccomp = filterOf()
				s.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{"SECCOMP_X"}
			}},
			{name: "seccomp with an unknown action", change: func(s *specs.Spec) {
				s.Linux.Seccomp = filterOf(specs.LinuxSyscall{Names: []string{"mkdirat"}, Action: "SCMP_ACT_X"})
			}},
			{name: "seccomp's errno", change: denied("syscall", fmt.Sprint(unix.SYS_PERSONALITY), "0xffffffff")},
			{name: "seccomp's kill", change: func(s *specs.Spec) {
				s.Linux.Seccomp = filterOf(specs.LinuxSyscall{Names: []string{"personality"}, Action: specs.ActKillProcess})
				s.Process.Args = []string{"/bin/testbox", "syscall", fmt.Sprint(unix.SYS_PERSONALITY), "0xffffffff"}
			}},
			{name: "seccomp's trap", change: func(s *specs.Spec) {
				s.Linux.Seccomp = filterOf(specs.LinuxSyscall{Names: []string{"personality"}, Action: specs.ActTrap})
				s.Process.Args = []string{"/bin/testbox", "exit", "9"}
			}},
			{name: "seccomp, calls newer than it", change: func(s *specs.Spec) {
				s.Linux.Seccomp = filterOf(errno("mkdirat"))
				s.Linux.Seccomp.DefaultAction = specs.ActAllow
				s.Process.Args = []string{"/bin/testbox", "syscall", "460"}
			}},
			{name: "apparmor", change: process(func(p *specs.Process) { p.ApparmorProfile = "no-such-profile" })},
			{name: "selinux", change: process(func(p *specs.Process) { p.SelinuxLabel = "system_u:system_r:container_t:s0" })},
			{name: "mount label", change: func(s *specs.Spec) { s.Linux.MountLabel = "system_u:object_r:container_file_t:s0" }},
			{name: "exec with apparmor", exec: func(p *specs.Process) { p.ApparmorProfile = "no-such-profile" }},
			{name: "exec with selinux", exec: func(p *specs.Process) { p.SelinuxLabel = "system_u:system_r:container_t:s0" }},
			{name: "no pid namespace", change: namespace(false, specs.PIDNamespace)},
			{name: "no ipc namespace", change: func(s *specs.Spec) {
				namespace(false, specs.IPCNamespace)(s)
				s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "mqueue" })
			}},
			{name: "no uts namespace", change: namespace(false, specs.UTSNamespace)},
			{name: "no network namespace", change: namespace(false, specs.NetworkNamespace)},
			{name: "cgroup namespace", change: namespace(true, specs.CgroupNamespace)},
			{name: "time namespace", change: namespace(true, specs.TimeNamespace)},
			{name: "hostname without its namespace", change: func(s *specs.Spec) {
				namespace(false, specs.UTSNamespace)(s)
				s.Hostname = "x"
			}},
			{name: "terminal", change: process(func(p *specs.Process) { p.Terminal, p.ConsoleSize = true, &specs.Box{Width: 90, Height: 30} })},
			{name: "no new keyring", options: &options.Options{NoNewKeyring: true}},
			{name: "owner of the streams", options: &options.Options{IoUid: 1234, IoGid: 4321}},
			{name: "no pivot_root", options: &options.Options{NoPivotRoot: true}},
			{name: "user namespace", change: func(s *specs.Spec) {
				namespace(true, specs.UserNamespace)(s)
				ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 0, Size: 1 << 31}}
				s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
			}},
		}
	},
}
