// Command release makes what people install: for each architecture a tarball and a
// Debian package, with the licences of all that is linked in, a list of it (SPDX),
// and checksums. The same tree and version give the same bytes: names are sorted,
// owners are root, times are the commit's (SOURCE_DATE_EPOCH).
//
//	go run ./hack/release -version v0.1.0 -out dist
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A release is one run's.
type release struct {
	version string // v1.2.3
	out     string
	date    time.Time
	arches  []string
}

// archNames are Debian's names where they are others than Go's.
var archNames = map[string]string{"amd64": "amd64", "arm64": "arm64"}

func main() {
	r := release{}
	arches := flag.String("arch", "amd64,arm64", "architectures, as Go names them")
	flag.StringVar(&r.version, "version", "", "semantic version, such as v0.1.0")
	flag.StringVar(&r.out, "out", "dist", "directory for what is made")
	flag.Parse()
	r.arches = strings.Split(*arches, ",")
	if err := r.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

var semantic = regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`)

func (r *release) run(ctx context.Context) (err error) {
	if !semantic.MatchString(r.version) {
		return fmt.Errorf("cannot release version %q: the kubelet wants a semantic one, such as v0.1.0", r.version)
	}
	if r.date, err = sourceDate(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	var made []string
	for _, arch := range r.arches {
		if archNames[arch] == "" {
			return fmt.Errorf("cannot release for %q: amd64 and arm64 are supported", arch)
		}
		files, err := r.arch(ctx, arch)
		if err != nil {
			return fmt.Errorf("cannot release for %s: %w", arch, err)
		}
		made = append(made, files...)
	}
	return r.sums(made)
}

// sourceDate is SOURCE_DATE_EPOCH, or when the tree was committed.
func sourceDate(ctx context.Context) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		out, err := output(ctx, nil, "git", "log", "-1", "--format=%ct")
		if err != nil {
			return time.Time{}, fmt.Errorf("cannot date the release (SOURCE_DATE_EPOCH is not set): %w", err)
		}
		text = strings.TrimSpace(out)
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot date the release: SOURCE_DATE_EPOCH is %q", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// arch makes one architecture's files and returns their names.
func (r *release) arch(ctx context.Context, arch string) ([]string, error) {
	dir, err := os.MkdirTemp("", "cri-box-release")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	binary, host := filepath.Join(dir, "cri-box"), filepath.Join(dir, "cri-box-host")
	if err := r.build(ctx, arch, binary); err != nil {
		return nil, err
	}
	if arch == runtime.GOARCH {
		host = binary
	} else if err := r.build(ctx, runtime.GOARCH, host); err != nil { // it writes the manual
		return nil, err
	}
	tree := filepath.Join(dir, "tree")
	if err := install(ctx, tree, binary, host); err != nil {
		return nil, err
	}
	modules, err := linked(ctx, binary)
	if err != nil {
		return nil, err
	}
	if err := writeNotices(filepath.Join(tree, "usr/share/doc/cri-box/THIRD-PARTY-NOTICES"), modules); err != nil {
		return nil, err
	}
	base := "cri-box-" + r.version + "-linux-" + arch
	deb := fmt.Sprintf("cri-box_%s_%s.deb", debVersion(r.version), archNames[arch])
	return []string{base + ".tar.gz", deb, base + ".spdx.json"}, errors.Join(
		r.tarball(tree, base+".tar.gz"),
		r.deb(tree, deb, archNames[arch]),
		r.sbom(filepath.Join(r.out, base+".spdx.json"), arch, modules))
}

// build builds as `make build` does, for arch. The keeper is built first, since
// the other carries it; the tree's own copy of it is left alone.
func (r *release) build(ctx context.Context, arch, to string) error {
	env := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch}
	flags := []string{"build", "-trimpath", "-buildvcs=false"}
	if _, err := output(ctx, env, "go", append(flags, "-ldflags", "-s -w -buildid=", "-o", to+".keeper", "./cmd/keeper")...); err != nil {
		return err
	}
	place, err := filepath.Abs("cmd/cri-box/embedded/keeper")
	if err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{place: to + ".keeper"}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(to+".overlay", overlay, 0o600); err != nil {
		return err
	}
	_, err = output(ctx, env, "go", append(flags, "-overlay", to+".overlay", "-ldflags", "-s -w -buildid= -X main.version="+r.version, "-o", to, "./cmd/cri-box")...)
	return err
}

// install lays the files out as hack/install.sh does, with manual and completion.
func install(ctx context.Context, tree, binary, host string) error {
	if _, err := output(ctx, []string{"DESTDIR=" + tree, "PREFIX=/usr", "BINARY=" + binary}, "/bin/sh", "hack/install.sh"); err != nil {
		return err
	}
	share := filepath.Join(tree, "usr/share")
	if _, err := output(ctx, nil, host, "man", filepath.Join(share, "man/man8")); err != nil {
		return err
	}
	for shell, path := range map[string]string{"bash": "bash-completion/completions/cri-box", "zsh": "zsh/vendor-completions/_cri-box",
		"fish": "fish/vendor_completions.d/cri-box.fish"} {
		text, err := output(ctx, nil, host, "completion", shell)
		if err != nil {
			return err
		}
		if err := write(filepath.Join(share, path), text); err != nil {
			return err
		}
	}
	for _, name := range []string{"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md"} {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := write(filepath.Join(share, "doc/cri-box", name), string(text)); err != nil {
			return err
		}
	}
	return nil
}

func write(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// output runs a command with some variables more, and returns what it printed.
func output(ctx context.Context, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return "", fmt.Errorf("cannot run %s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), nil
}

// sums writes SHA256SUMS, as sha256sum -c reads it.
func (r *release) sums(names []string) error {
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(r.out, name))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		fmt.Fprintf(&b, "%s  %s\n", hex.EncodeToString(sum[:]), name)
		fmt.Println("made", filepath.Join(r.out, name))
	}
	return write(filepath.Join(r.out, "SHA256SUMS"), b.String())
}
