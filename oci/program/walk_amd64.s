#include "textflag.h"

// The child's interpreter. It has no stack and no Go: while it runs, its memory
// is the spawner's own (CLONE_VM), and the spawner's thread sleeps in clone3
// (CLONE_VFORK) on the very stack this code stands on. So nothing here pushes,
// calls or returns; all state is in registers, which are the child's own.
//
//	R12 the op    R13 ops left    BX the report page (layout: encode.go)    R15 an inner clone's

// func clone(args *cloneArgs, ops *byte, n uintptr, page, inner *byte) (r uintptr)
TEXT ·clone(SB),NOSPLIT|NOFRAME,$0-48
	MOVQ args+0(FP), DI
	MOVQ $88, SI              // sizeof(struct clone_args)
	MOVQ ops+8(FP), R12
	MOVQ n+16(FP), R13
	MOVQ page+24(FP), BX
	MOVQ inner+32(FP), R15
	MOVL $435, AX             // clone3
	SYSCALL
	TESTQ AX, AX
	JEQ  op
	MOVQ AX, r+40(FP)         // the spawner: pid or -errno
	RET

op:
	MOVQ R13, 0(BX)           // where we are: how many ops are left
	TESTQ R13, R13
	JEQ  exit

	MOVBQSX 5(R12), AX        // if
	TESTQ AX, AX
	JEQ  call
	JLT  ifnegative
	CMPQ 56(BX)(AX*8), $0
	JLT  next
	JMP  call
ifnegative:
	NEGQ AX
	CMPQ 56(BX)(AX*8), $0
	JGE  next

call:
	MOVQ 8(R12), DI
	MOVQ 16(R12), SI
	MOVQ 24(R12), DX
	MOVQ 32(R12), R10
	MOVQ 40(R12), R8
	MOVQ 48(R12), R9
	MOVBQZX 6(R12), AX        // arguments that name registers
	TESTQ AX, AX
	JEQ  enter
	BTQ  $0, AX
	JCC  2(PC)
	MOVQ 64(BX)(DI*8), DI
	BTQ  $1, AX
	JCC  2(PC)
	MOVQ 64(BX)(SI*8), SI
	BTQ  $2, AX
	JCC  2(PC)
	MOVQ 64(BX)(DX*8), DX
	BTQ  $3, AX
	JCC  2(PC)
	MOVQ 64(BX)(R10*8), R10
	BTQ  $4, AX
	JCC  2(PC)
	MOVQ 64(BX)(R8*8), R8
	BTQ  $5, AX
	JCC  2(PC)
	MOVQ 64(BX)(R9*8), R9
enter:
	MOVL 0(R12), AX
	SYSCALL                   // the kernel destroys RCX and R11 only

	CMPQ AX, $0xfffffffffffff001
	JLS  store                // no error
	MOVQ AX, CX
	NEGQ CX
	CMPQ CX, $64
	JGE  fail
	MOVQ 56(R12), DX
	BTQ  CX, DX
	JCC  fail
	MOVQ CX, 16(BX)           // a tolerated error
store:
	MOVBQZX 4(R12), CX
	TESTQ CX, CX
	JEQ  keep
	MOVQ AX, 56(BX)(CX*8)
keep:
	MOVQ 64(R12), CX          // a place in the data
	TESTQ CX, CX
	JEQ  leave
	MOVL AX, 0(CX)
leave:
	TESTB $1, 7(R12)
	JEQ  next
	TESTQ AX, AX
	JGT  exit                 // the parent of an inner clone
	MOVQ R15, BX              // the inner clone has no other page
next:
	ADDQ $72, R12
	DECQ R13
	JMP  op

fail:
	MOVQ CX, 8(BX)
	MOVL $127, DI
	JMP  quit
exit:
	XORL DI, DI
quit:
	MOVL $231, AX             // exit_group
	SYSCALL
	MOVQ DI, 8                // a filter refused it: end by SIGSEGV
	JMP  quit
