package seccomp

import (
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Features is what this package knows, for -info. SupportedFlags is left to who
// may ask the kernel.
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
	for _, flag := range flags {
		f.KnownFlags = append(f.KnownFlags, string(flag.name))
	}
	return f
}
