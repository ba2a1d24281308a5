package cgroup

// instruction is the kernel's struct bpf_insn.
type instruction struct {
	code   uint8
	regs   uint8 // destination, and source in the upper half
	offset int16
	value  int32
}

// The instructions a device program needs, named after their assembler form.
const (
	ldxw     = 0x61 // dst = *(u32 *)(src + offset)
	movImm   = 0xb4 // the 32-bit forms, which leave the upper half zero
	movReg   = 0xbc
	andImm   = 0x54
	rshImm   = 0x74
	jneImm   = 0x56
	jneReg   = 0x5e
	jeqImm   = 0x16
	exitCode = 0x95
)

// Registers of the program.
const (
	rResult = iota
	rContext
	rKind
	rAccess
	rMajor
	rMinor
	rScratch
)

// program is the BPF program (BPF_PROG_TYPE_CGROUP_DEVICE) that does what the
// filter says. Its context is struct bpf_cgroup_dev_ctx: access<<16 | type,
// major, minor.
//
// runc's program, other than v1's controller, lets through what asks for more
// than was denied: with "w" denied, an open for reading and writing. Here any
// overlap with what is denied is denied.
func (f filter) program() []instruction {
	const blockDevice, charDevice = 1, 2
	code := []instruction{
		{ldxw, rKind | rContext<<4, 0, 0},
		{andImm, rKind, 0, 0xffff},
		{ldxw, rAccess | rContext<<4, 0, 0},
		{rshImm, rAccess, 0, 16},
		{ldxw, rMajor | rContext<<4, 4, 0},
		{ldxw, rMinor | rContext<<4, 8, 0},
	}
	answer := func(allow bool) []instruction {
		result := int32(0)
		if allow {
			result = 1
		}
		return []instruction{{movImm, rResult, 0, result}, {exitCode, 0, 0, 0}}
	}
	for _, d := range f.ordered() {
		kind := int32(charDevice)
		if d.kind == 'b' {
			kind = blockDevice
		}
		block := []instruction{{jneImm, rKind, 0, kind}}
		if d.major >= 0 {
			block = append(block, instruction{jneImm, rMajor, 0, int32(uint32(d.major))})
		}
		if d.minor >= 0 {
			block = append(block, instruction{jneImm, rMinor, 0, int32(uint32(d.minor))})
		}
		if a := f.exceptions[d]; a != read|write|mknod {
			block = append(block, instruction{movReg, rScratch | rAccess<<4, 0, 0}, instruction{andImm, rScratch, 0, int32(a)})
			if f.allow { // no overlap: not denied here
				block = append(block, instruction{jeqImm, rScratch, 0, 0})
			} else { // more than this: not allowed here
				block = append(block, instruction{jneReg, rScratch | rAccess<<4, 0, 0})
			}
		}
		block = append(block, answer(!f.allow)...)
		for i, in := range block {
			if in.code == jneImm || in.code == jneReg || in.code == jeqImm {
				block[i].offset = int16(len(block) - i - 1)
			}
		}
		code = append(code, block...)
	}
	return append(code, answer(f.allow)...)
}
