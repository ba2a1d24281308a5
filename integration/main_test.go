// Package integration answers: does the built shim do what containerd and its
// users expect? Every test runs under myshim and under containerd's own shim
// with runc, on which it has to pass first.
//
//	go run ./tools/build && go test .                  # both, whatever is built
//	MYSHIM_RUNTIME=runc go test -run TestLifeCycle .   # only the yardstick
//	go test -long .                                    # with the full counts of the endurance tests
package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/myshim/myshim/integration/harness"
)

var long = flag.Bool("long", false, "the endurance tests' full counts")

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Println("\n*** integration tests SKIPPED: they start containers and need root ***")
		os.Exit(0)
	}
	os.Exit(harness.Main(func() int {
		before := harness.Look()
		code := m.Run()
		if err := shared.close(); err != nil {
			fmt.Println("close:", err)
			code = 1
		}
		if leaks := before.Leaks(5*time.Second, func(string) bool { return false }); len(leaks) > 0 {
			fmt.Printf("left behind by the whole run:\n\t%s\n", strings.Join(leaks, "\n\t"))
			code = 1
		}
		return code
	}))
}

// Shared by all tests of a run, made by the first that asks.
var shared resources

type resources struct {
	daemon, cri sharedDaemon

	rootOnce sync.Once
	root     string
	rootErr  error
}

type sharedDaemon struct {
	once   sync.Once
	daemon *harness.Daemon
	err    error
}

func (s *sharedDaemon) get(name string, start starter) (*harness.Daemon, error) {
	s.once.Do(func() { s.daemon, s.err = newDaemon(name, start) })
	return s.daemon, s.err
}

func (s *sharedDaemon) stop() error {
	if s.daemon == nil {
		return nil
	}
	return s.daemon.Stop()
}

func (r *resources) containerd() (*harness.Daemon, error) {
	return r.daemon.get("c", harness.StartDaemon)
}

// CriContainerd serves Kubernetes.
func (r *resources) criContainerd() (*harness.Daemon, error) {
	return r.cri.get("k", harness.StartCRI)
}

type starter func(ctx context.Context, name, level string) (*harness.Daemon, error)

// NewDaemon has the base image.
func newDaemon(name string, start starter) (*harness.Daemon, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d, err := start(ctx, name, "debug")
	if err != nil {
		return nil, err
	}
	base, err := harness.Base()
	if err != nil {
		return nil, err
	}
	_, err = harness.ImportImage(d.Context(ctx), d.Client, baseImage, base)
	return d, err
}

// BaseRoot is the base tree as a directory, for tests that do without containerd.
func (r *resources) baseRoot() (string, error) {
	r.rootOnce.Do(func() {
		var base harness.Tree
		if base, r.rootErr = harness.Base(); r.rootErr != nil {
			return
		}
		r.root = filepath.Join(harness.Dir, "base")
		if r.rootErr = os.Mkdir(r.root, 0o755); r.rootErr == nil {
			r.rootErr = base.Write(r.root)
		}
	})
	return r.root, r.rootErr
}

func (r *resources) close() error { return errors.Join(r.daemon.stop(), r.cri.stop()) }

const baseImage = "docker.io/test/base:latest" // in full, as CRI wants it

// Patience is a factor for time limits on slow machines, as virtual ones without
// hardware support are: MYSHIM_PATIENCE.
func patience() int {
	if factor, err := strconv.Atoi(os.Getenv("MYSHIM_PATIENCE")); err == nil {
		return factor
	}
	return 1
}

// PerTest bounds every test; a healthy one takes a few seconds.
func perTest() time.Duration {
	limit := time.Minute
	if *long {
		limit = 20 * time.Minute
	}
	return limit * time.Duration(patience())
}

// Env is what a test has: one runtime, and a containerd or a peer.
type env struct {
	*testing.T
	ctx     context.Context // bounded, in containerd's namespace
	runtime harness.Runtime
	daemon  *harness.Daemon
	image   client.Image
	excuses []string // of the oracle only: parts of the names of what it leaves behind
}

// Each runs test as a subtest for every runtime, under the shared containerd.
// Nothing may be left after it.
func each(t *testing.T, test func(e *env)) {
	t.Helper()
	forRuntimes(t, func(t *testing.T, r harness.Runtime) {
		d, err := shared.containerd()
		if err != nil {
			t.Fatal(err)
		}
		runOn(t, r, d, test)
	})
}

func forRuntimes(t *testing.T, test func(t *testing.T, r harness.Runtime)) {
	t.Helper()
	runtimes, err := harness.Runtimes()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range runtimes {
		t.Run(r.Name, func(t *testing.T) {
			if r.Missing != "" {
				t.Skipf("*** %s NOT TESTED: %s ***", r.Name, r.Missing)
			}
			test(t, r)
		})
	}
}

func runOn(t *testing.T, r harness.Runtime, d *harness.Daemon, test func(e *env)) {
	t.Helper()
	e := newEnv(t, r, d.Watched()...)
	e.daemon = d
	e.ctx = d.Context(e.ctx)
	mark := d.Mark()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's log:\n%s", d.Tail(mark))
		}
	})
	var err error
	if e.image, err = d.Client.GetImage(e.ctx, baseImage); err != nil {
		t.Fatal(err)
	}
	test(e)
}

// NewEnv checks for leaks after everything that the test cleans up.
func newEnv(t *testing.T, r harness.Runtime, watch ...string) *env {
	t.Helper()
	e := &env{T: t, runtime: r}
	before := harness.Look(watch...)
	t.Cleanup(func() {
		if leaks := before.Leaks(15*time.Second, e.excused); len(leaks) > 0 {
			t.Errorf("left behind:\n\t%s", strings.Join(leaks, "\n\t"))
		}
	})
	var cancel context.CancelFunc
	e.ctx, cancel = context.WithTimeout(context.Background(), perTest())
	t.Cleanup(cancel)
	return e
}

// OwnDaemon runs test for every runtime under a containerd of its own, which
// it may kill.
func ownDaemon(t *testing.T, test func(e *env)) {
	t.Helper()
	forRuntimes(t, func(t *testing.T, r harness.Runtime) {
		d, err := newDaemon(fmt.Sprint("d", serial.Add(1)), harness.StartDaemon)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Stop(); err != nil {
				t.Error(err)
			}
		})
		t.Run("own containerd", func(t *testing.T) { runOn(t, r, d, test) }) // ends, with its check for leaks, before the daemon does
	})
}

var serial atomic.Int64

// ID is new, and starts with the run's Tag.
func newID() string { return fmt.Sprintf("%s-%d", harness.Tag, serial.Add(1)) }

// Dir is a new directory that everybody may enter, for the time of the test.
func (e *env) dir() string {
	e.Helper()
	dir := filepath.Join(harness.Dir, fmt.Sprint("t", serial.Add(1)))
	e.must(os.Mkdir(dir, 0o755))
	e.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			e.Error(err)
		}
	})
	return dir
}

// AfterTest runs f when the test is over, with a context that is still good when
// the test ran out of time.
func (e *env) afterTest(f func(ctx context.Context)) {
	e.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(e.ctx), time.Minute)
		defer cancel()
		f(ctx)
	})
}

// Must ends the test on an error.
func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// Oracle tells that the runtime is the one to compare with.
func (e *env) oracle() bool { return e.runtime.Name == harness.Oracle }

// Weakness skips what containerd's own shim does badly.
func (e *env) weakness(why string) {
	e.Helper()
	if e.oracle() {
		e.Skip("containerd-shim-runc-v2 cannot pass: " + why)
	}
}

// OracleLeaves excuses the runc shim, and nobody else, for what it leaves.
func (e *env) oracleLeaves(part, why string) {
	if e.oracle() {
		e.Logf("may leave %s behind: %s", part, why)
		e.excuses = append(e.excuses, part)
	}
}

func (e *env) excused(leak string) bool {
	return slices.ContainsFunc(e.excuses, func(part string) bool { return strings.Contains(leak, part) })
}

// WrongState checks the error of a call that the state forbids. The runc shim
// answers with plain errors, which arrive with the code Unknown.
func (e *env) wrongState(what string, err error) {
	e.Helper()
	if err == nil || !errdefs.IsFailedPrecondition(err) && !e.oracle() {
		e.Errorf("%s: %v, want a failed precondition", what, err)
	}
}

// Count is of iterations: n in every run, full with -long.
func count(n, full int) int {
	if *long {
		return full
	}
	return n
}
