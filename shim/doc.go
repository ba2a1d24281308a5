// Package shim answers: how does containerd find, start, ask, inform and stop
// this shim process? It knows nothing of containers: what is served, and how a
// container is cleaned up, is handed to Main.
//
// containerd runs the binary in four ways:
//
//	start     makes a listening socket and the daemon that inherits it, or finds
//	          the daemon of the same pod, and answers with its address
//	(none)    is that daemon: it serves the socket and publishes events
//	delete    cleans up after a container, once its connection has closed
//	-info     tells what this runtime can do
//
// `start` and `delete` are in package command, which also says why; what an
// administrator can configure is in package options.
//
// Of the files in a bundle, ours is `address`, with the address of the daemon's
// socket. The others are containerd's, and of those who make containers.
package shim
