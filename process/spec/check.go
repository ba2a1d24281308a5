package spec

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func checkTop(c *Container) error {
	if v := c.Version; !strings.HasPrefix(v, "1.") {
		return Invalid("ociVersion", "%q is not a version 1.x", v)
	}
	for _, name := range []struct {
		field, value string
	}{{"hostname", c.Hostname}, {"domainname", c.Domainname}} {
		switch {
		case name.value == "":
		case !c.Has(specs.UTSNamespace):
			return Invalid(name.field, "it needs a uts namespace, and linux.namespaces has none")
		case len(name.value) > 64:
			return Invalid(name.field, "%d bytes are more than 64", len(name.value))
		case strings.Contains(name.value, "\x00"):
			return Invalid(name.field, "there is a NUL in it")
		}
	}
	return nil
}

func checkRoot(c *Container) error {
	if c.Root == nil || c.Root.Path == "" {
		return Invalid("root.path", "it is missing")
	}
	if strings.Contains(c.Root.Path, "\x00") {
		return Invalid("root.path", "there is a NUL in it")
	}
	c.Rootfs = absolute(c.Root.Path, c.Bundle)
	return nil
}

func absolute(path, dir string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// knownNamespaces are the namespaces that Linux has.
var knownNamespaces = []specs.LinuxNamespaceType{
	specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
	specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace,
}

func checkNamespaces(c *Container) error {
	seen := map[specs.LinuxNamespaceType]bool{}
	for i, ns := range c.Linux.Namespaces {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		switch {
		case !slices.Contains(knownNamespaces, ns.Type):
			return Invalid(field+".type", "there is no namespace %q", ns.Type)
		case seen[ns.Type]:
			return Invalid(field+".type", "%q is there twice", ns.Type)
		case ns.Path != "" && !filepath.IsAbs(ns.Path):
			return Invalid(field+".path", "%q is not an absolute path", ns.Path)
		case strings.Contains(ns.Path, "\x00"):
			return Invalid(field+".path", "there is a NUL in it")
		}
		seen[ns.Type] = true
	}
	user := c.Namespace(specs.UserNamespace)
	mappings := len(c.Linux.UIDMappings)+len(c.Linux.GIDMappings) > 0
	switch {
	case user == nil && mappings:
		return Invalid("linux.uidMappings", "they need a user namespace, and linux.namespaces has none")
	case user != nil && user.Path == "" && len(c.Linux.UIDMappings) == 0:
		return Invalid("linux.uidMappings", "a new user namespace needs some")
	case user != nil && user.Path == "" && len(c.Linux.GIDMappings) == 0:
		return Invalid("linux.gidMappings", "a new user namespace needs some")
	case user != nil && !c.Has(specs.MountNamespace):
		return Invalid("linux.namespaces", "a user namespace needs a mount namespace too: in the host's it may not mount anything")
	}
	for _, m := range []struct {
		field string
		list  []specs.LinuxIDMapping
	}{{"linux.uidMappings", c.Linux.UIDMappings}, {"linux.gidMappings", c.Linux.GIDMappings}} {
		if err := checkMappings(m.field, m.list); err != nil {
			return err
		}
	}
	clock := c.Namespace(specs.TimeNamespace)
	switch {
	case len(c.Linux.TimeOffsets) == 0:
	case clock == nil:
		return Invalid("linux.timeOffsets", "they need a time namespace, and linux.namespaces has none")
	case clock.Path != "":
		return Invalid("linux.timeOffsets", "the time namespace is joined by path, its offsets are fixed")
	}
	for name := range c.Linux.TimeOffsets {
		if name != "monotonic" && name != "boottime" {
			return Invalid("linux.timeOffsets", "there is no clock %q", name)
		}
	}
	return nil
}

// checkMappings refuses what the kernel would refuse with a bare EINVAL
// (user_namespaces(7)).
func checkMappings(field string, list []specs.LinuxIDMapping) error {
	const maxExtents = 340
	if len(list) > maxExtents {
		return Invalid(field, "%d extents are more than %d", len(list), maxExtents)
	}
	overlap := func(a, b, size, otherSize uint32) bool {
		return uint64(a) < uint64(b)+uint64(otherSize) && uint64(b) < uint64(a)+uint64(size)
	}
	for i, m := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		if m.Size == 0 {
			return Invalid(at+".size", "it is 0")
		}
		if uint64(m.ContainerID)+uint64(m.Size) > math.MaxUint32 || uint64(m.HostID)+uint64(m.Size) > math.MaxUint32 {
			return Invalid(at+".size", "%d ids from there on go beyond the last one", m.Size)
		}
		for j, other := range list[:i] {
			if overlap(m.ContainerID, other.ContainerID, m.Size, other.Size) || overlap(m.HostID, other.HostID, m.Size, other.Size) {
				return Invalid(at, "it overlaps with %s[%d]", field, j)
			}
		}
	}
	return nil
}

func checkMounts(c *Container) error {
	for i, m := range c.Mounts {
		field := fmt.Sprintf("mounts[%d]", i)
		if m.Destination == "" {
			return Invalid(field+".destination", "it is missing")
		}
		for _, s := range append([]string{m.Destination, m.Source, m.Type}, m.Options...) {
			if strings.Contains(s, "\x00") {
				return Invalid(field, "there is a NUL in it")
			}
		}
		for _, list := range [][]specs.LinuxIDMapping{m.UIDMappings, m.GIDMappings} {
			if err := checkMappings(field+".uidMappings", list); err != nil {
				return err
			}
		}
	}
	return nil
}

// propagations are the values of linux.rootfsPropagation.
var propagations = []string{"", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"}

func checkLinux(c *Container) error {
	l := c.Linux
	if !slices.Contains(propagations, l.RootfsPropagation) {
		return Invalid("linux.rootfsPropagation", "%q is not one of %s", l.RootfsPropagation, strings.Join(propagations[1:], ", "))
	}
	if l.RootfsPropagation != "" && !c.Has(specs.MountNamespace) {
		return Invalid("linux.rootfsPropagation", "it needs a mount namespace, and linux.namespaces has none: it would be that of the host's root")
	}
	for _, paths := range []struct {
		field string
		list  []string
	}{{"linux.maskedPaths", l.MaskedPaths}, {"linux.readonlyPaths", l.ReadonlyPaths}} {
		if len(paths.list) > 0 && !c.Has(specs.MountNamespace) {
			return Invalid(paths.field, "they need a mount namespace, and linux.namespaces has none")
		}
		for i, p := range paths.list {
			field := fmt.Sprintf("%s[%d]", paths.field, i)
			if !filepath.IsAbs(p) || strings.Contains(p, "\x00") {
				return Invalid(field, "%q is not an absolute path", p)
			}
		}
	}
	for i, d := range l.Devices {
		field := fmt.Sprintf("linux.devices[%d]", i)
		switch {
		case !filepath.IsAbs(d.Path) || strings.Contains(d.Path, "\x00"):
			return Invalid(field+".path", "%q is not an absolute path", d.Path)
		case !slices.Contains([]string{"c", "u", "b", "p"}, d.Type):
			return Invalid(field+".type", "%q is not one of c, u, b, p", d.Type)
		case d.Major < 0 || d.Major > math.MaxUint32 || d.Minor < 0 || d.Minor > math.MaxUint32:
			return Invalid(field, "there is no device %d:%d", d.Major, d.Minor)
		}
	}
	if p := l.Personality; p != nil && p.Domain != specs.PerLinux && p.Domain != specs.PerLinux32 {
		return Invalid("linux.personality.domain", "%q is neither LINUX nor LINUX32", p.Domain)
	}
	if err := checkMemoryPolicy(l.MemoryPolicy); err != nil {
		return err
	}
	if err := checkNetDevices(c); err != nil {
		return err
	}
	return checkRdt(l.IntelRdt)
}

// checkNetDevices knows what dev_valid_name of the kernel calls a name.
func checkNetDevices(c *Container) error {
	const maxName = 15 // IFNAMSIZ with the NUL
	taken := map[string]bool{}
	for name, device := range c.Linux.NetDevices {
		field := "linux.netDevices[" + name + "]"
		if !c.Has(specs.NetworkNamespace) {
			return Invalid(field, "it needs a network namespace, and linux.namespaces has none")
		}
		inside := device.Name
		if inside == "" {
			inside = name
		}
		for _, n := range []string{name, inside} {
			if n == "" || len(n) > maxName || n == "." || n == ".." || strings.ContainsAny(n, "/: \t\n\v\f\r\x00") {
				return Invalid(field, "%q is no name of an interface", n)
			}
		}
		if taken[inside] {
			return Invalid(field+".name", "%q is there twice", inside)
		}
		taken[inside] = !strings.Contains(inside, "%d") // the kernel makes those different
	}
	return nil
}

func checkRdt(r *specs.LinuxIntelRdt) error {
	if r == nil {
		return nil
	}
	if id := r.ClosID; id != "/" && (id == "." || id == ".." || strings.ContainsAny(id, "/\n\x00")) {
		return Invalid("linux.intelRdt.closID", "%q is no name of a directory", id)
	}
	lines := map[string]string{"linux.intelRdt.l3CacheSchema": r.L3CacheSchema, "linux.intelRdt.memBwSchema": r.MemBwSchema}
	for i, line := range r.Schemata {
		lines[fmt.Sprintf("linux.intelRdt.schemata[%d]", i)] = line
	}
	for field, line := range lines {
		if strings.ContainsAny(line, "\n\x00") {
			return Invalid(field, "there is a newline or a NUL in it")
		}
	}
	if s := r.MemBwSchema; s != "" && !strings.HasPrefix(s, "MB:") {
		return Invalid("linux.intelRdt.memBwSchema", "%q does not begin with MB:", s)
	}
	return nil
}

func checkHooks(c *Container) error {
	if c.Hooks == nil {
		return nil
	}
	for _, stage := range []struct {
		name  string
		hooks []specs.Hook
	}{
		{"prestart", c.Hooks.Prestart}, //nolint:staticcheck // deprecated, and used
		{"createRuntime", c.Hooks.CreateRuntime},
		{"createContainer", c.Hooks.CreateContainer},
		{"startContainer", c.Hooks.StartContainer},
		{"poststart", c.Hooks.Poststart},
		{"poststop", c.Hooks.Poststop},
	} {
		for i, h := range stage.hooks {
			field := fmt.Sprintf("hooks.%s[%d]", stage.name, i)
			if !filepath.IsAbs(h.Path) {
				return Invalid(field+".path", "%q is not an absolute path", h.Path)
			}
			if h.Timeout != nil && *h.Timeout <= 0 {
				return Invalid(field+".timeout", "%d seconds are not more than 0", *h.Timeout)
			}
		}
	}
	return nil
}
