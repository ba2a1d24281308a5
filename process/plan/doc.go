// Package plan answers: which namespaces, mounts, credentials and system calls
// is a container, and an exec in one, and in which order?
//
// It is pure: Create and Exec compile checked specs into scripts for the tiny
// init of package launch and into a plan of package mounts, without looking at
// the host. What has to be known of it is in Host.
//
// # How a script and the shim speak
//
// A script that clones reports the clone's pid, and its process ends: the shim
// follows the clone (launch.Init.Follow). The other reports are the fields of
// Create and Exec, in the order in which they come, and after each of them the
// script waits for the shim.
package plan
