#include "textflag.h"

// func entry, the program's entry point (go build -ldflags=-E=probe_entry).
//
// The Go runtime installs a handler for every signal and unblocks some, and
// package syscall raises the soft RLIMIT_NOFILE, all before main. So ask the kernel first, then go on
// to Go's own entry point with the stack as execve left it.
TEXT probe_entry(SB),NOSPLIT|NOFRAME,$0
	MOVQ	$1, R12
signal:
	// rt_sigaction(n, NULL, &actions[n-1], 8)
	MOVQ	$13, AX
	MOVQ	R12, DI
	MOVQ	$0, SI
	LEAQ	·actions(SB), DX
	MOVQ	R12, CX
	DECQ	CX
	SHLQ	$5, CX
	ADDQ	CX, DX
	MOVQ	$8, R10
	SYSCALL
	INCQ	R12
	CMPQ	R12, $64
	JLE	signal

	// rt_sigprocmask(SIG_BLOCK, NULL, &blocked, 8)
	MOVQ	$14, AX
	MOVQ	$0, DI
	MOVQ	$0, SI
	LEAQ	·blocked(SB), DX
	MOVQ	$8, R10
	SYSCALL

	// prlimit64(0, RLIMIT_NOFILE, NULL, &nofile)
	MOVQ	$302, AX
	MOVQ	$0, DI
	MOVQ	$7, SI
	MOVQ	$0, DX
	LEAQ	·nofile(SB), R10
	SYSCALL

	MOVQ	$1, ·captured(SB)
	JMP	_rt0_amd64_linux(SB)
