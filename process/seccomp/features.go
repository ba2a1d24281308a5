package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Features is what this package knows, for -info. SupportedFlags is left to who
// may ask the kernel; see FlagNames.
func Features() *features.Seccomp {
	enabled := true
	f := &features.Seccomp{Enabled: &enabled}
	for _, a := range actions {
		f.Actions = append(f.Actions, string(a.name))
	}
	for _, op := range operators {
		f.Operators = append(f.Operators, string(op))
	}
	for _, arch := range architectures {
		f.Archs = append(f.Archs, string(arch))
	}
	f.KnownFlags = FlagNames(^uint32(0))
	return f
}

// FlagNames are the flags that a kernel can be asked for which knows these.
func FlagNames(known uint32) []string {
	var names []string
	for _, flag := range flags {
		if flag.value&^known == 0 {
			names = append(names, string(flag.name))
		}
	}
	return names
}
