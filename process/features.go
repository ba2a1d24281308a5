package process

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/mounts/raw"
	"github.com/myshim/myshim/process/caps"
	"github.com/myshim/myshim/process/kernel"
	"github.com/myshim/myshim/process/plan"
	"github.com/myshim/myshim/process/seccomp"
	"github.com/myshim/myshim/process/spec"
)

// Features is what this runtime can do, in the words of the OCI
// (features-linux.md).
func Features() *features.Features {
	yes, no := true, false
	filters := seccomp.Features()
	if known, err := kernel.SeccompFlags(); err == nil {
		filters.SupportedFlags = seccomp.FlagNames(known)
	}
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks: []string{
			string(prestart), string(createRuntime), string(createContainer),
			string(startContainer), string(poststart), string(poststop),
		},
		MountOptions: mounts.OptionNames(),
		Linux: &features.Linux{
			Namespaces:   namespaceNames(),
			Capabilities: capabilityNames(),
			Cgroup:       &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &no, Rdma: &yes},
			Seccomp:      filters,
			Apparmor:     &features.Apparmor{Enabled: &yes},
			Selinux:      &features.Selinux{Enabled: &yes},
			IntelRdt:     &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MountExtensions: &features.MountExtensions{
				IDMap: &features.IDMap{Enabled: &yes},
			},
			NetDevices:   &features.NetDevices{Enabled: &yes},
			MemoryPolicy: memoryPolicy(),
		},
		PotentiallyUnsafeConfigAnnotations: []string{"org.systemd.property."}, // all that begin so
	}
}

func memoryPolicy() *features.MemoryPolicy {
	modes, flags := spec.MemoryPolicyNames()
	return &features.MemoryPolicy{Modes: modes, Flags: flags}
}

// Annotations are what containerd asks a runtime beside its Features: what of a
// root file system it need not mount itself. Since 2.4 it is told by the answer of
// `start`.
func Annotations() map[string]string {
	allowed := slices.Clone(raw.Types)
	for _, t := range raw.Transforms {
		allowed = append(allowed, t+"/*")
	}
	return map[string]string{"containerd.io/runtime-allow-mounts": strings.Join(allowed, ",")}
}

func namespaceNames() []string {
	var names []string
	for _, kind := range plan.Namespaces() {
		names = append(names, string(kind))
	}
	slices.Sort(names)
	return names
}

func capabilityNames() []string {
	var names []string
	for c := range caps.Last(caps.All()) + 1 {
		names = append(names, caps.Name(c))
	}
	return names
}
