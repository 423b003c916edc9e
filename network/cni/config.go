package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

const (
	configLimit = 1 << 20 // bytes read of one file
	filesLimit  = 1000    // files looked at in one directory
)

// A configuration is one network that a file describes.
type configuration struct {
	file string
	list *libcni.NetworkConfigList
	text []byte // the whole list in one piece, see flat
}

// A Problem is a configuration file that cannot be used.
type Problem struct {
	File string `json:"file"`
	Why  string `json:"why"`
}

func (p Problem) String() string { return p.File + ": " + p.Why }

// errNone is wrapped when there is no configuration at all.
var errNone = errors.New("there is no CNI configuration")

// choose returns the configuration that serves: the first in the order of
// directories and file names that can be used. A file that went bad while it
// served keeps serving as it was last read. last may be nil.
func choose(dirs, bins []string, last *configuration) (*configuration, []Problem, error) {
	var problems []Problem
	var chosen *configuration
	for _, file := range list(dirs, &problems) {
		one, err := read(file, bins)
		if err != nil {
			problems = append(problems, Problem{file, err.Error()})
			if last != nil && last.file == file && chosen == nil {
				chosen = last
			}
			continue
		}
		if chosen == nil {
			chosen = one
		}
	}
	// A file that is broken and stands before the one that served never served.
	if chosen == nil && last != nil && len(problems) > 0 && exists(last.file) {
		chosen = last
	}
	if chosen == nil {
		return nil, problems, nothing(dirs, problems)
	}
	return chosen, problems, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// nothing says why no network can be made.
func nothing(dirs []string, problems []Problem) error {
	where := strings.Join(dirs, ", ")
	if len(problems) == 0 {
		return fmt.Errorf("%w in %s (files *.conflist, *.conf, *.json)", errNone, where)
	}
	texts := make([]string, len(problems))
	for i, p := range problems {
		texts[i] = p.String()
	}
	return fmt.Errorf("%w in %s that can be used: %s", errNone, where, strings.Join(texts, "; "))
}

// list returns the configuration files in their order. A directory that does not
// exist is empty.
func list(dirs []string, problems *[]Problem) []string {
	var files []string
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir) // sorted by name
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			*problems = append(*problems, Problem{dir, err.Error()})
		}
		for _, entry := range entries[:min(len(entries), filesLimit)] {
			if isConfig(entry.Name()) && !entry.IsDir() {
				files = append(files, filepath.Join(dir, entry.Name()))
			}
		}
	}
	return files
}

func isConfig(name string) bool {
	return slices.Contains([]string{".conflist", ".conf", ".json"}, filepath.Ext(name))
}

// read reads and checks one file.
func read(file string, bins []string) (*configuration, error) {
	data, err := readLimited(file)
	if err != nil {
		return nil, err
	}
	parsed, err := parse(file, data)
	if err != nil {
		return nil, err
	}
	if err := check(parsed, bins); err != nil {
		return nil, err
	}
	text, err := flat(parsed)
	return &configuration{file, parsed, text}, err
}

// readLimited reads a regular file; a FIFO would wait for ever.
func readLimited(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open: %w", errors.Unwrap(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > configLimit {
		return nil, fmt.Errorf("it has to be a regular file of at most %d bytes", configLimit)
	}
	return io.ReadAll(io.LimitReader(f, configLimit))
}

// parse reads a list, or a single plugin as a list of one.
func parse(file string, data []byte) (*libcni.NetworkConfigList, error) {
	var shape struct {
		Plugins json.RawMessage `json:"plugins"`
		Type    string          `json:"type"`
	}
	if err := json.Unmarshal(data, &shape); err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	if shape.Plugins == nil && shape.Type != "" {
		one, err := libcni.NetworkPluginConfFromBytes(data)
		if err != nil {
			return nil, err
		}
		return libcni.ConfListFromConf(one)
	}
	parsed, err := libcni.NetworkConfFromBytes(data)
	if err != nil || parsed.LoadOnlyInlinedPlugins {
		return parsed, err
	}
	return parsed, addPluginFiles(parsed, filepath.Dir(file))
}

// addPluginFiles adds the plugins in <dir>/<network>/*.conf, as CNI 1.1 has it.
func addPluginFiles(parsed *libcni.NetworkConfigList, dir string) error {
	if utils.ValidateNetworkName(parsed.Name) != nil {
		return nil // refused by check
	}
	files, err := libcni.ConfFiles(filepath.Join(dir, parsed.Name), []string{".conf"})
	if err != nil {
		return err
	}
	for _, file := range files[:min(len(files), filesLimit)] {
		data, err := readLimited(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		plugin, err := libcni.NetworkPluginConfFromBytes(data)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		parsed.Plugins = append(parsed.Plugins, plugin)
	}
	return nil
}

// check refuses what could not serve.
func check(parsed *libcni.NetworkConfigList, bins []string) error {
	if err := utils.ValidateNetworkName(parsed.Name); err != nil {
		return fmt.Errorf("name %q: %s", parsed.Name, err.Msg)
	}
	if len(parsed.Plugins) == 0 {
		return errors.New("it lists no plugins")
	}
	if newer, err := version.GreaterThan(parsed.CNIVersion, version.Current()); err != nil || newer {
		return fmt.Errorf("cniVersion %q is none of %s", parsed.CNIVersion, strings.Join(version.All.SupportedVersions(), ", "))
	}
	return missing(parsed, bins)
}

// missing names the first plugin that is not there, and where it was looked for.
func missing(parsed *libcni.NetworkConfigList, bins []string) error {
	for _, plugin := range parsed.Plugins {
		if _, err := findPlugin(plugin.Network.Type, bins); err != nil {
			return fmt.Errorf("network %s: %w", parsed.Name, err)
		}
	}
	return nil
}

// findPlugin returns the path of a plugin's binary.
func findPlugin(name string, dirs []string) (string, error) {
	if name == "" || strings.ContainsRune(name, filepath.Separator) || name == "." || name == ".." {
		return "", fmt.Errorf("plugin type %q is not the name of a file", name)
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("plugin %s is not an executable file in %s", name, strings.Join(dirs, ", "))
}

// flat is the list as one JSON text, with the plugins that came from other files:
// what a DEL needs after all of them are gone.
func flat(parsed *libcni.NetworkConfigList) ([]byte, error) {
	plugins := make([]json.RawMessage, len(parsed.Plugins))
	for i, plugin := range parsed.Plugins {
		plugins[i] = plugin.Bytes
	}
	return json.Marshal(map[string]any{
		"name": parsed.Name, "cniVersion": parsed.CNIVersion, "disableCheck": parsed.DisableCheck,
		"disableGC": parsed.DisableGC, "loadOnlyInlinedPlugins": true, "plugins": plugins,
	})
}
