package explain

import (
	"os"
	"path/filepath"
	"strings"
)

// limitFiles are those of a group that hold limits, by hierarchy: a directory of
// version 1, or "" and "unified" for version 2.
var limitFiles = map[string][]string{
	"memory":  {"memory.limit_in_bytes", "memory.soft_limit_in_bytes"},
	"cpu":     {"cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"},
	"pids":    {"pids.max"},
	"cpuset":  {"cpuset.cpus", "cpuset.mems"},
	"cpuacct": nil, "blkio": nil, "devices": nil, "freezer": nil,
	"unified": {"memory.max", "memory.high", "memory.low", "cpu.max", "cpu.weight", "pids.max"},
}

// ration reads the limits of a process's groups: what is written to which file of
// which hierarchy, by its directory below /sys/fs/cgroup.
func ration(groups map[string]string) map[string]map[string]string {
	out := map[string]map[string]string{}
	for controllers, path := range groups {
		for _, dir := range strings.Split(controllers, ",") {
			where, name := dir, dir
			switch {
			case dir == "" && exists("/sys/fs/cgroup/unified"):
				where, name = "unified", "unified"
			case dir == "":
				where, name = ".", "unified"
			case strings.HasPrefix(dir, "name="):
				continue
			}
			files, ours := limitFiles[name]
			if !ours {
				continue
			}
			out[where] = map[string]string{}
			for _, file := range files {
				text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", where, path, file))
				if value := strings.TrimSpace(string(text)); err == nil && value != "" {
					out[where][file] = value
				}
			}
		}
	}
	return out
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
