// Package command answers: how does containerd call this binary, and what do
// the short calls that it waits for, `start` and `delete`, tell it?
//
// containerd waits for `start` before each first container of a pod, and for
// `delete` after each container. So they do not wait for what the daemon needs
// to initialise: this package imports neither protobuf nor ttrpc, net or
// encoding/json, but only what takes next to nothing to initialise, and package
// early runs it before any of the others is. With nothing left of the
// container, which is the rule, `delete` is all in here as well.
package command
