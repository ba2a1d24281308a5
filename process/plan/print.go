package plan

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/mounts"
	"github.com/myshim/myshim/process/script"
)

// String is the plan as the command plan prints it: what the shim does, and what
// the container's init does, line by line.
func (p *Create) String() string {
	var b strings.Builder
	b.WriteString("namespaces:\n")
	for _, ns := range p.namespaces() {
		fmt.Fprintf(&b, "%-11s %s\n", ns.Type, ns.From)
	}
	b.WriteString("\nmounts, in the container's mount namespace:\n")
	for _, line := range p.Mounts.Lines() {
		fmt.Fprintln(&b, line)
	}
	return b.String() + "\n" + p.Script.String()
}

// namespace is one of the container's, as it is printed.
type namespace struct {
	Type specs.LinuxNamespaceType `json:"type"`
	From string                   `json:"from"` // "new", "the host's" or a path
}

// namespaces are those of the container, in the order in which they are joined.
func (p *Create) namespaces() []namespace {
	var list []namespace
	for _, kind := range Namespaces() {
		ns := namespace{Type: kind, From: "the host's"}
		i := slices.IndexFunc(p.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
		if i >= 0 {
			ns.From = cmp.Or(p.Namespaces[i].Path, "new")
		}
		list = append(list, ns)
	}
	return list
}

// MarshalJSON is the plan as `plan --json` prints it.
func (p *Create) MarshalJSON() ([]byte, error) {
	type step struct {
		Call    string `json:"call"`
		Field   string `json:"field,omitempty"`
		Because string `json:"because,omitempty"`
	}
	out := struct {
		Namespaces  []namespace       `json:"namespaces"`
		Mounts      []mounts.Line     `json:"mounts"`
		Descriptors map[string]string `json:"descriptors"`
		Script      []step            `json:"script"`
		Warnings    []string          `json:"warnings,omitempty"`
	}{Namespaces: p.namespaces(), Mounts: p.Mounts.Lines(), Descriptors: map[string]string{}, Warnings: p.Warnings}
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
