#include "textflag.h"

// The child's interpreter: see walk_amd64.s, which this mirrors line by line.
//
//	R19 the op    R20 ops left    R21 the report page    R22 registers - 8    R23 an inner clone's page

// func clone(args *cloneArgs, ops *byte, n uintptr, page, inner *byte) (r uintptr)
TEXT ·clone(SB),NOSPLIT|NOFRAME,$0-48
	MOVD args+0(FP), R0
	MOVD $88, R1              // sizeof(struct clone_args)
	MOVD ops+8(FP), R19
	MOVD n+16(FP), R20
	MOVD page+24(FP), R21
	MOVD inner+32(FP), R23
	ADD  $56, R21, R22
	MOVD $435, R8             // clone3
	SVC
	CBZ  R0, op
	MOVD R0, r+40(FP)         // the spawner: pid or -errno
	RET

op:
	MOVD R20, 0(R21)          // where we are: how many ops are left
	CBZ  R20, exit

	MOVB 5(R19), R9           // if
	CBZ  R9, call
	TBNZ $63, R9, ifnegative
	MOVD (R22)(R9<<3), R10
	TBNZ $63, R10, next
	B    call
ifnegative:
	NEG  R9, R9
	MOVD (R22)(R9<<3), R10
	TBZ  $63, R10, next

call:
	MOVD 8(R19), R0
	MOVD 16(R19), R1
	MOVD 24(R19), R2
	MOVD 32(R19), R3
	MOVD 40(R19), R4
	MOVD 48(R19), R5
	MOVBU 6(R19), R9          // arguments that name registers
	CBZ  R9, enter
	ADD  $64, R21, R10
	TBZ  $0, R9, 2(PC)
	MOVD (R10)(R0<<3), R0
	TBZ  $1, R9, 2(PC)
	MOVD (R10)(R1<<3), R1
	TBZ  $2, R9, 2(PC)
	MOVD (R10)(R2<<3), R2
	TBZ  $3, R9, 2(PC)
	MOVD (R10)(R3<<3), R3
	TBZ  $4, R9, 2(PC)
	MOVD (R10)(R4<<3), R4
	TBZ  $5, R9, 2(PC)
	MOVD (R10)(R5<<3), R5
enter:
	MOVWU 0(R19), R8
	SVC                       // the kernel destroys R0 only

	MOVD $-4095, R9
	CMP  R9, R0
	BLO  store                // no error
	NEG  R0, R11
	CMP  $64, R11
	BGE  fail
	MOVD 56(R19), R9
	LSR  R11, R9, R9
	TBZ  $0, R9, fail
	MOVD R11, 16(R21)         // a tolerated error
store:
	MOVBU 4(R19), R9
	CBZ  R9, keep
	MOVD R0, (R22)(R9<<3)
keep:
	MOVD 64(R19), R9          // a place in the data
	CBZ  R9, leave
	MOVW R0, (R9)
leave:
	MOVBU 7(R19), R9
	TBZ  $0, R9, next
	CMP  $0, R0
	BGT  exit                 // the parent of an inner clone
	MOVD R23, R21             // the inner clone has no other page
	ADD  $56, R21, R22
next:
	ADD  $72, R19
	SUB  $1, R20
	B    op

fail:
	MOVD R11, 8(R21)
	MOVD $127, R0
	B    quit
exit:
	MOVD ZR, R0
quit:
	MOVD $94, R8              // exit_group
	SVC
	MOVD ZR, R9
	MOVD R9, 8(R9)            // a filter refused it: end by SIGSEGV
	B    quit
