#include "textflag.h"

// func code() unsafe.Pointer
TEXT ·code(SB),NOSPLIT,$0-8
	MOVD $·reaper(SB), R0
	MOVD R0, ret+0(FP)
	RET

// reaper: see podinit_amd64.s.
TEXT ·reaper(SB),NOSPLIT|NOFRAME,$0-0
	SUB  $32, RSP, R9
	MOVD R9, RSP
	MOVZ $0x7263, R0             // "cri-box-"
	MOVK $(0x2d69<<16), R0
	MOVK $(0x6f62<<32), R0
	MOVK $(0x2d78<<48), R0
	MOVD R0, 0(R9)
	MOVZ $0x6e69, R0             // "init"
	MOVK $(0x7469<<16), R0
	MOVD R0, 8(R9)
	MOVZ $(1<<16), R0            // the set {SIGCHLD}
	MOVD R0, 16(R9)
	MOVD $-1, R0                 // the set of all signals
	MOVD R0, 24(R9)

	MOVD $15, R0                 // PR_SET_NAME
	MOVD R9, R1
	MOVD $167, R8                // prctl
	SVC

	MOVD $4, R0                  // PR_SET_DUMPABLE: nobody of this uid may trace it
	MOVD $0, R1
	MOVD $167, R8                // prctl
	SVC

	MOVD $0, R0                  // SIG_BLOCK
	ADD  $24, R9, R1
	MOVD $0, R2
	MOVD $8, R3
	MOVD $135, R8                // rt_sigprocmask
	SVC

reap:
	MOVD $-1, R0                 // any child
	MOVD $0, R1
	MOVZ $1, R2
	MOVK $(0x4000<<16), R2       // WNOHANG|__WALL
	MOVD $0, R3
	MOVD $260, R8                // wait4
	SVC
	CMP  $0, R0
	BGT  reap

	ADD  $16, R9, R0
	MOVD $0, R1
	MOVD $0, R2
	MOVD $8, R3
	MOVD $137, R8                // rt_sigtimedwait: until the next child ends
	SVC
	B    reap
