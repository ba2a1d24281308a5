package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// idMapping takes containerd's options uidmap= and gidmap= out of those of a
// root mount, and opens a user namespace with them; nil if there are none.
// containerd takes no notice of one without the other.
func idMapping(options []string, b Builder) (rest []string, userns *os.File, err error) {
	var m Mappings
	for _, option := range options {
		if text, ok := strings.CutPrefix(option, "uidmap="); ok {
			m.UID, err = parseMappings(text)
		} else if text, ok := strings.CutPrefix(option, "gidmap="); ok {
			m.GID, err = parseMappings(text)
		} else {
			rest = append(rest, option)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("option %s: %w", option, err)
		}
	}
	if len(m.UID) == 0 || len(m.GID) == 0 {
		return rest, nil, nil
	}
	userns, err = b.UserNS(&m)
	return rest, userns, err
}

// parseMappings reads container:host:size, and more of them after commas.
func parseMappings(text string) ([]specs.LinuxIDMapping, error) {
	var list []specs.LinuxIDMapping
	for part := range strings.SplitSeq(text, ",") {
		var m specs.LinuxIDMapping
		if _, err := fmt.Sscanf(part, "%d:%d:%d", &m.ContainerID, &m.HostID, &m.Size); err != nil {
			return nil, fmt.Errorf("%q is not container:host:size: %w", part, err)
		}
		list = append(list, m)
	}
	return list, nil
}

// mapLayers lets the lower layers of an overlay be seen with mapped ids: their
// common directory is mounted so at dir, which is at the path rootfs, and which
// the overlay itself then covers. It returns the overlay's options with the
// layers as they are found there.
func mapLayers(dir *os.File, options []string, rootfs string, userns *os.File) ([]string, error) {
	layers, rest := splitLayers(options)
	if len(layers) == 0 {
		return nil, errors.New("an overlay without lowerdir")
	}
	common := commonDir(layers)
	// Layers that are mounts are below rootfs, see stage.
	mounts := common == rootfs
	tree, err := openTree(unix.AT_FDCWD, common, 0, mounts)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	const attrs = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_IDMAP
	if err := setattr(tree, unix.MountAttr{Attr_set: attrs, Propagation: unix.MS_PRIVATE, Userns_fd: uint64(userns.Fd())}, mounts); err != nil {
		return nil, err
	}
	if err := attach(tree, dir); err != nil {
		return nil, err
	}
	for i, layer := range layers {
		layers[i] = filepath.Join(rootfs, strings.TrimPrefix(layer, common))
	}
	return append(rest, "lowerdir="+strings.Join(layers, ":")), nil
}
