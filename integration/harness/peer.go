package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Peer is what a shim sees of containerd: somebody who makes bundles, calls
// its binary, listens to its events and speaks to its socket.
type Peer struct {
	Dir    string
	Events *Events
	Debug  bool
}

// NewPeer works in a directory name below Dir.
func NewPeer(name string) (*Peer, error) {
	p := &Peer{Dir: filepath.Join(Dir, name)}
	for _, dir := range []string{p.Dir, p.SocketDir(), p.bundles(), filepath.Join(p.Dir, "layers")} {
		if err := os.Mkdir(dir, 0o711); err != nil {
			return nil, err
		}
	}
	p.Events = &Events{path: p.ttrpcAddress()}
	return p, p.Events.Serve()
}

// Close ends the event server and removes the directory.
func (p *Peer) Close() error {
	return errors.Join(p.Events.Close(), os.RemoveAll(p.Dir))
}

// SocketDir is where shims are told to make their sockets.
func (p *Peer) SocketDir() string { return filepath.Join(p.Dir, "s") }

// GRPCAddress only names this containerd: nobody listens there.
func (p *Peer) GRPCAddress() string { return filepath.Join(p.Dir, "c.sock") }

func (p *Peer) ttrpcAddress() string { return filepath.Join(p.Dir, "c.sock.ttrpc") }
func (p *Peer) bundles() string      { return filepath.Join(p.Dir, "b") }

// Bundle is a container's directory as containerd makes it.
type Bundle struct {
	ID     string
	Dir    string
	Rootfs []*types.Mount // for Create
	Log    Buffer         // of the shim that was started in it

	peer *Peer
	log  *os.File
}

// NewBundle writes spec, unless that is nil, into a new bundle. Root is the
// directory which an overlay is put on, as a snapshotter does.
func (p *Peer) NewBundle(id string, spec *specs.Spec, root string) (*Bundle, error) {
	b := &Bundle{ID: id, Dir: filepath.Join(p.bundles(), id), peer: p}
	layers := filepath.Join(p.Dir, "layers", id)
	upper, work := filepath.Join(layers, "fs"), filepath.Join(layers, "work")
	for _, dir := range []string{b.Dir, filepath.Join(b.Dir, "rootfs"), layers, upper, work} {
		if err := os.Mkdir(dir, 0o711); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(upper, 0o755); err != nil { // it becomes the container's /
		return nil, err
	}
	b.Rootfs = []*types.Mount{{
		Type: "overlay", Source: "overlay",
		Options: []string{"index=off", "workdir=" + work, "upperdir=" + upper, "lowerdir=" + root},
	}}
	if spec != nil {
		data, err := json.Marshal(spec)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(b.Dir, "config.json"), data, 0o600); err != nil {
			return nil, err
		}
	}
	log := filepath.Join(b.Dir, "log")
	if err := unix.Mkfifo(log, 0o700); err != nil {
		return nil, err
	}
	// Open for both, as containerd does: the shim never finds it without a reader.
	f, err := os.OpenFile(log, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	b.log = f
	go func() { _, _ = io.Copy(&b.Log, f) }()
	return b, nil
}

// CloseLog stops reading the shim's log.
func (b *Bundle) CloseLog() error { return b.log.Close() }

// Remove deletes the bundle, after the shim's delete.
func (b *Bundle) Remove() error {
	if err := b.log.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return errors.Join(os.RemoveAll(filepath.Join(b.peer.Dir, "layers", b.ID)), os.RemoveAll(b.Dir))
}

// Spec is containerd's default spec for a container with this id, in the cgroup
// /Tag/id, as changed by opts.
func Spec(id string, opts ...oci.SpecOpts) (*specs.Spec, error) {
	ctx := namespaces.WithNamespace(context.Background(), Tag)
	all := append([]oci.SpecOpts{oci.WithDefaultPathEnv, oci.WithRootFSPath("rootfs")}, opts...)
	return oci.GenerateSpec(ctx, nil, &containers.Container{ID: id}, all...)
}

// Protocol is how a shim's start is told what it needs.
type Protocol int

// Containerd 2.3 and newer give BootstrapParams on stdin; before, there were
// flags and environment, with the runtime's options on stdin or nothing.
const (
	Bootstrap Protocol = iota
	LegacyOptions
	LegacyEmpty
)

// Call is one run of a shim's binary.
type Call struct {
	Runtime  Runtime
	Protocol Protocol
	Options  proto.Message // of the runtime; may be nil
	Env      []string      // on top of containerd's
}

// command has flags, environment and process attributes as containerd gives them.
func (p *Peer) command(ctx context.Context, c Call, b *Bundle, action string) *exec.Cmd {
	args := []string{"-namespace", Tag, "-address", p.GRPCAddress(), "-publish-binary", Bin("containerd"), "-id", b.ID}
	if action == "delete" {
		args = append(args, "-bundle", b.Dir)
	}
	if p.Debug {
		args = append(args, "-debug")
	}
	cmd := exec.CommandContext(ctx, c.Runtime.Shim, append(args, action)...)
	cmd.Dir = b.Dir
	cmd.Env = append(os.Environ(),
		"PATH="+filepath.Dir(c.Runtime.Shim)+":"+os.Getenv("PATH"),
		"GOMAXPROCS=2", "MAX_SHIM_VERSION=2",
		"TTRPC_ADDRESS="+p.ttrpcAddress(), "GRPC_ADDRESS="+p.GRPCAddress(), "NAMESPACE="+Tag)
	cmd.Env = append(cmd.Env, c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Shim is one that was started, and the connection to it.
type Shim struct {
	taskv3.TTRPCTaskService
	Pid     int
	Answer  *bootapi.BootstrapResult
	Plain   bool // the answer was an address and nothing else, as containerd 1.6 needs it
	Bundle  *Bundle
	Runtime Runtime

	client *ttrpc.Client
	pidfd  int
}

// Start runs the shim's start action and connects.
func (p *Peer) Start(ctx context.Context, c Call, b *Bundle) (*Shim, error) {
	answer, err := p.StartOnly(ctx, c, b)
	if err != nil {
		return nil, err
	}
	s := &Shim{Bundle: b, Runtime: c.Runtime}
	if s.Answer, s.Plain, err = parseAnswer(answer); err != nil {
		return nil, err
	}
	return s, s.connect(ctx)
}

// StartOnly runs the start action and returns what it printed, on stdout and
// stderr together as containerd reads it.
func (p *Peer) StartOnly(ctx context.Context, c Call, b *Bundle) ([]byte, error) {
	stdin, err := p.stdin(c, b)
	if err != nil {
		return nil, err
	}
	cmd := p.command(ctx, c, b, "start")
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &out
	if err := Run(cmd); err != nil {
		return nil, fmt.Errorf("%s start: %w: %s", filepath.Base(c.Runtime.Shim), err, out.String())
	}
	return out.Bytes(), nil
}

func (p *Peer) stdin(c Call, b *Bundle) ([]byte, error) {
	var options *anypb.Any
	if c.Options != nil {
		data, err := proto.Marshal(c.Options)
		if err != nil {
			return nil, err
		}
		options = &anypb.Any{TypeUrl: string(proto.MessageName(c.Options)), Value: data}
	}
	switch c.Protocol {
	case LegacyEmpty:
		return nil, nil
	case LegacyOptions:
		return proto.Marshal(options)
	}
	dir, level := p.SocketDir(), bootapi.LogLevel_LOG_LEVEL_INFO
	if p.Debug {
		level = bootapi.LogLevel_LOG_LEVEL_DEBUG
	}
	params := &bootapi.BootstrapParams{
		InstanceID: b.ID, Namespace: Tag, LogLevel: level, ContainerdVersion: "2.4.2",
		ContainerdTtrpcAddress: p.ttrpcAddress(), ContainerdGrpcAddress: p.GRPCAddress(), ContainerdBinary: Bin("containerd"),
		SocketDir: &dir,
	}
	if options != nil {
		if err := params.AddExtension(options); err != nil {
			return nil, err
		}
	}
	return proto.Marshal(params)
}

// ParseAnswer is containerd's, with what versions before 2.3 read instead.
func parseAnswer(answer []byte) (result *bootapi.BootstrapResult, plain bool, err error) {
	result = &bootapi.BootstrapResult{}
	if err := proto.Unmarshal(answer, result); err == nil {
		return result, false, nil
	}
	if !bytes.HasPrefix(answer, []byte("unix://")) {
		return nil, false, fmt.Errorf("start answered %q", answer)
	}
	return &bootapi.BootstrapResult{Version: 2, Address: string(answer), Protocol: "ttrpc"}, true, nil
}

func (s *Shim) connect(ctx context.Context) error {
	path, ok := strings.CutPrefix(s.Answer.Address, "unix://")
	if !ok || s.Answer.Protocol != "ttrpc" {
		return fmt.Errorf("start answered %v", s.Answer)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	s.client = ttrpc.NewClient(conn)
	s.TTRPCTaskService = s.Speak(s.Answer.Version)
	answer, err := s.Connect(ctx, &taskv3.ConnectRequest{ID: s.Bundle.ID})
	if err != nil {
		return fmt.Errorf("connect to %s: %w", path, err)
	}
	s.Pid = int(answer.ShimPid)
	if s.pidfd, err = unix.PidfdOpen(s.Pid, 0); err != nil {
		return fmt.Errorf("shim %d: %w", s.Pid, err)
	}
	return nil
}

// Signal reaches this shim and never another process with its number.
func (s *Shim) Signal(signal unix.Signal) error {
	return unix.PidfdSendSignal(s.pidfd, signal, nil, 0)
}

// Gone waits until the shim's process has ended.
func (s *Shim) Gone(ctx context.Context) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.pidfd), Events: unix.POLLIN}}, 100)
		if n == 1 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("shim %d doesn't end: %w", s.Pid, ctx.Err())
		}
	}
}

// Again is another connection to the same shim, as containerd makes one for
// each container of a pod.
func (s *Shim) Again(ctx context.Context) (*Shim, error) {
	other := &Shim{Answer: s.Answer, Bundle: s.Bundle, Runtime: s.Runtime}
	return other, other.connect(ctx)
}

// Disconnect closes the connection and leaves the shim alone.
func (s *Shim) Disconnect() error {
	return errors.Join(s.client.Close(), unix.Close(s.pidfd))
}

// Delete runs the shim's delete action, which containerd does on every removal
// of a container after the shim is gone. Stderr holds its warnings.
func (p *Peer) Delete(ctx context.Context, c Call, b *Bundle) (answer *taskv3.DeleteResponse, stderr string, err error) {
	cmd := p.command(ctx, c, b, "delete")
	var out, warn bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &warn
	if err := Run(cmd); err != nil {
		return nil, warn.String(), fmt.Errorf("%s delete: %w: %s", filepath.Base(c.Runtime.Shim), err, warn.String())
	}
	answer = &taskv3.DeleteResponse{}
	if err := proto.Unmarshal(out.Bytes(), answer); err != nil {
		return nil, warn.String(), fmt.Errorf("delete answered %q: %w", out.Bytes(), err)
	}
	return answer, warn.String(), nil
}
