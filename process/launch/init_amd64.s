#include "go_asm.h"
#include "textflag.h"

// The tiny init: it maps the script that it finds at ScriptFD and walks it.
// Package script describes the image. These bytes are never run in the shim:
// program.go copies them into an ELF file of their own. So there is no stack, no
// Go and no libc in here, and all that it refers to is the image at Base.
//
//	R12  Base
//	BX  the step, 64 bytes
//	DI, SI, DX, R10, R8, R9  its arguments, where the kernel wants them
//	AX  its number, then its result
TEXT ·initText(SB), NOSPLIT|NOFRAME, $0
	// mmap(Base, Size, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED, ScriptFD, 0)
	MOVL $const_base, DI
	MOVL $const_size, SI
	MOVL $3, DX
	MOVL $0x12, R10
	MOVL $const_scriptFD, R8
	XORL R9, R9
	MOVL $9, AX
	SYSCALL
	CMPQ AX, DI
	JNE  exit
	MOVQ AX, R12
	MOVQ 16(R12), BX

load:
	MOVBLZX 4(BX), CX
	MOVQ    8(BX), DI
	TESTB   $1, CX
	JEQ     arg1
	MOVQ    (DI), DI

arg1:
	MOVQ  16(BX), SI
	TESTB $2, CX
	JEQ   arg2
	MOVQ  (SI), SI

arg2:
	MOVQ  24(BX), DX
	TESTB $4, CX
	JEQ   arg3
	MOVQ  (DX), DX

arg3:
	MOVQ  32(BX), R10
	TESTB $8, CX
	JEQ   arg4
	MOVQ  (R10), R10

arg4:
	MOVQ  40(BX), R8
	TESTB $16, CX
	JEQ   arg5
	MOVQ  (R8), R8

arg5:
	MOVQ  48(BX), R9
	TESTB $32, CX
	JEQ   call
	MOVQ  (R9), R9

call:
	MOVL (BX), AX
	CMPL AX, $-1
	JEQ  jump
	CMPL AX, $-2
	JEQ  set
	SYSCALL              // takes CX and R11
	CMPQ AX, $-4095
	JCC  failed          // unsigned: -4095 to -1

store:
	MOVQ 56(BX), CX
	MOVQ AX, (CX)

next:
	ADDQ $64, BX
	JMP  load

set:
	MOVQ DI, AX
	JMP  store

jump:
	CMPQ DI, SI
	JNE  next
	MOVQ DX, BX
	JMP  load

failed:
	MOVWLZX 6(BX), CX
	CMPL    CX, $0xffff
	JEQ     store
	MOVQ    AX, DX
	NEGQ    DX
	CMPL    CX, DX
	JEQ     store

	// write(ControlFD, Base, ReportSize), then read(ControlFD, Base, 1): wait until the shim
	// has looked at what is open here, or is gone.
	MOVQ BX, 0(R12)
	MOVQ DX, 8(R12)
	MOVL $const_controlFD, DI
	MOVQ R12, SI
	MOVL $const_reportSize, DX
	MOVL $1, AX
	SYSCALL
	MOVL $const_controlFD, DI
	MOVQ R12, SI
	MOVL $1, DX
	XORL AX, AX
	SYSCALL

exit:
	MOVL $127, DI
	MOVL $231, AX
	SYSCALL
	INT  $3

	// endMark in program.go
	QUAD $0x7420666f20646e65
	QUAD $0x2e74696e69206568

// func initStart() *byte
TEXT ·initStart(SB), NOSPLIT, $0-8
	LEAQ ·initText(SB), AX
	MOVQ AX, ret+0(FP)
	RET
