package guards

// The bounds per pod with one container, without volumes, on cgroup v1 in hybrid
// mode (ten hierarchies). No sync and no process but the container's own.
var (
	upBounds   = map[string]int{"processes": 1, "execve": 1, "mounts": 94, "syncs": 0, "opens": 114, "sends": 22, "renames": 4, "mkdirs": 52}
	execBounds = map[string]int{"processes": 2, "execve": 1, "mounts": 0, "syncs": 0, "opens": 14, "sends": 5, "renames": 0, "mkdirs": 1}
	downBounds = map[string]int{"processes": 0, "execve": 0, "mounts": 2, "syncs": 0, "opens": 26, "sends": 8, "renames": 0, "mkdirs": 0}
)
