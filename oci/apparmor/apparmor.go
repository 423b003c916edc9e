// Package apparmor knows which AppArmor profiles the kernel has, and loads the one
// of containers that ask for RuntimeDefault.
//
// A process takes a profile with its execve(2): the program of a container writes
// its name to /proc/self/attr/apparmor/exec (oci/program).
package apparmor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"
)

// Default is the profile for RuntimeDefault.
const Default = "cri-box-default"

// ErrNotLoaded says that the kernel has no profile of that name.
var ErrNotLoaded = errors.New("it is not loaded on this node")

// parserBound is how long compiling and loading the profile may take.
const parserBound = time.Minute

// Profiles are those of this node. The zero Profiles are ready for use.
type Profiles struct {
	loading singleflight.Group
}

// Active says whether the kernel confines by AppArmor.
func Active() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.TrimSpace(string(b)) == "Y"
}

// CanLoad says what keeps Default from being loaded, nil if nothing does.
func CanLoad() error {
	_, err := findParser()
	return err
}

// loadedFile lists the profiles, one a line (securityfs).
const loadedFile = "/sys/kernel/security/apparmor/profiles"

// Use makes sure that a profile is loaded: Default is loaded if it is missing, of
// another the error is ErrNotLoaded.
func (p *Profiles) Use(ctx context.Context, name string) error {
	have, err := isLoaded(loadedFile, name)
	switch {
	case err != nil:
		return fmt.Errorf("cannot look for AppArmor profile %q: %w", name, err)
	case have:
		return nil
	case name != Default:
		return fmt.Errorf("cannot use AppArmor profile %q: %w", name, ErrNotLoaded)
	}
	_, err, _ = p.loading.Do(name, func() (any, error) { return nil, load(ctx) })
	return err
}

// isLoaded reads a list of profiles: "name (enforce)". A name may have blanks.
func isLoaded(file, name string) (bool, error) {
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if i := strings.LastIndex(lines.Text(), " ("); i >= 0 && lines.Text()[:i] == name {
			return true, nil
		}
	}
	return false, lines.Err()
}

// load has apparmor_parser compile and load Default. The kernel takes compiled
// profiles only, and what they look like depends on the kernel.
func load(ctx context.Context) error {
	parser, err := findParser()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, parserBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, parser, "--replace", "--skip-cache", "--quiet")
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdin = strings.NewReader(text("/etc/apparmor.d"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cannot load AppArmor profile %s: %w: %.500s", Default, err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

func findParser() (string, error) {
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		path := filepath.Join(dir, "apparmor_parser")
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fmt.Errorf("cannot load AppArmor profile %s: apparmor_parser is missing (the package apparmor has it)", Default)
}
