package plan

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/process/script"
	"github.com/myshim/myshim/process/spec"
)

// NewHook compiles a program of the host that runs in the namespaces of a
// container, and in its cgroup, before its init has left the host's tree
// (config.md, "createContainer Hooks"): with the rights of the root of its user
// namespace, if it has one. It does not enter a pid namespace which the init has not
// entered yet: see entersLast.
func NewHook(c *spec.Container, program string, args, env []string, host Host) *Script {
	b := newBuilder(host, Options{}, &specs.Process{}, nil)
	b.enter()
	b.joinTasks()
	if host.CgroupDir {
		b.clone(0, nil, true, "into the cgroup")
		b.report(Cloned)
	}
	pids := c.Has(specs.PIDNamespace) && !entersLast(c)
	b.joinAll(c, pids)
	if c.Has(specs.UserNamespace) {
		b.becomeRoot()
	}
	b.Add(script.Fchdir, b.file(File{Kind: RootDir}))
	b.closeRest("those were for the namespaces")
	if pids {
		b.enterPIDs()
	}
	b.session()
	text := strings.Join(args, " ")
	b.Add(script.Execve, b.CString(program), b.Strings(args, text), b.Strings(env, "env")).Fails(fmt.Sprintf("exec %q", program))
	b.End()
	return &b.Script
}
