// Package raw answers: which mounts of a root file system may containerd leave to
// this runtime? Package mounts makes them; here are only their names, for `start`,
// which has to announce them and must not wait for all of that to initialise.
package raw

// Types are file systems whose source may be an image.
var Types = []string{"erofs", "ext4"}

// Transforms are what stands before the type and a slash, and is done first:
// "format" fills in the places of other mounts, "mkdir" makes directories.
var Transforms = []string{"format", "mkdir"}
