package spec

import (
	"io/fs"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ipcSysctls are those under kernel that an ipc namespace has of its own.
var ipcSysctls = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
	"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
}

// checkSysctl lets through only what belongs to a namespace of the container:
// everything else under /proc/sys is the host's.
func checkSysctl(c *Container) error {
	for key, value := range c.Linux.Sysctl {
		field := "linux.sysctl[" + key + "]"
		needs := SysctlNamespace(key)
		switch {
		case strings.Contains(key+value, "\x00") || !fs.ValidPath(SysctlPath(key)):
			return Invalid(field, "that is no name of a sysctl")
		case dotted(key) == "kernel.hostname":
			return Invalid(field, "it conflicts with the field hostname")
		case needs == "":
			return Invalid(field, "it is not in a separate kernel namespace")
		case !c.Has(needs):
			return Invalid(field, "it needs a namespace of type %s, and linux.namespaces has none", needs)
		}
	}
	return nil
}

// SysctlNamespace is the kind of namespace that has a sysctl of its own, empty if
// there is none.
func SysctlNamespace(key string) specs.LinuxNamespaceType {
	name := dotted(key)
	switch {
	case slices.Contains(ipcSysctls, name), strings.HasPrefix(name, "fs.mqueue."):
		return specs.IPCNamespace
	case strings.HasPrefix(name, "net."):
		return specs.NetworkNamespace
	case strings.HasPrefix(name, "user."):
		return specs.UserNamespace
	case name == "kernel.domainname":
		return specs.UTSNamespace
	}
	return ""
}

// dotted is the name of a sysctl with dots between its parts. As in sysctl(8),
// the first of the two separators that occurs is the one between parts, and the
// other stands for itself: net/ipv4/conf/eth0.1/rp_filter is
// net.ipv4.conf.eth0/1.rp_filter.
func dotted(name string) string {
	i := strings.IndexAny(name, "./")
	if i < 0 || name[i] == '.' {
		return name
	}
	return swapSeparators(name)
}

// SysctlPath is the path of a sysctl below /proc/sys.
func SysctlPath(name string) string { return swapSeparators(dotted(name)) }

func swapSeparators(name string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}
