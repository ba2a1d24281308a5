// Package command answers: how does containerd call this binary, and what do
// the short calls that it waits for, `start` and `delete`, tell it?
//
// containerd waits for `start` before the first container of a pod, and for
// `delete` after each container. So they do not wait for what the daemon needs
// to initialise: this package imports neither protobuf nor ttrpc, net or
// encoding/json, only what takes next to nothing to initialise, and package
// early runs it before the others are. `delete` is all in here as long as
// nothing is left of the container, which is the rule.
package command
