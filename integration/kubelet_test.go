package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/myshim/myshim/integration/harness"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Kubelet asks containerd's CRI plugin for pods and their containers, with the
// calls that Kubernetes' kubelet makes, in the order in which it makes them.
type kubelet struct {
	*env
	cri.RuntimeServiceClient
	handler string // of a RuntimeClass
}

// EachCRI is each, with a kubelet.
func eachCRI(t *testing.T, test func(k *kubelet)) {
	t.Helper()
	forRuntimes(t, func(t *testing.T, r harness.Runtime) {
		d, err := shared.criContainerd()
		if err != nil {
			t.Fatal(err)
		}
		runOn(t, r, d, func(e *env) { test(e.kubelet()) })
	})
}

func (e *env) kubelet() *kubelet {
	e.Helper()
	if e.oracle() {
		e.needSeccomp() // containers have RuntimeDefault
	}
	conn := e.daemon.Client.Conn().(grpc.ClientConnInterface)
	k := &kubelet{e, cri.NewRuntimeServiceClient(conn), e.runtime.Name}
	images := cri.NewImageServiceClient(conn)
	for _, name := range []string{harness.PauseImage, baseImage} { // the plugin is told by an event
		k.until(name, func() bool {
			r, err := images.ImageStatus(k.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
			k.must(err)
			return r.Image != nil
		})
	}
	return k
}

// Until asks again and again, as kubelets do.
func (k *kubelet) until(what string, done func() bool) {
	k.Helper()
	for !done() {
		select {
		case <-k.ctx.Done():
			k.Fatalf("%s: %v", what, k.ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Pod is a sandbox with what its containers have in common.
type pod struct {
	*kubelet
	id       string
	config   *cri.PodSandboxConfig
	attempts map[string]uint32 // of containers, by name
}

type podOpt func(c *cri.PodSandboxConfig)

// RunPod makes the cgroup of a pod, and the pod in it. It has a network of its own
// and its containers have pid namespaces of theirs, unless opts say otherwise.
func (k *kubelet) runPod(opts ...podOpt) *pod {
	k.Helper()
	p, err := k.tryPod(opts...)
	k.must(err)
	if s := p.status(); s.State != cri.PodSandboxState_SANDBOX_READY {
		k.Errorf("the new pod is %v", s)
	}
	return p
}

func (k *kubelet) tryPod(opts ...podOpt) (*pod, error) {
	k.Helper()
	name := newID()
	p := &pod{kubelet: k, attempts: map[string]uint32{}, config: &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "test"},
		Hostname:     "pod",
		LogDirectory: k.dir(),
		DnsConfig:    &cri.DNSConfig{Servers: []string{"192.0.2.1"}},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: "/" + filepath.Join(harness.Tag, name),
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
				Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
			},
		},
	}}
	for _, o := range opts {
		o(p.config)
	}
	for _, root := range harness.Hierarchies() {
		group := filepath.Join(root, p.config.Linux.CgroupParent)
		if strings.HasSuffix(group, ".slice") { // it is systemd's
			continue
		}
		k.must(os.MkdirAll(group, 0o755))
		k.Cleanup(func() {
			if err := os.Remove(group); err != nil {
				k.Errorf("the cgroup of a pod: %v", err)
			}
		})
	}
	r, err := k.RunPodSandbox(k.ctx, &cri.RunPodSandboxRequest{Config: p.config, RuntimeHandler: k.handler})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	p.id = r.PodSandboxId
	k.afterTest(func(ctx context.Context) {
		_, err := k.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
		if err == nil {
			_, err = k.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
		}
		if err != nil {
			k.Errorf("the end of pod %s: %v", name, err)
		}
	})
	return p, nil
}

func (p *pod) status() *cri.PodSandboxStatus {
	p.Helper()
	r, err := p.PodSandboxStatus(p.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	p.must(err)
	return r.Status
}

// Stop can be called again, as remove can.
func (p *pod) stop() {
	p.Helper()
	_, err := p.StopPodSandbox(p.ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
	p.must(err)
}

func (p *pod) remove() {
	p.Helper()
	_, err := p.RemovePodSandbox(p.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
	p.must(err)
}

// Member is a container of a pod.
type member struct {
	*pod
	id     string
	config *cri.ContainerConfig
}

type memberOpt func(c *cri.ContainerConfig)

// The paths that the kubelet has masked and read-only unless procMount says otherwise.
var (
	kubeletMasked = []string{"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	kubeletReadonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// Create makes a container; one of a name that was there before is its next attempt.
func (p *pod) create(name string, command []string, opts ...memberOpt) *member {
	p.Helper()
	attempt := p.attempts[name]
	p.attempts[name]++
	c := &member{pod: p, config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name, Attempt: attempt},
		Image:    &cri.ImageSpec{Image: baseImage},
		Command:  command,
		LogPath:  fmt.Sprintf("%s.%d.log", name, attempt),
		Linux: &cri.LinuxContainerConfig{
			Resources: &cri.LinuxContainerResources{CpuPeriod: 100_000, CpuShares: 102},
			SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: p.config.Linux.SecurityContext.NamespaceOptions,
				MaskedPaths:      kubeletMasked,
				ReadonlyPaths:    kubeletReadonly,
				Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
			},
		},
	}}
	for _, o := range opts {
		o(c.config)
	}
	r, err := p.CreateContainer(p.ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, Config: c.config, SandboxConfig: p.config})
	p.must(err)
	c.id = r.ContainerId
	if s := c.status(); s.State != cri.ContainerState_CONTAINER_CREATED {
		p.Errorf("the new container is %v", s)
	}
	return c
}

func (c *member) start() error {
	_, err := c.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: c.id})
	return errgrpc.ToNative(err)
}

// Launch creates and starts, and compares the process with what its spec says.
func (p *pod) launch(name string, command []string, opts ...memberOpt) *member {
	p.Helper()
	c := p.create(name, command, opts...)
	p.must(c.start())
	if i := c.info(); i.Pid != 0 { // else it has ended
		if payload := p.payload(i.Pid, i.RuntimeSpec.Process); payload != nil {
			p.checkProcess(payload, i.RuntimeSpec)
		}
	}
	return c
}

// Info is what the plugin tells to whoever wants to know more.
type info struct {
	Pid         uint32
	RuntimeSpec *specs.Spec
}

func (c *member) info() info {
	c.Helper()
	r, err := c.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: c.id, Verbose: true})
	c.must(err)
	var i info
	c.must(json.Unmarshal([]byte(r.Info["info"]), &i))
	return i
}

func (c *member) status() *cri.ContainerStatus {
	c.Helper()
	r, err := c.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: c.id})
	c.must(err)
	return r.Status
}

// Exit is the container's status when it has ended.
func (c *member) exit() *cri.ContainerStatus {
	c.Helper()
	var s *cri.ContainerStatus
	c.until("the end of "+c.config.Metadata.Name, func() bool {
		s = c.status()
		return s.State == cri.ContainerState_CONTAINER_EXITED
	})
	return s
}

// Ended checks how.
func (c *member) ended(code int32, reason string) {
	c.Helper()
	s := c.exit()
	if s.ExitCode != code || s.Reason != reason || s.StartedAt < s.CreatedAt || s.FinishedAt < s.CreatedAt {
		c.Errorf("%s ended with %v, want %s with %d", c.config.Metadata.Name, s, reason, code)
	}
}

func (c *member) halt(timeout int64) {
	c.Helper()
	_, err := c.StopContainer(c.ctx, &cri.StopContainerRequest{ContainerId: c.id, Timeout: timeout})
	c.must(err)
}

func (c *member) remove() {
	c.Helper()
	_, err := c.RemoveContainer(c.ctx, &cri.RemoveContainerRequest{ContainerId: c.id})
	c.must(err)
}

// Exec runs a testbox as a probe does.
func (c *member) exec(words ...string) result {
	c.Helper()
	r, err := c.tryExec(c.ctx, 0, append([]string{"/bin/testbox"}, words...)...)
	c.must(err)
	return r
}

// Report is what a testbox in the container tells, by its names.
func (c *member) report(words ...string) facts {
	c.Helper()
	f := facts{}
	c.must(f.addJSON("", c.exec(words...).out))
	return f
}

func (c *member) tryExec(ctx context.Context, timeout int64, words ...string) (result, error) {
	r, err := c.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: c.id, Cmd: words, Timeout: timeout})
	if err != nil {
		return result{}, errgrpc.ToNative(err)
	}
	return result{string(r.Stdout), string(r.Stderr), int(r.ExitCode)}, nil
}

// Log is what the container has written, as kubectl logs shows it: each line of
// the file has a time, the stream's name and a tag before it.
func (c *member) log() string {
	c.Helper()
	data, err := os.ReadFile(filepath.Join(c.pod.config.LogDirectory, c.config.LogPath))
	c.must(err)
	var text strings.Builder
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(line, " ", 4)
		if len(fields) != 4 {
			c.Fatalf("a line of the log: %q", line)
		}
		text.WriteString(fields[1] + ": " + fields[3])
	}
	return text.String()
}

func (c *member) await(text string) {
	c.Helper()
	c.until(text+" in the log", func() bool { return strings.Contains(c.log(), text) })
}

// CgroupFile reads a file of the container's cgroup, by its names in v1 and v2.
func (c *member) cgroupFile(controller, v1, v2 string) string {
	c.Helper()
	path := filepath.Join("/sys/fs/cgroup", controller, c.pod.config.Linux.CgroupParent, c.id, v1)
	if unifiedOnly() {
		path = filepath.Join("/sys/fs/cgroup", c.pod.config.Linux.CgroupParent, c.id, v2)
	}
	data, err := os.ReadFile(path)
	c.must(err)
	return strings.TrimSpace(string(data))
}

// Box is a container of a pod, or the pod itself, as containerd's own clients see it.
func (k *kubelet) box(id string) *box {
	k.Helper()
	c, err := k.daemon.Client.LoadContainer(k.ctx, id)
	k.must(err)
	task, err := c.Task(k.ctx, cio.Load)
	k.must(err)
	return &box{c: c, task: task, proc: proc{e: k.env, Process: task}}
}
