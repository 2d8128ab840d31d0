#include "textflag.h"

// The tail's code; see tail.go for the layout of what it reads. It is copied out of
// this binary into the tail's image and never runs here.
//
// R12 entry, R13 its flags, R14 errno, R15 the stack pointer at entry: argc, argv…
TEXT ·tailCode(SB), NOSPLIT|NOFRAME, $0-0
	// Offset 0 is the handler of signals: exit_group(128 + signal).
	LEAQ 128(DI), DI
	MOVQ $231, AX
	SYSCALL
	PCALIGN $32

	// Offset 32 is the entry.
	MOVQ SP, R15
	MOVQ $0x401040, R12

call:
	MOVQ  0(R12), AX
	MOVQ  8(R12), DI
	MOVQ  16(R12), SI
	MOVQ  24(R12), DX
	MOVQ  32(R12), R10
	MOVQ  40(R12), R8
	MOVQ  48(R12), R9
	MOVQ  56(R12), R13
	TESTQ $2, R13
	JZ    enter
	MOVQ  8(R15), DI            // argv[0] is the path
	LEAQ  16(R15), SI           // the user's argv follows
	MOVQ  0(R15), DX            // argc
	LEAQ  16(R15)(DX*8), DX     // envp

enter:
	TESTQ $4, R13
	JZ    make
	MOVQ  8(R15), SI            // the second argument is the path

make:
	SYSCALL
	CMPQ AX, $-4095
	JCS  next                   // unsigned below: no error
	TESTQ $4, R13
	JZ   judge
	CMPQ AX, $-13               // only EACCES counts
	JNE  next

judge:
	TESTQ $1, R13
	JNZ  next
	JMP  fail

next:
	ADDQ $64, R12
	JMP  call

fail:
	NEGQ AX
	MOVQ AX, R14
	SUBQ $32, SP
	MOVL $2, 0(SP)              // KindTailFailed
	MOVL $0, 4(SP)
	MOVQ R12, AX
	SUBQ $0x401040, AX
	SHRQ $6, AX
	MOVL AX, 8(SP)
	MOVL R14, 12(SP)
	MOVQ $44, AX                // sendto
	MOVQ $0x401000, BX
	MOVQ 0(BX), DI
	MOVQ SP, SI
	MOVQ $16, DX
	MOVQ $0x4000, R10           // MSG_NOSIGNAL
	XORQ R8, R8
	XORQ R9, R9
	SYSCALL
	TESTQ $2, R13
	JZ   quit
	MOVQ 8(BX), R12             // texts: {errno, address, length}

text:
	MOVQ 0(R12), AX
	TESTQ AX, AX
	JZ   say
	CMPQ AX, R14
	JEQ  say
	ADDQ $24, R12
	JMP  text

say:
	MOVQ $1, AX                 // write
	MOVQ $2, DI
	MOVQ 8(R12), SI
	MOVQ 16(R12), DX
	SYSCALL

quit:
	MOVQ $231, AX               // exit_group
	MOVQ $255, DI
	SYSCALL
	JMP  quit
	LONG $0x7a11e4d0
	LONG $0x7a11e4d1

// func tailStart() uintptr
TEXT ·tailStart(SB), NOSPLIT, $0-8
	LEAQ ·tailCode(SB), AX
	MOVQ AX, ret+0(FP)
	RET
