package program

import "github.com/opencontainers/runtime-spec/specs-go"

// A mux is a system call that does the work of several, by its first argument:
// socketcall(2) and ipc(2) of i386. A profile that forbids connect(2) means
// that way to it as well.
type mux struct {
	call   string
	number uint64
}

// arg is the condition for it. ipc(2) keeps a version in the upper half of the
// number, which must not be a way around the condition.
func (m mux) arg() specs.LinuxSeccompArg {
	return specs.LinuxSeccompArg{Index: 0, Value: 0xffff, ValueTwo: m.number, Op: specs.OpMaskedEqual}
}

// muxes are from linux/net.h and linux/ipc.h.
var muxes = map[string]mux{
	"socket": {"socketcall", 1}, "bind": {"socketcall", 2}, "connect": {"socketcall", 3}, "listen": {"socketcall", 4},
	"accept": {"socketcall", 5}, "getsockname": {"socketcall", 6}, "getpeername": {"socketcall", 7},
	"socketpair": {"socketcall", 8}, "send": {"socketcall", 9}, "recv": {"socketcall", 10}, "sendto": {"socketcall", 11},
	"recvfrom": {"socketcall", 12}, "shutdown": {"socketcall", 13}, "setsockopt": {"socketcall", 14},
	"getsockopt": {"socketcall", 15}, "sendmsg": {"socketcall", 16}, "recvmsg": {"socketcall", 17},
	"accept4": {"socketcall", 18}, "recvmmsg": {"socketcall", 19}, "sendmmsg": {"socketcall", 20},
	"semop": {"ipc", 1}, "semget": {"ipc", 2}, "semctl": {"ipc", 3}, "semtimedop": {"ipc", 4}, "msgsnd": {"ipc", 11},
	"msgrcv": {"ipc", 12}, "msgget": {"ipc", 13}, "msgctl": {"ipc", 14}, "shmat": {"ipc", 21}, "shmdt": {"ipc", 22},
	"shmget": {"ipc", 23}, "shmctl": {"ipc", 24},
}

func muxOf(abi, name string) (mux, bool) {
	if abi != "i386" {
		return mux{}, false
	}
	m, ok := muxes[name]
	return m, ok
}
