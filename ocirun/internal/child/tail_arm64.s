#include "textflag.h"

// The tail's code; see tail.go for the layout of what it reads. It is copied out of
// this binary into the tail's image and never runs here.
//
// R19 entry, R21 its flags, R22 errno, R20 the stack pointer at entry: argc, argv…
TEXT ·tailCode(SB), NOSPLIT|NOFRAME, $0-0
	// Offset 0 is the handler of signals: exit_group(128 + signal).
	ADD  $128, R0, R0
	MOVD $94, R8                // exit_group
	SVC
	PCALIGN $32

	// Offset 32 is the entry.
	MOVD RSP, R20
	MOVZ $0x1040, R19
	MOVK $(0x40<<16), R19

call:
	MOVD 0(R19), R8
	MOVD 8(R19), R0
	MOVD 16(R19), R1
	MOVD 24(R19), R2
	MOVD 32(R19), R3
	MOVD 40(R19), R4
	MOVD 48(R19), R5
	MOVD 56(R19), R21
	TBZ  $1, R21, enter
	MOVD 8(R20), R0             // argv[0] is the path
	ADD  $16, R20, R1           // the user's argv follows
	MOVD 0(R20), R2             // argc
	LSL  $3, R2, R2
	ADD  R20, R2, R2
	ADD  $16, R2, R2            // envp

enter:
	TBZ  $2, R21, make
	MOVD 8(R20), R1             // the second argument is the path

make:
	SVC
	CMN  $4095, R0
	BCC  next
	TBZ  $2, R21, judge
	CMN  $13, R0                // only EACCES counts
	BNE  next

judge:
	TBNZ $0, R21, next
	NEG  R0, R22
	SUB  $32, RSP
	MOVW $2, R3                 // KindTailFailed
	MOVW R3, 0(RSP)
	MOVW ZR, 4(RSP)
	MOVZ $0x1040, R4
	MOVK $(0x40<<16), R4
	SUB  R4, R19, R4
	LSR  $6, R4, R4
	MOVW R4, 8(RSP)
	MOVW R22, 12(RSP)
	MOVZ $0x1000, R23
	MOVK $(0x40<<16), R23
	MOVD 0(R23), R0
	MOVD RSP, R1
	MOVD $16, R2
	MOVD $0x4000, R3            // MSG_NOSIGNAL
	MOVD ZR, R4
	MOVD ZR, R5
	MOVD $206, R8               // sendto
	SVC
	TBZ  $1, R21, quit
	MOVD 8(R23), R19            // texts: {errno, address, length}

text:
	MOVD 0(R19), R1
	CBZ  R1, say
	CMP  R1, R22
	BEQ  say
	ADD  $24, R19, R19
	JMP  text

next:
	ADD $64, R19, R19
	JMP call

say:
	MOVD $2, R0
	MOVD 8(R19), R1
	MOVD 16(R19), R2
	MOVD $64, R8                // write
	SVC

quit:
	MOVD $255, R0
	MOVD $94, R8                // exit_group
	SVC
	JMP  quit
	WORD $0x7a11e4d0
	WORD $0x7a11e4d1

// func tailStart() uintptr
TEXT ·tailStart(SB), NOSPLIT, $0-8
	MOVD $·tailCode(SB), R0
	MOVD R0, ret+0(FP)
	RET
