// Package kernel answers: what can this kernel do? And it wraps what Go's
// standard library has no type for: processes known by a pidfd, throw-away
// threads in other namespaces, paths below a root.
//
// Linux 5.15 is the oldest supported one, see Supported; what is younger is probed once.
package kernel
