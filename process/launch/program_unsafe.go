package launch

import "unsafe"

// initStart is where the init's machine code stands in the shim (init_*.s).
func initStart() *byte

// initMemory is the shim's text from the first byte of the init on, in a length
// that has the init in it.
func initMemory() []byte { return unsafe.Slice(initStart(), 1024) }
