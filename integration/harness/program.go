package harness

import (
	"bytes"
	"encoding/binary"
	"runtime"
)

// Programs of a few instructions. They cost nothing to start, so that a
// benchmark measures the runtime; and they do nothing before their own system
// call, so that what /proc shows of their process — descriptors, limits, signal
// masks, ignored signals — is what it was started with. A Go program changes
// most of them.

// Still waits for ever.
func Still() []byte { return executable(pauseForever()) }

// Quick exits with 0.
func Quick() []byte {
	if runtime.GOARCH == "arm64" {
		return executable(words(
			0xd2800000,       // mov x0, #0
			0xd2800008|94<<5, // mov x8, #94 (exit_group)
			0xd4000001,       // svc #0
		))
	}
	return executable([]byte{
		0x31, 0xff, // xor %edi, %edi
		0xb8, 231, 0, 0, 0, // mov $231, %eax (exit_group)
		0x0f, 0x05, // syscall
	})
}

// Ready is what Hello writes.
const Ready = "ready\n"

// Hello writes Ready to stdout and waits for ever.
func Hello() []byte {
	rest := pauseForever()
	var code []byte
	if runtime.GOARCH == "arm64" {
		code = words(
			0xd2800020, // mov x0, #1
			0x10000001|uint32((4*4+len(rest))>>2)<<5, // adr x1, behind the code
			0xd2800002|uint32(len(Ready))<<5,         // mov x2, length
			0xd2800008|64<<5,                         // mov x8, #64 (write)
			0xd4000001,                               // svc #0
		)
	} else {
		code = []byte{
			0xb8, 1, 0, 0, 0, // mov $1, %eax (write)
			0xbf, 1, 0, 0, 0, // mov $1, %edi
			0x48, 0x8d, 0x35, byte(7 + len(rest)), 0, 0, 0, // lea behind the code, %rsi
			0xba, byte(len(Ready)), 0, 0, 0, // mov length, %edx
			0x0f, 0x05, // syscall
		}
	}
	return executable(append(append(code, rest...), Ready...))
}

func pauseForever() []byte {
	if runtime.GOARCH == "arm64" {
		return words(
			0xd2800000,       // mov x0, #0
			0xd2800001,       // mov x1, #0
			0xd2800002,       // mov x2, #0
			0xd2800003,       // mov x3, #0
			0xd2800008|73<<5, // mov x8, #73 (ppoll)
			0xd4000001,       // svc #0
			0x17fffffa,       // b to the start
		)
	}
	return []byte{
		0xb8, 34, 0, 0, 0, // mov $34, %eax (pause)
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp to the start
	}
}

func words(ops ...uint32) []byte {
	var code []byte
	for _, op := range ops {
		code = binary.LittleEndian.AppendUint32(code, op)
	}
	return code
}

// Executable puts ELF headers before code for this machine.
func executable(code []byte) []byte {
	machine := uint16(62) // x86-64
	if runtime.GOARCH == "arm64" {
		machine = 183
	}
	const base, headers = 0x400000, 64 + 56
	var out bytes.Buffer
	for _, v := range []any{
		[16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1},
		uint16(2), machine, uint32(1), // executable
		uint64(base + headers), uint64(64), uint64(0), // entry, program headers, sections
		uint32(0), uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), // load, read and execute
		uint64(0), uint64(base), uint64(base),
		uint64(headers + len(code)), uint64(headers + len(code)), uint64(0x1000),
		code,
	} {
		_ = binary.Write(&out, binary.LittleEndian, v) // to memory
	}
	return out.Bytes()
}
