package process

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/caps"
	"github.com/myshim/myshim/process/spec"
	"github.com/myshim/myshim/process/stdio"
)

// ownCapabilities are those that this process can hand to a container.
var ownCapabilities = sync.OnceValues(caps.Own)

// setLimits and setScheduler set what a parent sets of its child: what takes
// rights that the child does not have in a user namespace.
func setLimits(pid int, p *specs.Process) error {
	for i, r := range p.Rlimits {
		limit := unix.Rlimit{Cur: r.Soft, Max: r.Hard}
		if err := unix.Prlimit(pid, spec.Rlimits[r.Type], &limit, nil); err != nil {
			return fmt.Errorf("process.rlimits[%d]: set %s to %d:%d: %w", i, r.Type, r.Soft, r.Hard, err)
		}
	}
	if io := p.IOPriority; io != nil {
		const whoProcess = 1
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, uintptr(pid), uintptr(spec.IOPriority(io))); errno != 0 {
			return fmt.Errorf("process.ioPriority: %s, %d: %w", io.Class, io.Priority, errno)
		}
	}
	return nil
}

// setScheduler comes after the last clone of the process: one with a deadline
// must not clone, and SCHED_FLAG_RESET_ON_FORK would be for the clone.
func setScheduler(pid int, s *specs.Scheduler) error {
	if s == nil {
		return nil
	}
	attr := unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: spec.SchedulerPolicies[s.Policy], Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	for _, flag := range s.Flags {
		attr.Flags |= spec.SchedulerFlags[flag]
	}
	if err := unix.SchedSetAttr(pid, &attr, 0); err != nil {
		return fmt.Errorf("process.scheduler: %s: %w", s.Policy, err)
	}
	return nil
}

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

// writeTimeOffsets sets the clocks of the init's new time namespace.
func (c *Container) writeTimeOffsets(pid int) error {
	var b strings.Builder
	for clock, o := range c.spec.Linux.TimeOffsets {
		fmt.Fprintf(&b, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
	}
	if b.Len() == 0 {
		return nil
	}
	if err := writeProc(pid, "timens_offsets", b.String()); err != nil {
		return fmt.Errorf("linux.timeOffsets: %w", err)
	}
	return nil
}

// writeProc writes to a file of a child of ours: its pid is no other's. The file
// must be written at once.
func writeProc(pid int, file, text string) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/%s", pid, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// ids are a user and a group as the host has them.
type ids struct{ uid, gid int }

// owner is the root of the container's user namespace on the host.
func (c *Container) owner(pid int) (ids, error) {
	if !c.spec.Has(specs.UserNamespace) {
		return ids{}, nil
	}
	uid, err := rootOf(pid, "uid_map")
	if err != nil {
		return ids{}, err
	}
	gid, err := rootOf(pid, "gid_map")
	return ids{uid, gid}, err
}

// rootOf is which id of the host is 0 in the process's user namespace, or its
// first one if it has no 0.
func rootOf(pid int, file string) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, err
	}
	first := -1
	for line := range strings.Lines(string(text)) {
		var inside, outside, size int
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err != nil {
			return 0, fmt.Errorf("%s of process %d: %w", file, pid, err)
		}
		if inside == 0 {
			return outside, nil
		}
		if first < 0 {
			first = outside
		}
	}
	if first < 0 {
		return 0, fmt.Errorf("%s of process %d: the user namespace has no ids", file, pid)
	}
	return first, nil
}

// hostID is an id of the container as the host has it. Those of a user namespace
// that is joined are not known: they are taken as they are.
func hostID(mappings []specs.LinuxIDMapping, id uint32) int {
	i := slices.IndexFunc(mappings, func(m specs.LinuxIDMapping) bool { return id >= m.ContainerID && id-m.ContainerID < m.Size })
	if i < 0 {
		return int(id)
	}
	return int(mappings[i].HostID + id - mappings[i].ContainerID)
}

// streamRequest is what a process asks of package stdio. What it can open again,
// as /dev/stdout, belongs to its user, as under runc whoever was asked for; not so
// if it is in a user namespace of which the spec does not say the ids. The group is
// the one that was asked for, or stays.
func (c *Container) streamRequest(p *Process) stdio.Request {
	r := p.Stdio
	r.ContainerID, r.Namespace = c.ID, c.Namespace
	r.UID, r.GID = hostID(c.spec.Linux.UIDMappings, p.spec.User.UID), -1
	if c.IOUID != 0 || c.IOGID != 0 {
		r.GID = c.IOGID
		if c.spec.Has(specs.UserNamespace) && len(c.spec.Linux.UIDMappings) == 0 {
			r.UID = c.IOUID
		}
	}
	r.Copy = p.spec.SelinuxLabel != "" || !letsFIFOs(p.spec.ApparmorProfile)
	// Containerd deletes an exec whose output does not end, to end it. After an
	// init nothing is left that could hold it.
	r.CopyOutput = p.ID != ""
	return r
}

// letsFIFOs says whether processes with an AppArmor profile can use a FIFO of the
// host, which is checked for every descriptor that is inherited: the default
// profiles of container engines allow all files; of others nobody knows.
func letsFIFOs(profile string) bool {
	return slices.Contains([]string{"", "unconfined", "cri-containerd.apparmor.d", "docker-default", "nerdctl-default"}, profile)
}

// userNamespace opens a user namespace with the mappings, or the container's.
func (m *making) userNamespace(mappings *mounts.Mappings) (*os.File, error) {
	if mappings == nil {
		return os.Open(fmt.Sprintf("/proc/%d/ns/user", m.init.PID))
	}
	return newUserNamespace(mappings)
}
