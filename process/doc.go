// Package process answers: what is true of this container and its processes
// now, and what may happen next?
//
// It is the runtime without containerd: Create, Start, Exec, Kill, Delete and so
// on are Go calls here. What may happen in which state is the table in state.go.
//
// No lock is held over a system call that can wait. A call that changes a
// container reserves the change under the lock, does it, and says so under the
// lock again; State, Wait and Kill never wait for any of them.
package process
