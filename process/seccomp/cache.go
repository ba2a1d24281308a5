package seccomp

import (
	"reflect"
	"slices"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Filters are those of this process: the containers of a pod, and their execs,
// share a few.
var Filters Cache

// Cache remembers the filters of the profiles it compiled. Its zero value is
// ready for use, by any number of goroutines.
type Cache struct {
	mu       sync.Mutex
	compiled []compiled // guarded by mu; the oldest first
}

type compiled struct {
	profile *specs.LinuxSeccomp
	filter  *Filter
}

// A shim is for one pod, the containers of which have one or two profiles.
const cacheSize = 16

// Compile is seccomp.Compile, done once for the profiles that say the same. They
// are not to be changed afterwards.
func (c *Cache) Compile(profile *specs.LinuxSeccomp) (*Filter, error) {
	if profile == nil {
		return nil, nil
	}
	// The lock is held meanwhile: who comes at the same time waits, instead of
	// compiling the same.
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, known := range c.compiled {
		if reflect.DeepEqual(known.profile, profile) {
			return known.filter, nil
		}
	}
	f, err := Compile(profile)
	if err != nil {
		return nil, err
	}
	if len(c.compiled) == cacheSize {
		c.compiled = slices.Delete(c.compiled, 0, 1)
	}
	c.compiled = append(c.compiled, compiled{profile, f})
	return f, nil
}
