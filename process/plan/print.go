package plan

import (
	"fmt"
	"strings"

	"github.com/myshim/myshim/process/script"
)

// String is the plan as the command plan prints it: what the shim does, and what
// the container's init does, line by line.
func (p *Create) String() string {
	var b strings.Builder
	for i, f := range p.Files {
		fmt.Fprintf(&b, "descriptor %d  %s\n", script.FirstFD+i, f)
	}
	b.WriteString("\nmounts, in the container's mount namespace:\n")
	fmt.Fprintf(&b, "%s", p.Mounts)
	b.WriteString("\nscript of the init:\n")
	writeSteps(&b, p.Script)
	return b.String()
}

func writeSteps(b *strings.Builder, s *script.Script) {
	for i, step := range s.Steps() {
		fmt.Fprintf(b, "%3d  %s\n", i, step)
	}
}

// String is the plan of the exec, line by line.
func (p *Exec) String() string {
	var b strings.Builder
	for i, f := range p.Files {
		fmt.Fprintf(&b, "descriptor %d  %s\n", script.FirstFD+i, f)
	}
	b.WriteString("\nscript:\n")
	writeSteps(&b, p.Script)
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
