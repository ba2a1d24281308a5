package process

import (
	"slices"

	"github.com/myshim/myshim/process/stdio"
)

// streamRequest is what a process asks of package stdio. What it can open again,
// as /dev/stdout, belongs to its user, as under runc whoever was asked for. The group
// is the one that was asked for, or stays.
func (c *Container) streamRequest(p *Process) stdio.Request {
	r := p.Stdio
	r.ContainerID, r.Namespace = c.ID, c.Namespace
	r.UID, r.GID = hostID(c.spec.Linux.UIDMappings, p.spec.User.UID), -1
	if c.IOUID != 0 || c.IOGID != 0 {
		r.GID = c.IOGID
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
