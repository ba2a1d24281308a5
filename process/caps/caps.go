// Package caps answers: which bits are the capabilities that a spec names?
package caps

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Sets are the five sets of capabilities(7), bit n being capability n.
type Sets struct {
	Bounding, Effective, Permitted, Inheritable, Ambient uint64
}

// Parse turns process.capabilities into bits. Names that do not exist, and
// capabilities that are not available, are left out and warned of, as runc
// does: a spec is written for more kernels and hosts than one.
func Parse(c *specs.LinuxCapabilities, available uint64) (s Sets, warnings []string) {
	known := bitsByName()
	unknown := map[string]bool{}
	for _, set := range []struct {
		bits  *uint64
		names []string
	}{
		{&s.Bounding, c.Bounding},
		{&s.Effective, c.Effective},
		{&s.Permitted, c.Permitted},
		{&s.Inheritable, c.Inheritable},
		{&s.Ambient, c.Ambient},
	} {
		for _, name := range set.names {
			bit := known[name] & available
			if bit == 0 && !unknown[name] {
				unknown[name] = true
				warnings = append(warnings, fmt.Sprintf("process.capabilities: %s is not available here, ignored", name))
			}
			*set.bits |= bit
		}
	}
	return s, warnings
}

// All is every capability that this program knows of: what the root of a new
// user namespace has, of those that the kernel knows too.
func All() uint64 { return 1<<len(capability.ListKnown()) - 1 }

// Own is what this process may hand to a container: its permitted set.
func Own() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("capget: %w", err)
	}
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted), nil
}

// Last is the highest capability in a set, -1 if the set is empty.
func Last(set uint64) int { return bits.Len64(set) - 1 }

// Name is a capability as in capabilities(7).
func Name(n int) string { return "CAP_" + strings.ToUpper(capability.Cap(n).String()) }

func bitsByName() map[string]uint64 {
	list := capability.ListKnown()
	known := make(map[string]uint64, len(list))
	for _, c := range list {
		known[Name(int(c))] = 1 << c
	}
	return known
}
