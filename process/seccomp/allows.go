package seccomp

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Allows says whether the filter lets a native system call pass without anybody
// being asked: neither a tracer nor an agent. A nil filter lets everything pass.
func (f *Filter) Allows(nr uint32, args ...uint64) bool {
	if f == nil {
		return true
	}
	var data [offsetArgs + 6*8]byte // struct seccomp_data
	binary.NativeEndian.PutUint32(data[offsetNr:], nr)
	binary.NativeEndian.PutUint32(data[offsetArch:], family(nativeArch())[0].audit)
	for i, arg := range args {
		binary.NativeEndian.PutUint64(data[low(uint(i)):], arg)
	}
	action := run(f.Program, data[:]) & unix.SECCOMP_RET_ACTION_FULL
	return action == unix.SECCOMP_RET_ALLOW || action == unix.SECCOMP_RET_LOG
}

// run executes a program that was made here: of the instructions of the BPF
// machine it knows those that assemble writes.
func run(program, data []byte) uint32 {
	const size = 8 // of struct sock_filter
	var word uint32
	for at := 0; ; at += size {
		in := program[at : at+size]
		k := binary.NativeEndian.Uint32(in[4:])
		var jump bool
		switch binary.NativeEndian.Uint16(in) {
		case unix.BPF_RET | unix.BPF_K:
			return k
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			word = binary.NativeEndian.Uint32(data[k:])
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			word &= k
			continue
		case unix.BPF_JMP | unix.BPF_JA:
			at += size * int(k)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump = word == k
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump = word > k
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump = word >= k
		}
		if jump {
			at += size * int(in[2])
		} else {
			at += size * int(in[3])
		}
	}
}
