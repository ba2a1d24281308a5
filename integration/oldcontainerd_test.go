package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestOldContainerd has the same binary driven by Debian's containerd: 1.6 in
// Debian 12, 1.7 in 13, which know neither BootstrapParams nor version 3 of the
// task service. Runc's shim is the one of that package.
func TestOldContainerd(t *testing.T) {
	if _, err := os.Stat(filepath.Join(harness.OldContainerd(), "containerd")); err != nil {
		t.Skipf("*** OLD CONTAINERD NOT TESTED: %v (make tools) ***", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), perTest())
	defer cancel()
	d, err := harness.StartOldDaemon(ctx, "old", "debug")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	}()
	base, err := harness.Base()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := harness.ImportImage(d.Context(ctx), d.Client, baseImage, base); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]func(e *env){
		"ctr": func(e *env) {
			if r := e.ctr("version"); !strings.Contains(r.out, "1.6.") && !strings.Contains(r.out, "1.7.") {
				e.Errorf("%+v", r)
			}
			e.wantCtr(result{"hello\n", "", 0}, e.ctrRun("--rm", baseImage, newID())...)
			e.wantCtr(result{"out\n", "err\n", 3}, e.ctrRun("--rm", baseImage, newID(), "/bin/testbox", "all", "echo", "out", "--", "warn", "err", "--", "exit", "3")...)
		},
		"life": func(e *env) {
			b := e.launch(testbox("trap"), withSpec(oci.WithMemoryLimit(64<<20)))
			b.await("ready")
			if r := b.execRun([]string{"echo", "exec"}); r.out != "exec\n" {
				e.Errorf("%+v", r)
			}
			pids := int64(50)
			e.must(b.task.Update(e.ctx, client.WithResources(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}})))
			if got := b.cgroupFile("pids", "pids.max", "pids.max"); got != "50" {
				e.Errorf("pids.max %s", got)
			}
			if u, err := b.metrics(); err != nil || u.memoryLimit != 64<<20 {
				e.Errorf("metrics %+v, %v", u, err)
			}
			e.must(b.task.Pause(e.ctx))
			if s := b.state(); s != client.Paused {
				e.Errorf("paused, and %s", s)
			}
			e.must(b.task.Resume(e.ctx))
			b.kill(unix.SIGTERM)
			if r := b.end(); r.code != 0 || !strings.Contains(r.out, "SIGTERM") {
				e.Errorf("%+v", r)
			}
		},
		"missing program": func(e *env) {
			if _, err := e.tryRun(args("/bin/missing"), withIO(cio.NullIO)); err == nil || !strings.Contains(err.Error(), "/bin/missing") {
				e.Errorf("%v", err)
			}
		},
		"shim killed": func(e *env) {
			e.weakness("its socket stays when it is killed")
			b := e.launch(still())
			e.must(unix.Kill(b.shimPid(), unix.SIGKILL))
			e.gone(b)
		},
		"containerd killed": func(e *env) {
			b := e.launch(still())
			e.must(d.Kill())
			e.must(d.Start(e.ctx))
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				if s, err := b.task.Status(e.ctx); err == nil && s.Status == client.Running {
					break
				} else if time.Now().After(deadline) {
					e.Fatalf("after a restart: %v, %v", s, err)
				}
			}
			if r := b.execRun([]string{"echo", "exec"}); r.out != "exec\n" {
				e.Errorf("%+v", r)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			forRuntimes(t, func(t *testing.T, r harness.Runtime) { runOn(t, r, d, test) })
		})
	}
}

// Gone waits until containerd has cleaned up after a shim.
func (e *env) gone(b *box) {
	e.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := b.task.Delete(e.ctx, client.WithProcessKill)
		if err == nil || errdefs.IsNotFound(err) {
			return
		}
		if time.Now().After(deadline) {
			e.Fatalf("delete a task without its shim: %v", err)
		}
	}
}
