// Package engines answers: does a user of nerdctl and of Docker Engine notice
// which runtime is below?
//
// A test types commands as a user would, first over myshim, then over
// containerd's own shim with runc. What it demands has to hold for both, and what
// they answered has to be the same, line by line.
//
//	make test-engines                                       # builds the engines, too
//	go test -run 'TestRun/docker' .                         # those of one engine
package engines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/myshim/myshim/integration/harness"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("\n*** tests of nerdctl and Docker Engine SKIPPED: they start containers and need root ***")
		os.Exit(0)
	}
	// Bridges and addresses are made in a network of the run's own.
	harness.Unshare |= unix.CLONE_NEWNET
	os.Exit(harness.Main(func() int {
		code := 1
		if err := prepare(); err != nil {
			fmt.Println("prepare:", err)
		} else {
			code = m.Run()
		}
		for _, e := range engines {
			if err := e.stop(); err != nil {
				fmt.Printf("stop %s: %v\n", e.name, err)
				code = 1
			}
		}
		return code
	}))
}

const image = "test/base:latest"

// Archive is the image as a file, for "load".
var archive string

func prepare() error {
	if err := harness.Run(exec.Command("ip", "link", "set", "lo", "up")); err != nil {
		return fmt.Errorf("ip link set lo up: %w", err)
	}
	base, err := harness.Base()
	if err != nil {
		return err
	}
	// For health checks, which are commands of a shell.
	base = base.With(harness.Symlink("bin/sh", "testbox"))
	layout, err := harness.Layout("docker.io/"+image, harness.ImageConfig, base)
	if err != nil {
		return err
	}
	archive = filepath.Join(harness.Dir, "image.tar")
	return os.WriteFile(archive, layout.Bytes(), 0o600)
}

// Env is what a test has: one engine and one runtime.
type env struct {
	*testing.T
	ctx     context.Context
	engine  *engine
	runtime harness.Runtime
	seen    *transcript
	dirs    []string
	names   int
}

// Each runs test as a subtest for every engine and runtime; nothing may be left
// after it. Then it compares what the runtimes gave the user to see.
func each(t *testing.T, test func(e *env)) {
	t.Helper()
	for _, engine := range engines {
		on(t, engine, test)
	}
}

func on(t *testing.T, engine *engine, test func(e *env)) {
	t.Helper()
	t.Run(engine.name, func(t *testing.T) {
		if missing := engine.missing(); missing != "" {
			t.Skipf("*** %s NOT TESTED: %s ***", engine.name, missing)
		}
		runtimes, err := harness.Runtimes()
		if err != nil {
			t.Fatal(err)
		}
		var all []*transcript
		for _, r := range runtimes {
			t.Run(r.Name, func(t *testing.T) {
				if r.Missing != "" {
					t.Skipf("*** %s NOT TESTED: %s ***", r.Name, r.Missing)
				}
				if err := engine.start(); err != nil {
					t.Fatal(err)
				}
				e := newEnv(t, engine, r)
				test(e)
				all = append(all, e.seen) // not of one that skips or fails
			})
		}
		if len(all) == 2 {
			all[0].compare(t, all[1])
		}
	})
}

func newEnv(t *testing.T, engine *engine, r harness.Runtime) *env {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	before := harness.Look(engine.watched()...)
	mark := engine.daemon.Mark()
	t.Cleanup(func() {
		if leaks := before.Leaks(15*time.Second, engine.excused); len(leaks) > 0 {
			t.Errorf("left behind:\n\t%s", strings.Join(leaks, "\n\t"))
		}
		if t.Failed() {
			t.Logf("containerd's log:\n%s", engine.daemon.Tail(mark))
		}
	})
	return &env{T: t, ctx: ctx, engine: engine, runtime: r, seen: &transcript{runtime: r.Name}}
}

func (e *env) docker() bool { return e.engine.name == docker.name }

// Must ends the test on an error.
func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

var serial atomic.Int64

// Dir is a new directory that everybody may enter, for the time of the test.
func (e *env) dir() string {
	e.Helper()
	dir := filepath.Join(harness.Dir, fmt.Sprint("t", serial.Add(1)))
	e.must(os.Mkdir(dir, 0o755))
	e.dirs = append(e.dirs, dir)
	e.Cleanup(func() { e.must(os.RemoveAll(dir)) })
	return dir
}

// Name is that of a container which is removed when the test is over; the same for
// every runtime, so that what is told of it can be compared.
func (e *env) name() string {
	e.names++
	name := fmt.Sprintf("c%dc", e.names) // a name must not be the start of another one: nerdctl takes it for that
	e.Cleanup(func() {
		if r := e.quietly("rm", "-f", "-v", name); r.code != 0 && !strings.Contains(strings.ToLower(r.err), "no such") {
			e.Errorf("rm -f %s: %+v", name, r)
		}
	})
	return name
}

type result struct {
	out, err string
	code     int
}

// Quietly types a command of which nobody compares the answer.
func (e *env) quietly(words ...string) result {
	e.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), 2*time.Minute)
	defer cancel()
	cmd := e.engine.command(ctx, words...)
	var out, warn bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &warn
	err := harness.Run(cmd)
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		e.Fatal(err)
	}
	return result{e.plain(out.String()), e.plain(warn.String()), cmd.ProcessState.ExitCode()}
}

// Do types a command.
func (e *env) do(words ...string) result {
	e.Helper()
	r := e.quietly(words...)
	e.seen.add(e.plain(strings.Join(words, " ")), r)
	return r
}

// Ok types a command that has to succeed, and returns what it printed.
func (e *env) ok(words ...string) string {
	e.Helper()
	r := e.do(words...)
	if r.code != 0 {
		e.Fatalf("%s: %+v", strings.Join(words, " "), r)
	}
	return strings.TrimSpace(r.out)
}

// Want types a command that has to print this, to stdout, and to succeed.
func (e *env) want(out string, words ...string) {
	e.Helper()
	if r := e.do(words...); r.code != 0 || strings.TrimSpace(r.out) != out {
		e.Errorf("%s: %+v, want %q", strings.Join(words, " "), r, out)
	}
}

// Fails types a command that has to fail so, with this in what it says.
func (e *env) fails(code int, say string, words ...string) {
	e.Helper()
	r := e.quietly(words...)
	e.seen.add(e.plain(strings.Join(words, " ")), result{out: r.out, code: r.code}) // each has its own words
	if r.code != code || !regexp.MustCompile(say).MatchString(r.err) {
		e.Errorf("%s: %+v, want code %d and %q", strings.Join(words, " "), r, code, say)
	}
}

// Run is "run" with the runtime under test.
func (e *env) run(words ...string) []string {
	return append([]string{"run", "--runtime", e.runtime.Type}, words...)
}

// Box is a container that does what testbox is told to, until it is removed.
func (e *env) box(flags string, words ...string) string {
	e.Helper()
	name := e.name()
	all := append(strings.Fields("-d --net none --name "+name+" "+flags), image)
	if len(words) == 0 {
		words = []string{"/bin/still"}
	}
	e.ok(e.run(append(all, words...)...)...)
	return name
}

// Eventually types a command until it prints this; there is no other way to wait for
// what an engine does on its own.
func (e *env) eventually(want string, words ...string) {
	e.Helper()
	var r result
	for e.ctx.Err() == nil {
		if r = e.quietly(words...); regexp.MustCompile(want).MatchString(strings.TrimSpace(r.out)) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	e.Fatalf("%s: %+v, want %q", strings.Join(words, " "), r, want)
}

// Transcript is what a user typed and saw.
type transcript struct {
	runtime string
	lines   []string
}

func (s *transcript) add(command string, r result) {
	s.lines = append(s.lines, "$ "+command)
	for text := range strings.Lines(r.out) {
		s.lines = append(s.lines, "out "+strings.TrimRight(text, "\n"))
	}
	for text := range strings.Lines(r.err) {
		if strings.HasPrefix(text, "time=") {
			continue // the engine's own log
		}
		s.lines = append(s.lines, "err "+strings.TrimRight(text, "\n"))
	}
	s.lines = append(s.lines, fmt.Sprint("code ", r.code))
}

func (s *transcript) compare(t *testing.T, other *transcript) {
	t.Helper()
	if slices.Equal(s.lines, other.lines) {
		return
	}
	command := ""
	for i := range max(len(s.lines), len(other.lines)) {
		a, b := line(s.lines, i), line(other.lines, i)
		if strings.HasPrefix(a, "$") && a == b {
			command = a
		}
		if a != b {
			t.Errorf("%s\n\t%s: %s\n\t%s: %s", command, s.runtime, a, other.runtime, b)
			if strings.HasPrefix(a, "$") || strings.HasPrefix(b, "$") {
				return // out of step
			}
		}
	}
}

func line(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}

// Plain is text without what is different every time, or has the runtime's name.
func (e *env) plain(text string) string {
	text = strings.ReplaceAll(text, e.runtime.Type, "RUNTIME")
	for _, dir := range e.dirs {
		text = strings.ReplaceAll(text, dir, "DIR")
	}
	return never.ReplaceAllString(unlike.ReplaceAllString(text, "ID"), "")
}

var (
	unlike = regexp.MustCompile(`\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b`)
	never  = regexp.MustCompile(`(?m)^ *"(SigQ|State|Threads|N?S?(pgid|pid|sid|tgid)|Pid|Tgid)": .*\n`) // of testbox's report
)
