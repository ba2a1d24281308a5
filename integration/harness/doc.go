// Package harness answers: how does a test run shims and containers on this
// machine, and know that nothing of them is left?
//
//   - Main gives the program a mount namespace and a name (Tag) of its own, and
//     ends and removes whatever the program leaves.
//   - Look and World.Leaks compare what there was before with what there is
//     after: processes, mounts, cgroups, sockets, FIFOs, bundles, state.
//   - Daemon is a private containerd; one of StartCRI serves Kubernetes' CRI.
//   - Peer plays containerd's part towards a shim, without a containerd: it
//     starts and deletes shims by their command line, and records their events.
//   - Tree is what a root file system holds, as an image's layer or a directory.
//   - Still, Quick and Hello are programs of a few instructions, for when a
//     payload must not get in the way of what is looked at or measured.
//
// It returns errors and knows nothing of package testing, because the benchmark
// and the demo stand on it too.
package harness
