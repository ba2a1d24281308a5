// Generate writes the profiles beside it: the defaults of containerd, Docker
// and Podman, as a runtime gets them for some sets of capabilities. It is run
// outside of the shim's module, which needs none of what it imports:
//
//	dir=$PWD; cp generate.go /tmp/empty; cd /tmp/empty; go mod init x
//	go get github.com/containerd/containerd/v2@v2.4.2 github.com/moby/profiles/seccomp@v0.3.0 && go mod tidy
//	apt-get download golang-github-containers-common; dpkg -x golang-github-containers-common*.deb podman
//	go run . $dir podman/usr/share/containers/seccomp.json
package main

import (
	"encoding/json"
	"log"
	"os"
	"path/filepath"
	"slices"

	containerd "github.com/containerd/containerd/v2/contrib/seccomp"
	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var capabilities = map[string][]string{
	"none": {},
	"default": {
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	},
	"admin": {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE"},
	"all": {
		"CAP_AUDIT_WRITE", "CAP_BPF", "CAP_DAC_READ_SEARCH", "CAP_PERFMON", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_BOOT",
		"CAP_SYS_CHROOT", "CAP_SYS_MODULE", "CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO",
		"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG",
	},
}

func main() {
	dir, podman := os.Args[1], &moby.Seccomp{}
	text, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	if err := json.Unmarshal(text, podman); err != nil {
		log.Fatal(err)
	}
	for name, caps := range capabilities {
		spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}}
		write(dir, "containerd-"+name, containerd.DefaultProfile(spec))
		for _, arch := range []struct {
			name, goarch string
			arch         specs.Arch
		}{{"x86_64", "amd64", specs.ArchX86_64}, {"aarch64", "arm64", specs.ArchAARCH64}} {
			write(dir, "docker-"+name+"-"+arch.name, resolve(moby.DefaultProfile(), caps, arch.goarch, arch.arch))
			write(dir, "podman-"+name+"-"+arch.name, resolve(podman, caps, arch.goarch, arch.arch))
		}
	}
}

// resolve is what Docker and Podman do, for an architecture that this is not
// running on too, and for a new kernel.
func resolve(p *moby.Seccomp, caps []string, goarch string, arch specs.Arch) *specs.LinuxSeccomp {
	out := p.LinuxSeccomp
	for _, a := range p.ArchMap {
		if a.Arch == arch {
			out.Architectures = append([]specs.Arch{a.Arch}, a.SubArches...)
		}
	}
	missing := func(want []string) bool {
		return slices.ContainsFunc(want, func(c string) bool { return !slices.Contains(caps, c) })
	}
	for _, s := range p.Syscalls {
		if e := s.Excludes; e != nil {
			if slices.Contains(e.Arches, goarch) || e.MinKernel != nil ||
				slices.ContainsFunc(e.Caps, func(c string) bool { return slices.Contains(caps, c) }) {
				continue
			}
		}
		if i := s.Includes; i != nil {
			if len(i.Arches) > 0 && !slices.Contains(i.Arches, goarch) || missing(i.Caps) {
				continue
			}
		}
		out.Syscalls = append(out.Syscalls, s.LinuxSyscall)
	}
	return &out
}

func write(dir, name string, p *specs.LinuxSeccomp) {
	text, err := json.Marshal(p)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".json"), append(text, '\n'), 0o644); err != nil {
		log.Fatal(err)
	}
}
