package plan

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/script"
)

// String is the plan as the command plan prints it: what the shim does, and what
// the container's init does, line by line.
func (p *Create) String() string {
	var b strings.Builder
	b.WriteString("mounts, in the container's mount namespace:\n")
	for _, line := range p.Mounts.Lines() {
		fmt.Fprintln(&b, line)
	}
	return b.String() + "\n" + p.Script.String()
}

// MarshalJSON is the plan as `plan --json` prints it.
func (p *Create) MarshalJSON() ([]byte, error) {
	type step struct {
		Call    string `json:"call"`
		Field   string `json:"field,omitempty"`
		Because string `json:"because,omitempty"`
	}
	out := struct {
		Mounts      []mounts.Line     `json:"mounts"`
		Descriptors map[string]string `json:"descriptors"`
		Script      []step            `json:"script"`
		Warnings    []string          `json:"warnings,omitempty"`
	}{Mounts: p.Mounts.Lines(), Descriptors: map[string]string{}, Warnings: p.Warnings}
	for i, f := range p.Files {
		out.Descriptors[strconv.Itoa(script.FirstFD+i)] = f.String()
	}
	for _, s := range p.Steps() {
		out.Script = append(out.Script, step{s.Call(), s.Field(), s.Reason()})
	}
	return json.Marshal(out)
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
