package process

import (
	"os"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/myshim/myshim/process/spec"
)

// checkLabels refuses labels of security modules that this kernel does not have:
// a process that is less confined than it should be must not run.
func checkLabels(p *specs.Process) error {
	switch {
	case p.ApparmorProfile != "" && !hasAppArmor():
		return spec.Invalid("process.apparmorProfile", "this kernel has no AppArmor, or it is switched off: profile %q", p.ApparmorProfile)
	case p.SelinuxLabel != "" && !hasSELinux():
		return spec.Invalid("process.selinuxLabel", "SELinux is not supported by this kernel, or switched off: label %q", p.SelinuxLabel)
	}
	return nil
}

var hasAppArmor = sync.OnceValue(func() bool {
	text, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return strings.HasPrefix(string(text), "Y")
})

// The file system is registered when SELinux is on.
var hasSELinux = sync.OnceValue(func() bool {
	text, _ := os.ReadFile("/proc/filesystems")
	return strings.Contains(string(text), "\tselinuxfs\n")
})
