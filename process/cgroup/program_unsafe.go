package cgroup

import (
	"errors"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attachProgram makes a device program the one of a v2 group. The one that is
// there already is replaced in one step (BPF_F_REPLACE, Linux 5.6): there is no
// moment without a program, nor one with both.
//
// This, and not cilium/ebpf, because it is all that is needed of it, and would
// add 1.2 MB and the initialization of 30 packages to every shim.
func attachProgram(group dir, program []instruction) error {
	// The kernel wants a descriptor that is not O_PATH.
	fd, err := group.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ids, err := attachedPrograms(fd)
	if err != nil {
		return err
	}
	var old []int
	defer func() {
		for _, fd := range old {
			unix.Close(fd)
		}
	}()
	for _, id := range ids {
		prog, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&id), unsafe.Sizeof(id))
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOENT) {
			continue // an LSM keeps it, or it is gone: it can only deny more
		}
		if err != nil {
			return err
		}
		old = append(old, prog)
	}
	prog, err := loadProgram(program)
	if err != nil {
		return err
	}
	defer unix.Close(prog)
	attach := attachment{target: uint32(fd), program: uint32(prog), kind: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	if len(old) == 1 {
		attach.flags |= unix.BPF_F_REPLACE
		attach.replaced = uint32(old[0])
	}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attach), unsafe.Sizeof(attach)); err != nil || len(old) == 1 {
		return err
	}
	// Several: systemd does not take its old ones away.
	for _, prog := range old {
		detach := attachment{target: uint32(fd), program: uint32(prog), kind: unix.BPF_CGROUP_DEVICE}
		if _, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&detach), unsafe.Sizeof(detach)); err != nil {
			return err
		}
	}
	return nil
}

// The following are the parts of union bpf_attr, each from its start.

type attachment struct {
	target, program, kind, flags, replaced uint32
}

type load struct {
	kind, count     uint32
	program         unsafe.Pointer
	license         unsafe.Pointer
	logLevel, logSz uint32
	log             unsafe.Pointer
}

type query struct {
	target, kind, how, flags uint32
	ids                      unsafe.Pointer
	count                    uint32
	_                        uint32
	_                        [3]uint64
	// Linux 6.17 and later write this, however long we say that we are.
	revision uint64
}

// maxPrograms is how many the kernel lets a group have.
const maxPrograms = 64

func attachedPrograms(fd int) ([]uint32, error) {
	var ids [maxPrograms]uint32
	q := query{target: uint32(fd), kind: unix.BPF_CGROUP_DEVICE, ids: unsafe.Pointer(&ids), count: maxPrograms}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&q), unsafe.Sizeof(q))
	runtime.KeepAlive(&ids)
	if err != nil {
		return nil, err
	}
	return ids[:q.count], nil
}

func loadProgram(program []instruction) (int, error) {
	license := [...]byte{'A', 'p', 'a', 'c', 'h', 'e', 0}
	l := load{
		kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(program)),
		program: unsafe.Pointer(unsafe.SliceData(program)), license: unsafe.Pointer(&license),
	}
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&l), unsafe.Sizeof(l))
	runtime.KeepAlive(program)
	runtime.KeepAlive(&license)
	return fd, err
}

// bpf is the system call. attr must point to size bytes; what it points to in
// turn must live until the call returns, in memory that does not move: pointers
// in attr are followed by the kernel, and the garbage collector sees them, but
// the stack must not grow meanwhile, which it does not in a system call.
func bpf(command int, attr unsafe.Pointer, size uintptr) (int, error) {
	// The verifier gives up with EAGAIN when a signal comes.
	for range 30 {
		fd, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
		switch errno {
		case 0:
			return int(fd), nil
		case unix.EAGAIN, unix.EINTR:
			continue
		}
		return -1, os.NewSyscallError("bpf", errno)
	}
	return -1, os.NewSyscallError("bpf", unix.EAGAIN)
}
