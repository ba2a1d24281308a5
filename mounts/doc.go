// Package mounts answers: what does the container see as its file system?
//
// Compile turns a spec into a Plan: a list of operations in the order in which
// they are done, each knowing the line of the spec that it comes from. It makes
// no system call. Plan.Build then does them, on a thread that has joined the
// container's mount namespace, where the host's tree is still visible; see
// package kernel. Only without a mount namespace, and where it is asked for, is
// anything mounted on the host: Plan.Show and Hide.
//
// Three rules make it safe against whatever the image, or another container
// with a shared volume, has in the place of a path:
//
//   - A path below the container's root is resolved by kernel.Root only, once,
//     and used as a descriptor from then on. Mounts are placed on descriptors.
//   - What is mounted is complete before it is placed: a read-only bind is
//     read-only before anyone can see it.
//   - A superblock belongs to the namespaces of the process that makes it: proc
//     to the pid namespace, sysfs to the net, mqueue to the ipc, cgroup2 to the
//     cgroup namespace, and all of them to the user namespace. So those are made
//     by the container's init (see Super) and only placed here.
package mounts
