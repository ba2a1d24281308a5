// Package launch answers: how is a script run in a new process, and how does
// one enter a running container?
//
// The process is a tiny init: an interpreter for scripts, 260 bytes of machine
// code (init_amd64.s, init_arm64.s), which this package copies out of the shim's
// own text into an ELF file in a sealed memfd. It has no libc, no Go run time
// and one thread, starts in 0.1 ms, needs 24 KB, and all that a container may
// see of it is that memfd, never the shim (CVE-2019-5736) nor its memory.
//
// It is started with no clone flags at all. A script that wants new namespaces
// clones, in a second stage: so no process that shares the shim's memory, as the
// child of a vfork does, is ever inside a container's cgroup, where an OOM kill
// of it would take the shim along.
package launch
