package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mountLongOverlay mounts an overlay whose options are more than the one page
// that mount(2) takes. Since Linux 6.7 every layer can be given by itself; with
// older kernels the layers are named relative to their common directory, which
// makes room for about a hundred.
func mountLongOverlay(dir *os.File, o Options) error {
	layers, rest := splitLayers(o.Data)
	err := mountLayers(dir, o.Attrs.Set, layers, rest)
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	common := commonDir(layers)
	for i, layer := range layers {
		layers[i] = strings.TrimPrefix(strings.TrimPrefix(layer, common), "/")
	}
	text := strings.Join(append(rest, "lowerdir="+strings.Join(layers, ":")), ",")
	if len(text) >= os.Getpagesize() {
		return fmt.Errorf("%d layers are too many for this kernel: %w", len(layers), err)
	}
	// The thread has a working directory of its own, see kernel.EnterMounts.
	if err := unix.Chdir(common); err != nil {
		return &os.PathError{Op: "chdir", Path: common, Err: err}
	}
	defer func() { _ = unix.Chdir("/") }()
	target := fmt.Sprintf("/proc/thread-self/fd/%d", dir.Fd())
	return os.NewSyscallError("mount", unix.Mount("overlay", target, "overlay", mountFlags(o), text))
}

// splitLayers takes lowerdir out of the options, and apart.
func splitLayers(data []string) (layers, rest []string) {
	for _, option := range data {
		if value, ok := strings.CutPrefix(option, "lowerdir="); ok {
			layers = strings.Split(value, ":")
		} else {
			rest = append(rest, option)
		}
	}
	return layers, rest
}

// mountLayers gives one layer after the other to the file system. A kernel that
// does not know lowerdir+ says EINVAL, and nothing is mounted.
func mountLayers(dir *os.File, attrs uint64, layers, rest []string) error {
	s := Super{Type: "overlay", Attrs: attrs, Params: []Param{{Key: "source", Value: "overlay"}}}
	for _, layer := range layers {
		s.Params = append(s.Params, Param{Key: "lowerdir+", Value: layer})
	}
	s.Params = append(s.Params, params(rest)...)
	made, err := newMount(s)
	if err != nil {
		return err
	}
	defer made.Close()
	return attach(made, dir)
}

// commonDir is the deepest directory that all paths are below.
func commonDir(paths []string) string {
	dir := filepath.Dir(paths[0])
	for _, p := range paths[1:] {
		for dir != "/" && !strings.HasPrefix(p, dir+"/") {
			dir = filepath.Dir(dir)
		}
	}
	return dir
}
