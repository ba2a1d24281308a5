package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/launch"
	"github.com/myshim/myshim/process/script"
	"github.com/myshim/myshim/process/spec"
)

// writeMappings gives the init's new user namespace its ids.
func (c *Container) writeMappings(pid int) error {
	for _, m := range []struct {
		file, field string
		list        []specs.LinuxIDMapping
	}{
		{"uid_map", "linux.uidMappings", c.spec.Linux.UIDMappings},
		{"gid_map", "linux.gidMappings", c.spec.Linux.GIDMappings},
	} {
		if err := writeProc(pid, m.file, idMap(m.list)); err != nil {
			return fmt.Errorf("%s: %w", m.field, err)
		}
	}
	return nil
}

// idMap are mappings as user_namespaces(7) has them in uid_map.
func idMap(list []specs.LinuxIDMapping) string {
	var b strings.Builder
	for _, m := range list {
		fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return b.String()
}

// parseIDMap is the opposite of idMap.
func parseIDMap(text string) ([]specs.LinuxIDMapping, error) {
	var list []specs.LinuxIDMapping
	for line := range strings.Lines(text) {
		var m specs.LinuxIDMapping
		if _, err := fmt.Sscan(line, &m.ContainerID, &m.HostID, &m.Size); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		list = append(list, m)
	}
	return list, nil
}

// hostID is an id of the container as the host has it; without a user namespace
// it is the same.
func hostID(mappings []specs.LinuxIDMapping, id uint32) int {
	i := slices.IndexFunc(mappings, func(m specs.LinuxIDMapping) bool { return id >= m.ContainerID && id-m.ContainerID < m.Size })
	if i < 0 {
		return int(id)
	}
	return int(mappings[i].HostID + id - mappings[i].ContainerID)
}

// rootID is the id of the host that is 0 in the container, or the container's first
// one if it has no 0.
func rootID(mappings []specs.LinuxIDMapping) int {
	if len(mappings) == 0 { // there is no user namespace
		return 0
	}
	first := slices.MinFunc(mappings, func(a, b specs.LinuxIDMapping) int { return cmp.Compare(a.ContainerID, b.ContainerID) })
	return int(first.HostID)
}

// userNamespace opens a user namespace with the mappings, or the container's.
func (m *making) userNamespace(mappings *mounts.Mappings) (*os.File, error) {
	if mappings == nil {
		return os.Open(fmt.Sprintf("/proc/%d/ns/user", m.init.PID))
	}
	return newUserNamespace(mappings)
}

// newUserNamespace makes a user namespace for an idmapped mount: it lives as
// long as the descriptor that is returned, or the mount.
func newUserNamespace(m *mounts.Mappings) (_ *os.File, err error) {
	s := script.New()
	s.Add(script.Unshare, script.Flags(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
	in, err := waiting(s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Kill()) }()
	if err := errors.Join(writeProc(in.Process().PID, "uid_map", idMap(m.UID)), writeProc(in.Process().PID, "gid_map", idMap(m.GID))); err != nil {
		return nil, err
	}
	return os.Open(fmt.Sprintf("/proc/%d/ns/user", in.Process().PID))
}

// takeMappings gives a container whose user namespace exists already the ids of
// that. If the spec says them too, they must be the same.
func takeMappings(linux *specs.Linux, namespace *os.File, field string) (err error) {
	s := script.New()
	s.Add(script.Setns, script.Int(script.FirstFD), script.Flags(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
	in, err := waiting(s, int(namespace.Fd()))
	if err != nil {
		return spec.Invalid(field, "%v", err)
	}
	defer func() { err = errors.Join(err, in.Kill()) }()
	for _, m := range []struct {
		file, field string
		list        *[]specs.LinuxIDMapping
	}{
		{"uid_map", "linux.uidMappings", &linux.UIDMappings},
		{"gid_map", "linux.gidMappings", &linux.GIDMappings},
	} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", in.Process().PID, m.file))
		if err != nil {
			return err
		}
		has, err := parseIDMap(string(text))
		switch {
		case err != nil:
			return fmt.Errorf("%s: %s: %w", field, m.file, err)
		case len(has) == 0:
			return spec.Invalid(field, "the user namespace has an empty %s", m.file)
		case len(*m.list) > 0 && !sameMappings(*m.list, has):
			return spec.Invalid(m.field, "they are not those of the user namespace at %s (%s)", namespace.Name(), field)
		}
		*m.list = has
	}
	return nil
}

func sameMappings(a, b []specs.LinuxIDMapping) bool {
	sorted := func(list []specs.LinuxIDMapping) []specs.LinuxIDMapping {
		return slices.SortedFunc(slices.Values(list), func(a, b specs.LinuxIDMapping) int { return cmp.Compare(a.ContainerID, b.ContainerID) })
	}
	return slices.Equal(sorted(a), sorted(b))
}

// waiting starts a script that belongs to no container, and returns when it is at
// its end, where it waits to be ended. It has extra from script.FirstFD on.
func waiting(s *script.Script, extra ...int) (*launch.Init, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	s.Report()
	s.Wait()
	s.End()
	fd := int(null.Fd())
	in, err := launch.Start(s, [3]int{fd, fd, fd}, extra)
	if err != nil {
		return nil, err
	}
	if _, err := in.Next(context.Background()); err != nil {
		return nil, errors.Join(err, in.Kill())
	}
	return in, nil
}
