package seccomp

import (
	"encoding/json"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Cache remembers the filters of the profiles it compiled. Its zero value is
// ready for use, by any number of goroutines.
type Cache struct {
	mu      sync.Mutex
	filters map[string]*Filter
}

// A shim is for one pod, the containers of which have one or two profiles.
const cacheSize = 16

// Compile is seccomp.Compile, done once for the profiles that say the same.
func (c *Cache) Compile(profile *specs.LinuxSeccomp) (*Filter, error) {
	if profile == nil {
		return nil, nil
	}
	text, err := json.Marshal(profile)
	if err != nil {
		return nil, err
	}
	key := string(text)
	if profile.Flags == nil {
		key += "flags: null" // which JSON leaves out, as it does an empty list
	}
	// The lock is held meanwhile: who comes at the same time waits, instead of
	// compiling the same.
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, ok := c.filters[key]; ok {
		return f, nil
	}
	f, err := Compile(profile)
	if err != nil {
		return nil, err
	}
	if c.filters == nil || len(c.filters) == cacheSize {
		c.filters = map[string]*Filter{}
	}
	c.filters[key] = f
	return f, nil
}
