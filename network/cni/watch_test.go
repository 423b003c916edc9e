package cni

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Every way in which a configuration comes and goes, seen without looking now and
// then: the pause between two looks is an hour.
func TestDirectoryIsWatched(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s := newScene(t)
	s.cfg.Timing.StatusEvery = time.Hour
	must(os.RemoveAll(s.dir + "/etc"))
	s.open()
	none := func() {
		t.Helper()
		until(t, "nothing serves", func() bool { return s.net.serving.Load().config == nil && s.net.Ready() != nil })
	}
	none()
	if err := s.net.Ready(); !strings.Contains(err.Error(), s.conf) {
		t.Errorf("the directory is not named: %v", err)
	}
	must(os.MkdirAll(s.conf, 0o755)) // missing, then made with its parents
	s.write("10-a.conflist", s.list("a", nil, nil))
	s.serves("a")
	s.write("10-a.conflist", s.list("b", nil, nil)) // by rename
	s.serves("b")
	must(os.WriteFile(s.conf+"/10-a.conflist", []byte(s.list("c", nil, nil)), 0o644)) // in place
	s.serves("c")
	s.write("05-first.conf", `{"cniVersion":"1.0.0","name":"d","type":"fake","log":"`+s.log+`"}`) // a plugin alone, earlier in order
	s.serves("d")
	must(os.Remove(s.conf + "/05-first.conf"))
	s.serves("c")
	must(os.RemoveAll(s.dir + "/etc")) // removed with its parents
	none()
	must(os.MkdirAll(s.conf, 0o755)) // and made again
	s.write("10-a.conflist", s.list("e", nil, nil))
	s.serves("e")
	must(os.Rename(s.dir+"/etc/cni", s.dir+"/moved")) // renamed away
	none()
	must(os.Symlink(s.dir+"/moved", s.dir+"/etc/cni")) // behind a link
	s.serves("e")
	put(t, s.dir+"/moved/net.d/10-a.conflist", s.list("f", nil, nil))
	s.serves("f")
	must(os.MkdirAll(s.dir+"/v1", 0o755)) // a file behind a link, as a ConfigMap makes it
	must(os.Symlink(s.dir+"/v1", s.dir+"/data"))
	must(os.Symlink(s.dir+"/data/net", s.conf+"/01-linked.conflist"))
	put(t, s.dir+"/v1/net", s.list("g", nil, nil))
	s.serves("g")
	must(os.MkdirAll(s.dir+"/v2", 0o755))
	put(t, s.dir+"/v2/net", s.list("h", nil, nil))
	must(os.Symlink(s.dir+"/v2", s.dir+"/data.new"))
	must(os.Rename(s.dir+"/data.new", s.dir+"/data"))
	s.serves("h")
}

func TestBrokenFileIsNamedAndTheLastGoodOneServes(t *testing.T) {
	s := newScene(t)
	s.write("10-a.conflist", s.list("a", nil, nil))
	s.open()
	s.serves("a")
	broken := filepath.Join(s.conf, "10-a.conflist")
	for text, want := range map[string]string{
		`{"name":`: "it is not JSON", `{"cniVersion":"1.1.0","name":"a","plugins":[]}`: "no plugins",
		`{"cniVersion":"9.0.0","name":"a","plugins":[{"type":"fake"}]}`:                                                `cniVersion "9.0.0" is none of`,
		`{"cniVersion":"1.0.0","name":"../a","plugins":[{"type":"fake"}]}`:                                             `name "../a"`,
		`{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"gone"}]}`:                                                "plugin gone is not an executable file in " + s.bin,
		`{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"../../bin/sh"}]}`:                                        "is not the name of a file",
		`{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"fake"}],"x":"` + strings.Repeat("x", configLimit) + `"}`: "at most 1048576 bytes",
	} {
		s.write("10-a.conflist", text)
		until(t, "the note says "+want, func() bool {
			note := s.net.Note()
			return strings.Contains(note, broken) && strings.Contains(note, want)
		})
		if err := s.net.Ready(); err != nil {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := s.attach(s.pod()); err != nil {
		t.Error("the last good configuration does not serve:", err)
	}
	s.net.Close()
	s.open() // also for the next daemon
	s.serves("a")
	if !strings.Contains(s.net.Note(), broken) {
		t.Errorf("note %q", s.net.Note())
	}
	s.write("20-b.conflist", s.list("b", nil, nil)) // the broken one is still the first
	s.write("30-c.conflist", "{")
	until(t, "all are read", func() bool { return strings.Contains(s.net.Note(), "30-c.conflist") })
	s.serves("a")
	os.Remove(s.conf + "/30-c.conflist")
	os.Remove(broken)
	s.serves("b")
	until(t, "there is nothing to note", func() bool { return s.net.Note() == "" })
}

func TestBrokenFileFromTheStart(t *testing.T) {
	s := newScene(t)
	s.write("10-a.conflist", "{")
	if err := os.Mkdir(s.conf+"/20-dir.conflist", 0o755); err != nil {
		t.Fatal(err)
	}
	s.open()
	if err := s.net.Ready(); err == nil || !strings.Contains(err.Error(), s.conf+"/10-a.conflist: it is not JSON") {
		t.Error(err)
	}
}

func TestPluginsInFilesOfTheirOwn(t *testing.T) {
	s := newScene(t)
	if err := os.Mkdir(s.conf+"/a", 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, s.conf+"/a/10-fake.conf", `{"type":"fake","log":"`+s.log+`"}`)
	s.write("10-a.conflist", `{"cniVersion":"1.1.0","name":"a"}`)
	s.open()
	s.serves("a")
	pod := s.pod()
	if _, err := s.attach(pod); err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(s.conf)
	if err := s.net.Detach(t.Context(), pod.ID); err != nil || s.net.Attached(pod.ID) {
		t.Error("DEL needs files that are gone:", err)
	}
}
