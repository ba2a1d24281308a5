package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PauseImage is what the first container of a pod is made from, which holds the
// pod's namespaces.
const PauseImage = "docker.io/test/pause:latest"

// CriNamespace is containerd's for all of Kubernetes.
const criNamespace = "k8s.io"

// CriDirs are where the plugin keeps what belongs to a pod.
var criDirs = []string{
	"io.containerd.grpc.v1.cri/sandboxes", "io.containerd.grpc.v1.cri/containers",
	"io.containerd.grpc.v1.cri/netns", "io.containerd.grpc.v1.cri/image-volumes",
}

const (
	// Without CAP_SYS_RESOURCE nothing gets a lower oom_score_adj than containerd
	// has. An AppArmor profile would be loaded for the whole machine.
	criConfig = `[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '` + PauseImage + `'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  cdi_spec_dirs = []
  drain_exec_sync_io_timeout = '5s'
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['%[1]s-cni']
  conf_dir = '%[1]s-cni'
  use_internal_loopback = true
`
	// Each runtime is a handler of its name, one whose options say that systemd has
	// the cgroups, and one where it stands in for runc's shim in a configuration
	// that was written for that.
	criRuntime = `[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.%[1]s]
  runtime_type = '%[2]s'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.%[1]s-systemd]
  runtime_type = '%[2]s'
  options = { SystemdCgroup = true }
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.%[1]s-as-runc]
  runtime_type = 'io.containerd.runc.v2'
  runtime_path = '%[3]s'
  options = { SystemdCgroup = false }
`
	cniConfig = `{"cniVersion": "1.0.0", "name": "test", "plugins": [{"type": "cni"}]}`
)

// StartCRI starts one that a kubelet could ask for pods of both runtimes. It has
// the image of pause; a pod's network has an address by the word of testbox only.
func StartCRI(ctx context.Context, name, level string) (*Daemon, error) {
	cni := filepath.Join(Dir, name+"-cni")
	if err := errors.Join(
		os.Mkdir(cni, 0o755),
		os.Symlink(Bin("testbox"), filepath.Join(cni, "cni")),
		os.WriteFile(filepath.Join(cni, "test.conflist"), []byte(cniConfig), 0o644),
	); err != nil {
		return nil, err
	}
	text := config + criConfig + handlers(Myshim()) + handlers(Runc())
	d, err := startDaemon(ctx, &Daemon{namespace: criNamespace, bin: filepath.Dir(Bin("containerd")), level: level}, name, text)
	if err != nil {
		return nil, err
	}
	testbox, err := os.ReadFile(Bin("testbox"))
	if err == nil {
		pause := ocispec.ImageConfig{Cmd: []string{"/testbox", "pause"}}
		_, err = importImage(d.Context(ctx), d.Client, PauseImage, pause, Tree{{Path: "testbox", Mode: 0o755, Data: testbox}})
	}
	if err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return d, nil
}

func handlers(r Runtime) string { return fmt.Sprintf(criRuntime, r.Name, r.Type, r.Shim) }
