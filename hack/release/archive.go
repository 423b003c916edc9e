package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// tarball packs what is below tree.
func (r *release) tarball(tree, name string) error {
	data, err := r.tarGz(os.DirFS(tree))
	if err != nil {
		return fmt.Errorf("cannot make %s: %w", name, err)
	}
	return os.WriteFile(filepath.Join(r.out, name), data, 0o644)
}

// tarGz packs a file system in the order of its names: fs.WalkDir's.
func (r *release) tarGz(tree fs.FS) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(z)
	err = fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return r.pack(w, tree, path, d)
	})
	if err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// pack adds one file or directory, root's.
func (r *release) pack(w *tar.Writer, tree fs.FS, path string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: "./" + path, Mode: int64(info.Mode().Perm()), ModTime: r.date, Uname: "root", Gname: "root", Format: tar.FormatGNU}
	if path == "." {
		h.Name = "./"
	} else if d.IsDir() {
		h.Name += "/"
	}
	if d.IsDir() {
		h.Typeflag, h.Mode = tar.TypeDir, 0o755
		return w.WriteHeader(h)
	}
	f, err := tree.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// debVersion is a version as Debian sorts it: v1.2.3-rc.1 comes before 1.2.3.
func debVersion(v string) string { return strings.Replace(strings.TrimPrefix(v, "v"), "-", "~", 1) }

// deb makes a Debian package, an ar(5) archive of three members (deb(5)).
func (r *release) deb(tree, name, arch string) error {
	data, err := r.tarGz(os.DirFS(tree))
	if err != nil {
		return fmt.Errorf("cannot make %s: %w", name, err)
	}
	control, err := r.control(tree, arch)
	if err != nil {
		return fmt.Errorf("cannot make %s: %w", name, err)
	}
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", control}, {"data.tar.gz", data}} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, r.date.Unix(), 0, 0, "100644", len(m.data))
		b.Write(m.data)
		if len(m.data)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return os.WriteFile(filepath.Join(r.out, name), b.Bytes(), 0o644)
}
