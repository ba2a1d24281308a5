// Package plan answers: which namespaces, mounts, credentials and system calls
// is a container, and an exec in one, and in which order?
//
// It is pure: Create and Exec compile checked specs into scripts for the tiny
// init of package launch and into a plan of package mounts, without looking at
// the host. What has to be known of it is in Host.
//
// # How a script and the shim speak
//
// What a script reports, and what it waits for, are the values of Report. A
// script may clone: its process ends then, and the clone goes on.
package plan
