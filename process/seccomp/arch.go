package seccomp

import (
	"math"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// arch is an architecture as the kernel tells them apart: by the number in
// seccomp_data.arch, and by the range the system call's number is in.
type arch struct {
	name        specs.Arch
	audit       uint32 // AUDIT_ARCH_*
	first, last uint32
	bit         uint32 // set in all of its numbers, though not in the table
	column      column // of the table
	wide        bool   // arguments have 64 bits
}

const (
	x32Bit     = 0x40000000 // __X32_SYSCALL_BIT
	armPrivate = 0xf0000    // __ARM_NR_BASE
)

// family returns what a kernel of this architecture runs, itself first.
// Filters for anything else would be dead code.
func family(native specs.Arch) []arch {
	switch native {
	case specs.ArchX86_64:
		return []arch{
			{native, unix.AUDIT_ARCH_X86_64, 0, x32Bit - 1, 0, colX86_64, true},
			{specs.ArchX32, unix.AUDIT_ARCH_X86_64, x32Bit, math.MaxUint32, x32Bit, colX32, false},
			{specs.ArchX86, unix.AUDIT_ARCH_I386, 0, math.MaxUint32, 0, colX86, false},
		}
	case specs.ArchAARCH64:
		return []arch{
			{native, unix.AUDIT_ARCH_AARCH64, 0, math.MaxUint32, 0, colAARCH64, true},
			// In two parts, so that what is newer than the profile is found in each.
			{specs.ArchARM, unix.AUDIT_ARCH_ARM, 0, armPrivate - 1, 0, colARM, false},
			{specs.ArchARM, unix.AUDIT_ARCH_ARM, armPrivate, math.MaxUint32, 0, colARM, false},
		}
	case specs.ArchRISCV64:
		return []arch{{native, unix.AUDIT_ARCH_RISCV64, 0, math.MaxUint32, 0, colRISCV64, true}}
	case specs.ArchLOONGARCH64:
		return []arch{{native, unix.AUDIT_ARCH_LOONGARCH64, 0, math.MaxUint32, 0, colLOONGARCH64, true}}
	}
	return nil
}

// nativeArch is what this program was built for, so what its kernel is.
func nativeArch() specs.Arch {
	switch runtime.GOARCH {
	case "amd64":
		return specs.ArchX86_64
	case "arm64":
		return specs.ArchAARCH64
	case "riscv64":
		return specs.ArchRISCV64
	case "loong64":
		return specs.ArchLOONGARCH64
	}
	return ""
}

// architectures are those of the spec. One that this kernel does not run may
// be listed all the same.
var architectures = []specs.Arch{
	specs.ArchAARCH64, specs.ArchARM, specs.ArchLOONGARCH64, specs.ArchM68K,
	specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32,
	specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32,
	specs.ArchPARISC, specs.ArchPARISC64, specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE,
	specs.ArchRISCV64, specs.ArchS390, specs.ArchS390X, specs.ArchSH, specs.ArchSHEB,
	specs.ArchX32, specs.ArchX86, specs.ArchX86_64,
}
