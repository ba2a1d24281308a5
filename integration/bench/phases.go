package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

type bench struct {
	runtimes []harness.Runtime
	peer     *harness.Peer
	daemon   *harness.Daemon
	root     string

	mu      sync.Mutex
	serial  int                           // guarded by mu
	samples map[string]map[string]samples // guarded by mu; by runtime and metric
}

const image = "bench/base:latest"

func newBench(runtimes []harness.Runtime) (*bench, error) {
	b := &bench{runtimes: runtimes, samples: map[string]map[string]samples{}, root: filepath.Join(harness.Dir, "root")}
	for _, r := range runtimes {
		b.samples[r.Name] = map[string]samples{}
	}
	base, err := harness.Base()
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(b.root, 0o755); err != nil {
		return nil, err
	}
	if err := base.Write(b.root); err != nil {
		return nil, err
	}
	if b.peer, err = harness.NewPeer("p"); err != nil {
		return nil, err
	}
	ctx, cancel := deadline()
	defer cancel()
	if b.daemon, err = harness.StartDaemon(ctx, "c", "info"); err != nil {
		return nil, err
	}
	_, err = harness.ImportImage(b.daemon.Context(ctx), b.daemon.Client, image, base)
	return b, err
}

func (b *bench) close() {
	if err := errors.Join(b.daemon.Stop(), b.peer.Close()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

func deadline() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}

func (b *bench) each(i int, f func(context.Context, harness.Runtime) error) error {
	for k := range b.runtimes {
		r := b.runtimes[(i+k)%len(b.runtimes)]
		time.Sleep(idle)
		ctx, cancel := deadline()
		err := f(ctx, r)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", r.Name, err)
		}
	}
	return nil
}

func (b *bench) add(runtime, metric string, value float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.samples[runtime][metric] = append(b.samples[runtime][metric], value)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (b *bench) id() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.serial++
	return fmt.Sprintf("%s-%d", harness.Tag, b.serial)
}

// Container is one in a shim, with a FIFO as its stdout.
type container struct {
	b      *bench
	r      harness.Runtime
	bundle *harness.Bundle
	shim   *harness.Shim
	stdout *os.File
}

func (b *bench) prepare(r harness.Runtime, program string, opts ...oci.SpecOpts) (*container, error) {
	id := b.id()
	spec, err := harness.Spec(id, append(opts, oci.WithProcessArgs(program))...)
	if err != nil {
		return nil, err
	}
	c := &container{b: b, r: r}
	if c.bundle, err = b.peer.NewBundle(id, spec, b.root); err != nil {
		return nil, err
	}
	if err := unix.Mkfifo(c.fifo(), 0o600); err != nil {
		return nil, err
	}
	c.stdout, err = os.OpenFile(c.fifo(), os.O_RDONLY|unix.O_NONBLOCK, 0)
	return c, err
}

// Beside the bundle, which has nothing else's files in it under containerd either.
func (c *container) fifo() string { return c.bundle.Dir + ".stdout" }

func (c *container) call() harness.Call {
	call := harness.Call{Runtime: c.r}
	if o := c.options(); o != nil {
		call.Options = o
	}
	return call
}

func (c *container) options() proto.Message {
	if c.r.Options == "" {
		return nil
	}
	return &runcoptions.Options{BinaryName: c.r.Options}
}

func (c *container) startShim(ctx context.Context) (err error) {
	c.shim, err = c.b.peer.Start(ctx, c.call(), c.bundle)
	return err
}

func (c *container) create(ctx context.Context) error {
	request := &taskv3.CreateTaskRequest{ID: c.bundle.ID, Bundle: c.bundle.Dir, Rootfs: c.bundle.Rootfs, Stdout: c.fifo(), Stderr: c.fifo()}
	if o := c.options(); o != nil {
		var err error
		if request.Options, err = anypb.New(o); err != nil {
			return err
		}
	}
	_, err := c.shim.Create(ctx, request)
	return errgrpc.ToNative(err)
}

func (c *container) start(ctx context.Context) error {
	_, err := c.shim.Start(ctx, &taskv3.StartRequest{ID: c.bundle.ID})
	return errgrpc.ToNative(err)
}

func (c *container) killAndWait(ctx context.Context) error {
	exited := make(chan error, 1)
	go func() {
		_, err := c.shim.Wait(ctx, &taskv3.WaitRequest{ID: c.bundle.ID})
		exited <- err
	}()
	_, err := c.shim.Kill(ctx, &taskv3.KillRequest{ID: c.bundle.ID, Signal: uint32(unix.SIGKILL)})
	return errgrpc.ToNative(errors.Join(err, <-exited))
}

func (c *container) delete(ctx context.Context) error {
	_, err := c.shim.Delete(ctx, &taskv3.DeleteRequest{ID: c.bundle.ID})
	return errgrpc.ToNative(err)
}

// Leave ends the shim and removes the bundle, as containerd does.
func (c *container) leave(ctx context.Context, deleteAction func() error) error {
	if _, err := c.shim.Shutdown(ctx, &taskv3.ShutdownRequest{ID: c.bundle.ID}); err != nil && !strings.Contains(err.Error(), "closed") {
		return err
	}
	if err := c.shim.Gone(ctx); err != nil {
		return err
	}
	return errors.Join(c.shim.Disconnect(), deleteAction(), c.remove())
}

func (c *container) remove() error {
	return errors.Join(c.stdout.Close(), os.Remove(c.fifo()), c.bundle.Remove())
}

func (c *container) end(ctx context.Context) error {
	return errors.Join(c.killAndWait(ctx), c.delete(ctx), c.leave(ctx, func() error { return nil }))
}

// Timed runs f after a pause and keeps how long it took.
func (c *container) timed(metric string, f func() error) error {
	time.Sleep(idle)
	started := time.Now()
	err := f()
	c.b.add(c.r.Name, metric, milliseconds(time.Since(started)))
	return err
}

// Phases of one container's life. From the start action to the first output
// nothing lies between, as under containerd; the rest is measured in quiet.
func (b *bench) phases(ctx context.Context, r harness.Runtime) error {
	c, err := b.prepare(r, "/bin/hello")
	if err != nil {
		return err
	}
	time.Sleep(idle)
	var at [5]time.Time
	at[0] = time.Now()
	if err := c.startShim(ctx); err != nil {
		return err
	}
	at[1] = time.Now()
	if err := c.create(ctx); err != nil {
		return err
	}
	at[2] = time.Now()
	if err := c.start(ctx); err != nil {
		return err
	}
	at[3] = time.Now()
	if err := c.stdout.SetReadDeadline(at[3].Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.ReadFull(c.stdout, make([]byte, len(harness.Ready))); err != nil {
		return fmt.Errorf("first output: %w", err)
	}
	at[4] = time.Now()
	for metric, between := range map[string][2]int{"shim_start": {0, 1}, "create": {1, 2}, "start": {2, 3}, "create_start": {1, 3}, "startup": {0, 4}} {
		b.add(r.Name, metric, milliseconds(at[between[1]].Sub(at[between[0]])))
	}
	return errors.Join(
		c.timed("exec", func() error { return c.exec(ctx) }),
		c.timed("kill_exit", func() error { return c.killAndWait(ctx) }),
		c.timed("delete", func() error { return c.delete(ctx) }),
		c.leave(ctx, func() error {
			return c.timed("delete_action", func() error {
				_, _, err := b.peer.Delete(ctx, c.call(), c.bundle)
				return err
			})
		}))
}

// Limited is a container with a limit of every kind that the machine has.
func (b *bench) limited(ctx context.Context, r harness.Runtime) error {
	c, err := b.prepare(r, "/bin/still", limits)
	if err != nil {
		return err
	}
	time.Sleep(idle)
	if err := c.startShim(ctx); err != nil {
		return err
	}
	started := time.Now()
	if err := c.create(ctx); err != nil {
		return err
	}
	if err := c.start(ctx); err != nil {
		return err
	}
	b.add(r.Name, limitedStart, milliseconds(time.Since(started)))
	return c.end(ctx)
}

func limits(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
	memory, reservation, quota, pids := int64(64<<20), int64(32<<20), int64(50_000), int64(100)
	shares, period := uint64(512), uint64(100_000)
	r := s.Linux.Resources // has the rules for devices
	r.Memory = &specs.LinuxMemory{Limit: &memory, Swap: &memory, Reservation: &reservation}
	r.CPU = &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period, Cpus: "0", Mems: "0"}
	r.Pids = &specs.LinuxPids{Limit: &pids}
	disks, err := filepath.Glob("/sys/block/*/dev")
	if err != nil || len(disks) == 0 {
		return err
	}
	number, err := os.ReadFile(disks[0])
	if err != nil {
		return err
	}
	rate := specs.LinuxThrottleDevice{Rate: 100 << 20}
	if _, err := fmt.Sscanf(string(number), "%d:%d", &rate.Major, &rate.Minor); err != nil {
		return fmt.Errorf("%s: %w", disks[0], err)
	}
	rates := []specs.LinuxThrottleDevice{rate}
	r.BlockIO = &specs.LinuxBlockIO{ThrottleReadBpsDevice: rates, ThrottleWriteBpsDevice: rates, ThrottleReadIOPSDevice: rates, ThrottleWriteIOPSDevice: rates}
	return nil
}

// Filtered is the part of a life that a seccomp profile makes longer.
func (b *bench) filtered(ctx context.Context, r harness.Runtime) error {
	c, err := b.prepare(r, "/bin/hello", seccomp.WithDefaultProfile())
	if err != nil {
		return err
	}
	time.Sleep(idle)
	if err := c.startShim(ctx); err != nil {
		return err
	}
	started := time.Now()
	if err := errors.Join(c.create(ctx), c.start(ctx)); err != nil {
		return err
	}
	b.add(r.Name, "seccomp_create_start", milliseconds(time.Since(started)))
	return errors.Join(c.timed("seccomp_exec", func() error { return c.exec(ctx) }), c.end(ctx))
}

func (c *container) exec(ctx context.Context) error {
	spec, err := json.Marshal(&specs.Process{Args: []string{"/bin/quick"}, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true})
	if err != nil {
		return err
	}
	const id = "exec"
	if _, err := c.shim.Exec(ctx, &taskv3.ExecProcessRequest{ID: c.bundle.ID, ExecID: id, Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: spec}}); err != nil {
		return err
	}
	if _, err := c.shim.Start(ctx, &taskv3.StartRequest{ID: c.bundle.ID, ExecID: id}); err != nil {
		return err
	}
	if _, err := c.shim.Wait(ctx, &taskv3.WaitRequest{ID: c.bundle.ID, ExecID: id}); err != nil {
		return err
	}
	_, err = c.shim.Delete(ctx, &taskv3.DeleteRequest{ID: c.bundle.ID, ExecID: id})
	return err
}

func (b *bench) runRm(ctx context.Context, r harness.Runtime) error {
	words := []string{"run", "--rm", "--runtime", r.Type}
	if r.Options != "" {
		words = append(words, "--runc-binary", r.Options)
	}
	cmd := b.daemon.Ctr(ctx, append(words, image, b.id(), "/bin/quick")...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	started := time.Now()
	if err := harness.Run(cmd); err != nil {
		return fmt.Errorf("ctr run: %w: %s", err, out.String())
	}
	b.add(r.Name, "run_rm", milliseconds(time.Since(started)))
	return nil
}

func (b *bench) parallel(ctx context.Context, r harness.Runtime) error {
	const n = 50
	containers := make([]*container, n)
	for i := range containers {
		var err error
		if containers[i], err = b.prepare(r, "/bin/still"); err != nil {
			return err
		}
	}
	errs := make(chan error, n)
	time.Sleep(idle)
	started := time.Now()
	for _, c := range containers {
		go func() {
			err := c.startShim(ctx)
			if err == nil {
				err = c.create(ctx)
			}
			if err == nil {
				err = c.start(ctx)
			}
			errs <- err
		}()
	}
	var err error
	for range n {
		err = errors.Join(err, <-errs)
	}
	b.add(r.Name, "parallel50", milliseconds(time.Since(started)))
	if err != nil {
		return err
	}
	for _, c := range containers {
		go func() { errs <- c.end(ctx) }()
	}
	for range n {
		err = errors.Join(err, <-errs)
	}
	return err
}

// Settled is the time after which a shim's memory is read: it has finished what
// it does after a start, nobody has asked it for anything since, and it has had
// the time to give back what it does not need while idle.
const settled = 4 * time.Second

func (b *bench) memory(ctx context.Context, r harness.Runtime) error {
	c, err := b.prepare(r, "/bin/still")
	if err != nil {
		return err
	}
	if err := errors.Join(c.startShim(ctx), c.create(ctx), c.start(ctx)); err != nil {
		return err
	}
	time.Sleep(settled)
	v, err := harness.ReadVitals(c.shim.Pid)
	if err != nil {
		return err
	}
	b.add(r.Name, "rss_idle", float64(v.RSS))
	b.add(r.Name, "pss_idle", float64(v.PSS))
	members := []*container{}
	for range 4 {
		m, err := b.prepare(r, "/bin/still")
		if err != nil {
			return err
		}
		if m.shim, err = c.shim.Again(ctx); err != nil {
			return err
		}
		if err := errors.Join(m.create(ctx), m.start(ctx)); err != nil {
			return err
		}
		members = append(members, m)
	}
	time.Sleep(settled)
	if v, err = harness.ReadVitals(c.shim.Pid); err != nil {
		return err
	}
	b.add(r.Name, "pss_pod5", float64(v.PSS))
	for _, m := range members {
		if err := errors.Join(m.killAndWait(ctx), m.delete(ctx), m.shim.Disconnect(), m.remove()); err != nil {
			return err
		}
	}
	return c.end(ctx)
}

// Floor asks bin/floor, which builds and starts the container of a bundle by
// the same system calls straight from the launch package, and prints the
// milliseconds that this took.
func (b *bench) floor() error {
	if b.samples["myshim"] == nil {
		return nil
	}
	if _, err := os.Stat(harness.Bin("floor")); err != nil {
		return nil // not built: the table says "-"
	}
	c, err := b.prepare(harness.Myshim(), "/bin/still")
	if err != nil {
		return err
	}
	time.Sleep(idle)
	ctx, cancel := deadline()
	defer cancel()
	mount := c.bundle.Rootfs[0]
	cmd := exec.CommandContext(ctx, harness.Bin("floor"), "-bundle", c.bundle.Dir, "-overlay", strings.Join(mount.Options, ","))
	var out, warn bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &warn
	if err := harness.Run(cmd); err != nil {
		return fmt.Errorf("floor: %w: %s", err, warn.String())
	}
	took, err := strconv.ParseFloat(strings.TrimSpace(out.String()), 64)
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	b.add("myshim", floor, took)
	return c.remove()
}
