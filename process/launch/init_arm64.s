#include "go_asm.h"
#include "textflag.h"

// The tiny init for arm64; init_amd64.s explains it.
//
//	R19  Base
//	R20  the step, 64 bytes
//	R0 to R5  its arguments, where the kernel wants them
//	R8   its number
//	R0   its result
TEXT ·initText(SB), NOSPLIT|NOFRAME, $0
	// mmap(Base, Size, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED, ScriptFD, 0)
	MOVD $const_base, R19
	MOVD R19, R0
	MOVD $const_size, R1
	MOVD $3, R2
	MOVD $0x12, R3
	MOVD $const_scriptFD, R4
	MOVD $0, R5
	MOVD $222, R8
	SVC
	CMP  R0, R19
	BNE  exit
	MOVD 16(R19), R20

load:
	MOVBU 4(R20), R9
	MOVD  8(R20), R0
	TBZ   $0, R9, arg1
	MOVD  (R0), R0

arg1:
	MOVD 16(R20), R1
	TBZ  $1, R9, arg2
	MOVD (R1), R1

arg2:
	MOVD 24(R20), R2
	TBZ  $2, R9, arg3
	MOVD (R2), R2

arg3:
	MOVD 32(R20), R3
	TBZ  $3, R9, arg4
	MOVD (R3), R3

arg4:
	MOVD 40(R20), R4
	TBZ  $4, R9, arg5
	MOVD (R4), R4

arg5:
	MOVD 48(R20), R5
	TBZ  $5, R9, call
	MOVD (R5), R5

call:
	MOVW  (R20), R8       // sign-extended
	CMN   $1, R8
	BEQ   jump
	CMN   $2, R8
	BEQ   set
	SVC
	CMN   $4095, R0
	BHS   failed          // unsigned: -4095 to -1

store:
	MOVD 56(R20), R9
	MOVD R0, (R9)

next:
	ADD $64, R20
	B   load

set:
	B store

jump:
	CMP R0, R1
	BNE next
	MOVD R2, R20
	B   load

failed:
	MOVHU 6(R20), R9
	NEG   R0, R10
	MOVD  $0xffff, R11
	CMP   R9, R11
	BEQ   store
	CMP   R9, R10
	BEQ   store

	// write(ControlFD, Base, ReportSize), then read(ControlFD, Base, 1)
	MOVD R20, 0(R19)
	MOVD R10, 8(R19)
	MOVD $const_controlFD, R0
	MOVD R19, R1
	MOVD $const_reportSize, R2
	MOVD $64, R8
	SVC
	MOVD $const_controlFD, R0
	MOVD R19, R1
	MOVD $1, R2
	MOVD $63, R8
	SVC

exit:
	MOVD $127, R0
	MOVD $94, R8
	SVC
	BRK

	// endMark in program.go
	WORD $0x20646e65
	WORD $0x7420666f
	WORD $0x69206568
	WORD $0x2e74696e

// func initStart() *byte
TEXT ·initStart(SB), NOSPLIT, $0-8
	MOVD $·initText(SB), R0
	MOVD R0, ret+0(FP)
	RET
