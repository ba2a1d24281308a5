package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/myshim/myshim/integration/harness"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// SocketName is where containerd's tools expect a shim's socket.
func socketName(dir, grpcAddress, id string) string {
	return filepath.Join(dir, fmt.Sprintf("%x", sha256.Sum256([]byte(filepath.Join(grpcAddress, harness.Tag, id)))))
}

func TestBootstrap(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.shim(testbox("exit", "0"))
		want := "unix://" + socketName(s.peer.SocketDir(), s.peer.GRPCAddress(), c.id)
		if c.Plain || c.Answer.Version != 3 || c.Answer.Protocol != "ttrpc" || c.Answer.Address != want {
			s.Errorf("answer %v (plain: %v), want version 3 at %s", c.Answer, c.Plain, want)
		}
		info, err := os.Stat(strings.TrimPrefix(want, "unix://"))
		s.must(err)
		if info.Mode().Type() != fs.ModeSocket || info.Mode().Perm() != 0o600 {
			s.Errorf("socket has mode %v", info.Mode())
		}
		c.launch()
		c.finish()
		if _, err := os.Stat(strings.TrimPrefix(want, "unix://")); !errors.Is(err, fs.ErrNotExist) {
			s.Errorf("socket of a shim that has ended: %v", err)
		}
	})
}

// Containerd before 2.3 gives flags, environment and the bare options, and can
// read no protobuf; 1.6 reads a bare address only.
func TestBootstrapLegacy(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("since 2.3 it refuses the old protocol")
		for name, call := range map[string]harness.Call{
			"nothing on stdin":       {Protocol: harness.LegacyEmpty},
			"options on stdin":       {Protocol: harness.LegacyOptions, Options: &runcoptions.Options{IoUid: 1, BinaryName: "runc"}},
			"other options on stdin": {Protocol: harness.LegacyOptions, Options: &runtimeoptions.Options{TypeUrl: "x", ConfigBody: []byte("Root = \"/run\"")}},
		} {
			call.Runtime = s.runtime
			c := s.shimBy(call, testbox("exit", "5"))
			if !c.Plain {
				s.Errorf("%s: answer %v", name, c.Answer)
			}
			s.must(c.create())
			s.must(c.start(""))
			if exit, err := c.wait(""); err != nil || exit.ExitStatus != 5 {
				s.Errorf("%s: %v, %v", name, exit, err)
			}
			c.finish()
		}
	})
}

// A start without a config.json is what a sandbox gets.
func TestStartWithoutConfig(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("its start reads config.json")
		b, _ := s.bundle(still())
		s.must(os.Remove(filepath.Join(b.Dir, "config.json")))
		shim, err := s.peer.Start(s.ctx, s.call(), b)
		s.must(err)
		c := &task{Shim: shim, s: s, id: b.ID}
		s.must(c.shutdown())
		s.must(c.Gone(s.ctx))
		s.must(c.Disconnect())
	})
}

// A socket that nobody listens on any more doesn't hinder a start.
func TestStaleSocket(t *testing.T) {
	eachPeer(t, func(s *stage) {
		b, _ := s.bundle(still())
		path := socketName(s.peer.SocketDir(), s.peer.GRPCAddress(), b.ID)
		l, err := net.Listen("unix", path)
		s.must(err)
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		s.must(l.Close())
		shim, err := s.peer.Start(s.ctx, s.call(), b)
		s.must(err)
		c := &task{Shim: shim, s: s, id: b.ID}
		s.must(c.shutdown())
		s.must(c.Gone(s.ctx))
		s.must(c.Disconnect())
	})
}

var groupings = []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}

// Containers with the same group share a shim: start answers with its address.
func TestGrouping(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.oracleLeaves("/s/", "it removes the socket by its id's name, not by its group's")
		for _, annotation := range groupings {
			group := func(name string) opt {
				return withSpec(oci.WithAnnotations(map[string]string{annotation: name}))
			}
			name := newID()
			first := s.launch(still(), group(name))
			for range 3 {
				b, set := s.bundle(testbox("exit", "0"), group(name))
				shim, err := s.peer.Start(s.ctx, s.call(), b)
				s.must(err)
				if shim.Pid != first.Pid || shim.Answer.Address != first.Answer.Address {
					s.Errorf("%s: another shim, %d at %s", annotation, shim.Pid, shim.Answer.Address)
				}
				m := &task{Shim: shim, s: s, id: b.ID, setup: set, member: true}
				m.launch()
				_, err = m.wait("")
				s.must(err)
				_, err = m.delete("")
				s.must(err)
				m.streams.close()
				s.must(m.Disconnect())
			}
			other := s.launch(still(), group(newID()))
			if other.Pid == first.Pid {
				s.Errorf("%s: another group has the same shim", annotation)
			}
		}
	})
}

// The daemon holds on to nothing of the helper that started it.
func TestShimProcess(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		vitals, err := harness.ReadVitals(c.Pid)
		s.must(err)
		for _, fd := range vitals.FDs {
			number, target, _ := strings.Cut(fd, " ")
			if (number == "0" || number == "1") && target != "/dev/null" {
				s.Errorf("descriptor %s of the shim is %s", number, target)
			}
		}
		if group, err := unix.Getpgid(c.Pid); err != nil || group == unix.Getpgrp() {
			s.Errorf("process group %d: %v", group, err)
		}
		if cwd := (procFS{dir: fmt.Sprint("/proc/", c.Pid)}).link("cwd"); cwd != c.Bundle.Dir && cwd != "/" {
			s.Errorf("working directory %s", cwd)
		}
		own, err := strconv.Atoi(strings.TrimSpace(procFS{dir: "/proc/self"}.read("oom_score_adj")))
		s.must(err)
		if got := strings.TrimSpace(procFS{dir: fmt.Sprint("/proc/", c.Pid)}.read("oom_score_adj")); got != strconv.Itoa(own+1) {
			s.Errorf("oom_score_adj %s, want containerd's %d and one more", got, own)
		}
	})
}

// A signal to the shim leaves its containers alone.
func TestShimSignals(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(still())
		harmless := []unix.Signal{unix.SIGPIPE, unix.SIGUSR1, unix.SIGHUP}
		if s.oracle() {
			harmless = harmless[:2] // SIGHUP ends it
		}
		for _, signal := range harmless {
			s.must(c.Signal(signal))
			if _, err := c.state(""); err != nil {
				s.Fatalf("after signal %d: %v", int(signal), err)
			}
		}
		n, err := harness.Goroutines(s.ctx, c.Pid, &c.Bundle.Log)
		s.must(err)
		if n == 0 {
			s.Error("no goroutines in the dump")
		}
	})
}

// Options that containerd sends with the bootstrap: the shim's own cgroup.
func TestShimCgroup(t *testing.T) {
	eachPeer(t, func(s *stage) {
		path := "/" + harness.Tag + "/" + newID()
		var made []string
		for _, root := range harness.Hierarchies() {
			dir := root + path
			s.must(os.MkdirAll(dir, 0o755))
			made = append(made, dir)
			if strings.HasSuffix(root, "cpuset") {
				s.must(populateCpuset(root, path))
			}
		}
		s.Cleanup(func() {
			for _, dir := range made {
				if err := os.Remove(dir); err != nil {
					s.Error(err)
				}
			}
		})
		call := s.call()
		call.Options = &runcoptions.Options{ShimCgroup: path}
		c := s.shimBy(call, still())
		lines := strings.Split(strings.TrimSpace(procFS{dir: fmt.Sprint("/proc/", c.Pid)}.read("cgroup")), "\n")
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasSuffix(l, ":"+path) }) {
			s.Errorf("the shim's cgroups: %q", lines)
		}
		s.must(c.shutdown())
		s.must(c.Gone(s.ctx))
	})
}

// On v1, a cpuset without CPUs and memory takes no processes.
func populateCpuset(root, path string) error {
	dir := root
	for _, name := range strings.Split(strings.Trim(path, "/"), "/") {
		parent := dir
		dir = filepath.Join(dir, name)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(parent, file))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), value, 0o644)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// ShimCommand runs the shim's binary as containerd or a user does.
func shimCommand(ctx context.Context, e *env, stdin []byte, credential *syscall.Credential, args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, e.runtime.Shim, args...)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(e.runtime.Shim)+":"+os.Getenv("PATH"))
	cmd.Dir = "/"
	var out, warn bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &warn
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	err = harness.Run(cmd)
	return out.String(), warn.String(), err
}

func TestInfo(t *testing.T) {
	forRuntimes(t, func(t *testing.T, r harness.Runtime) {
		e := newEnv(t, r)
		options, err := proto.Marshal(&anypb.Any{TypeUrl: "containerd.runc.v1.Options"})
		e.must(err)
		strange, err := proto.Marshal(&anypb.Any{TypeUrl: "example.com/strange.Options", Value: []byte("\xff\xff")})
		e.must(err)
		for name, stdin := range map[string][]byte{"no": nil, "runc's": options, "strange": strange} {
			if name == "strange" && e.oracle() {
				continue // it must know the type
			}
			for _, who := range []*syscall.Credential{nil, {Uid: 65534, Gid: 65534}} {
				out, warn, err := shimCommand(e.ctx, e, stdin, who, "-info")
				if err != nil {
					e.Fatalf("%s options, %+v: %v: %s", name, who, err, warn)
				}
				var info types.RuntimeInfo
				e.must(proto.Unmarshal([]byte(out), &info))
				if info.Name != e.runtime.Type || info.Features.GetTypeUrl() != "types.containerd.io/opencontainers/runtime-spec/1/features/Features" {
					e.Errorf("info %v", &info)
				}
				var f features.Features
				e.must(json.Unmarshal(info.Features.GetValue(), &f))
				if !slices.Contains(f.MountOptions, "rro") || f.Linux == nil || !slices.Contains(f.Linux.Namespaces, "user") {
					e.Errorf("features %s", info.Features.GetValue())
				}
				if f.Linux.MountExtensions == nil || f.Linux.MountExtensions.IDMap == nil || !*f.Linux.MountExtensions.IDMap.Enabled {
					e.Errorf("no idmap in %s: CRI would refuse user namespaces", info.Features.GetValue())
				}
				if !slices.Contains(f.PotentiallyUnsafeConfigAnnotations, "org.systemd.property.") {
					e.Errorf("nothing of annotations that reach systemd in %s", info.Features.GetValue())
				}
			}
		}
	})
}

func TestVersion(t *testing.T) {
	forRuntimes(t, func(t *testing.T, r harness.Runtime) {
		e := newEnv(t, r)
		for _, flag := range []string{"-v", "-version", "--version"} {
			out, warn, err := shimCommand(e.ctx, e, nil, &syscall.Credential{Uid: 65534, Gid: 65534}, flag)
			if err != nil || warn != "" || !strings.Contains(out, filepath.Base(e.runtime.Shim)) || !strings.Contains(out, "go1.") {
				e.Errorf("%s: %q, %q, %v", flag, out, warn, err)
			}
		}
	})
}

// What is missing on the command line is said, not guessed.
func TestBadCommandLine(t *testing.T) {
	forRuntimes(t, func(t *testing.T, r harness.Runtime) {
		e := newEnv(t, r)
		for name, args := range map[string][]string{
			"no namespace":    {"-id", newID(), "-address", "/nowhere", "start"},
			"delete likewise": {"-id", newID(), "-address", "/nowhere", "delete"},
		} {
			out, warn, err := shimCommand(e.ctx, e, nil, nil, args...)
			if err == nil || !strings.Contains(out+warn, "namespace") {
				e.Errorf("%s: %q, %q, %v", name, out, warn, err)
			}
		}
	})
}

// Delete runs on every removal of a container, mostly with nothing to do.
func TestDeleteAction(t *testing.T) {
	eachPeer(t, func(s *stage) {
		bare, _ := s.bundle(still())
		s.must(os.Remove(filepath.Join(bare.Dir, "config.json")))
		broken, _ := s.bundle(still())
		s.must(os.WriteFile(filepath.Join(broken.Dir, "config.json"), []byte("{"), 0o600))
		whole, _ := s.bundle(still())
		for name, b := range map[string]*harness.Bundle{"without config.json": bare, "with a broken one": broken, "never created": whole} {
			for range 2 {
				answer, warn, err := s.peer.Delete(s.ctx, s.call(), b)
				if err != nil {
					s.Fatalf("%s: %v", name, err)
				}
				if answer.ExitedAt == nil || answer.ExitStatus == 0 {
					s.Errorf("%s: answer %v, want an exit that wasn't good", name, answer)
				}
				if warn != "" && !s.oracle() {
					s.Errorf("%s: warnings %q", name, warn)
				}
			}
		}
	})
}

// After a good life, delete finds nothing to do, and must not undo others' work.
func TestDeleteActionAfterLife(t *testing.T) {
	eachPeer(t, func(s *stage) {
		c := s.launch(testbox("exit", "4"))
		c.finish()
		neighbour := s.launch(still())
		_, warn, err := s.peer.Delete(s.ctx, s.call(), c.Bundle)
		if err != nil || warn != "" && !s.oracle() {
			s.Errorf("delete: %v, %q", err, warn)
		}
		if _, err := neighbour.state(""); err != nil {
			s.Errorf("the neighbour: %v", err)
		}
	})
}

// Delete of one member leaves a living pod alone.
func TestDeleteActionInLivingPod(t *testing.T) {
	eachPeer(t, func(s *stage) {
		first := s.launch(still())
		m := first.newMember(still())
		m.launch()
		s.must(m.kill("", unix.SIGKILL))
		_, err := m.wait("")
		s.must(err)
		_, err = m.delete("")
		s.must(err)
		_, _, err = s.peer.Delete(s.ctx, s.call(), m.Bundle)
		s.must(err)
		if _, err := first.state(""); err != nil {
			s.Errorf("the pod's other container: %v", err)
		}
	})
}

// Delete of the only container ends a shim which nobody shuts down.
func TestDeleteActionEndsShim(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("delete leaves a living daemon behind")
		c := s.launch(still())
		_, _, err := s.peer.Delete(s.ctx, s.call(), c.Bundle)
		s.must(err)
		s.must(c.Gone(s.ctx))
	})
}

func TestUnknownFlag(t *testing.T) {
	eachPeer(t, func(s *stage) {
		s.weakness("an unknown flag is fatal")
		out, warn, err := shimCommand(s.ctx, s.env, nil, nil, "-new-in-containerd-3", "x", "-v")
		if err != nil {
			s.Errorf("%q, %q, %v", out, warn, err)
		}
	})
}
