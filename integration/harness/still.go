package harness

import (
	"bytes"
	"encoding/binary"
	"runtime"
)

// Still is an executable that waits for ever, and does nothing before: what
// /proc shows of its process — descriptors, limits, signal masks, ignored
// signals — is what it was started with. A Go program changes most of them.
func Still() []byte {
	var machine uint16
	var code []byte
	switch runtime.GOARCH {
	case "amd64":
		machine = 62
		code = []byte{
			0xb8, 34, 0, 0, 0, // mov $34, %eax (pause)
			0x0f, 0x05, // syscall
			0xeb, 0xf7, // jmp to the start
		}
	case "arm64":
		machine = 183
		for _, op := range []uint32{
			0xd2800000,             // mov x0, #0
			0xd2800001,             // mov x1, #0
			0xd2800002,             // mov x2, #0
			0xd2800003,             // mov x3, #0
			0xd2800000 | 73<<5 | 8, // mov x8, #73 (ppoll)
			0xd4000001,             // svc #0
			0x17fffffa,             // b to the start
		} {
			code = binary.LittleEndian.AppendUint32(code, op)
		}
	default:
		panic("still: no code for " + runtime.GOARCH)
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
