package mounts

import (
	"fmt"
	"os"

	"github.com/containerd/continuity/fs"
)

// copyUp fills a new file system, not yet placed, with what is in the directory
// that it will cover. Links are copied, not followed (CVE-2022-23648).
func copyUp(from, to *os.File) error {
	path := func(f *os.File) string { return fmt.Sprintf("/proc/thread-self/fd/%d/.", f.Fd()) }
	return fs.CopyDir(path(to), path(from))
}
