#include "textflag.h"

// func entry, the program's entry point; entry_amd64.s says why.
TEXT probe_entry(SB),NOSPLIT|NOFRAME,$0
	MOVD	$1, R19
signal:
	// rt_sigaction(n, NULL, &actions[n-1], 8)
	MOVD	$134, R8
	MOVD	R19, R0
	MOVD	$0, R1
	MOVD	$·actions(SB), R2
	SUB	$1, R19, R20
	ADD	R20<<5, R2
	MOVD	$8, R3
	SVC
	ADD	$1, R19
	CMP	$64, R19
	BLE	signal

	// rt_sigprocmask(SIG_BLOCK, NULL, &blocked, 8)
	MOVD	$135, R8
	MOVD	$0, R0
	MOVD	$0, R1
	MOVD	$·blocked(SB), R2
	MOVD	$8, R3
	SVC

	// prlimit64(0, RLIMIT_NOFILE, NULL, &nofile)
	MOVD	$261, R8
	MOVD	$0, R0
	MOVD	$7, R1
	MOVD	$0, R2
	MOVD	$·nofile(SB), R3
	SVC

	MOVD	$1, R0
	MOVD	R0, ·captured(SB)
	JMP	_rt0_arm64_linux(SB)
