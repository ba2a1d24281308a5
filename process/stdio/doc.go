// Package stdio answers: what are descriptors 0, 1 and 2 of a process, and
// what happens to what it writes?
//
//	asked for            the process gets          and the shim
//	nothing              /dev/null, unchangeable
//	a FIFO               the FIFO itself           holds its other end
//	a FIFO, Copy         a pipe                    copies; CopyOutput: if it is an output
//	a file, file://      a pipe                    copies, appending
//	binary://            a pipe                    holds its other end; the logger reads
//	Terminal             its pty                   copies, to any of the above
//
// Copying costs one goroutine for each stream that is copied (stdout and
// stderr are one stream if they go to the same file, and so they are with a
// terminal), and a logger costs one. They sleep in Go's poller, without a thread
// and without a buffer.
//
// The held ends are why nothing breaks or is lost while no client is there: a
// FIFO or pipe with a read end somewhere raises no EPIPE and keeps its bytes,
// and a stdin with a write end somewhere is not at its end. They are not
// registered with the poller, which would wake the shim at each write.
//
// The process never gets a descriptor of a file of the host other than its
// own FIFOs. Root in a container could fchmod such a file to setuid, truncate
// it, or read what was logged before; and a user that is not root could not
// open /dev/stdout. That is why file:// is copied.
package stdio
