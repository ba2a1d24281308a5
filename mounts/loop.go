package mounts

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mountImage mounts a file as a file system. With a new kernel, 6.12, erofs reads
// it by itself; everything else needs loop devices.
func (m RootMount) mountImage(dir *os.File, o Options) error {
	o.Data = slices.DeleteFunc(slices.Clone(o.Data), func(s string) bool { return s == "loop" })
	if m.Type == "erofs" {
		if err := m.fileSystem(dir, o); !errors.Is(err, unix.ENOTBLK) {
			return err
		}
	}
	readonly := o.has(unix.MOUNT_ATTR_RDONLY) || m.Type == "erofs" || m.Type == "squashfs"
	device, err := openLoop(m.Source, readonly)
	if err != nil {
		return err
	}
	// The last one to close a device detaches its file: that is the mount.
	defer device.Close()
	m.Source = device.Name()
	for i, option := range o.Data {
		file, ok := strings.CutPrefix(option, "device=")
		if !ok || m.Type != "erofs" {
			continue
		}
		more, err := openLoop(file, true)
		if err != nil {
			return err
		}
		defer more.Close()
		o.Data[i] = "device=" + more.Name()
	}
	return m.fileSystem(dir, o)
}

// openLoop makes a loop device of a file (loop(4)), which goes when nobody has it
// open any more.
func openLoop(file string, readonly bool) (*os.File, error) {
	flags, mode := uint32(unix.LO_FLAGS_AUTOCLEAR), os.O_RDWR
	if readonly {
		flags, mode = flags|unix.LO_FLAGS_READ_ONLY, os.O_RDONLY
	}
	backing, err := os.OpenFile(file, mode, 0)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: flags}}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], file)
	for range 64 { // another process may be faster with a free device
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("LOOP_CTL_GET_FREE", err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), mode, 0)
		if err != nil {
			return nil, err
		}
		// In one step since Linux 5.8.
		if err = unix.IoctlLoopConfigure(int(device.Fd()), &config); err == nil {
			return device, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("loop device of %s: %w", file, err)
		}
	}
	return nil, fmt.Errorf("loop device of %s: others take them all the time: %w", file, unix.EBUSY)
}
