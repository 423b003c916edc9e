#include "textflag.h"

// func code() unsafe.Pointer
TEXT ·code(SB),NOSPLIT,$0-8
	MOVQ $·reaper(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// reaper is never called: it is copied into an executable of its own, where the
// kernel enters it with a stack.
TEXT ·reaper(SB),NOSPLIT|NOFRAME,$0-0
	MOVQ $0x2d786f622d697263, AX // "cri-box-"
	MOVQ AX, -32(SP)
	MOVQ $0x74696e69, AX         // "init"
	MOVQ AX, -24(SP)
	MOVQ $0x10000, AX            // the set {SIGCHLD}
	MOVQ AX, -16(SP)
	MOVQ $-1, AX                 // the set of all signals
	MOVQ AX, -8(SP)

	MOVL $15, DI                 // PR_SET_NAME
	LEAQ -32(SP), SI
	MOVL $157, AX                // prctl
	SYSCALL

	MOVL $4, DI                  // PR_SET_DUMPABLE: nobody of this uid may trace it
	XORL SI, SI
	MOVL $157, AX                // prctl
	SYSCALL

	XORL DI, DI                  // SIG_BLOCK
	LEAQ -8(SP), SI
	XORL DX, DX
	MOVL $8, R10
	MOVL $14, AX                 // rt_sigprocmask
	SYSCALL

reap:
	MOVQ $-1, DI                 // any child
	XORL SI, SI
	MOVL $0x40000001, DX         // WNOHANG|__WALL
	XORL R10, R10
	MOVL $61, AX                 // wait4
	SYSCALL
	TESTQ AX, AX
	JGT  reap

	LEAQ -16(SP), DI
	XORL SI, SI
	XORL DX, DX
	MOVL $8, R10
	MOVL $128, AX                // rt_sigtimedwait: until the next child ends
	SYSCALL
	JMP  reap
