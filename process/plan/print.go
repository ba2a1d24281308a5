package plan

import (
	"fmt"
	"strings"

	"github.com/myshim/myshim/process/script"
)

// String is the plan as the command plan prints it: what the shim does, and what
// the container's init does, line by line.
func (p *Create) String() string {
	return fmt.Sprintf("mounts, in the container's mount namespace:\n%s\n%s", p.Mounts, &p.Script)
}

// String is the script, line by line.
func (s *Script) String() string {
	var b strings.Builder
	b.WriteString("script:\n")
	for i, f := range s.Files {
		fmt.Fprintf(&b, "descriptor %d  %s\n", script.FirstFD+i, f)
	}
	for i, step := range s.Steps() {
		fmt.Fprintf(&b, "%3d  %s\n", i, step)
	}
	return b.String()
}

// String says what the descriptor is for.
func (f File) String() string {
	switch f.Kind {
	case Tasks:
		return "tasks of a cgroup v1 hierarchy"
	case CgroupDir:
		return "directory of the container's cgroup v2"
	case JoinNamespace:
		return "namespace " + f.Namespace.Path + "  # " + f.Field
	case InitPidfd:
		return "pidfd of the container's init"
	default:
		return "root of the container"
	}
}
