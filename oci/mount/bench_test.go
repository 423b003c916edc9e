package mount

import (
	"fmt"
	"testing"
)

func BenchmarkOverlay(b *testing.B) {
	d := tree(b)
	if err := Spread(d); err != nil {
		b.Fatal(err)
	}
	var lowers []string
	for i := range 50 {
		lowers = append(lowers, fmt.Sprintf("%s/l%d", d, i))
		grow(b, d, fmt.Sprintf("l%d/", i))
	}
	for _, mode := range modes() {
		for _, n := range []int{1, 10, 50} {
			b.Run(fmt.Sprintf("%s/%d", mode, n), func(b *testing.B) {
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					fresh := fmt.Sprintf("%s/%s.%d.%d", d, mode, n, i) // as each container has them
					grow(b, fresh, "u/", "w/")
					b.StartTimer()
					f, err := overlay(mode, lowers[:n], fresh+"/u", fresh+"/w", OverlayOptions{Volatile: true})
					if err != nil {
						b.Fatal(err)
					}
					f.Close()
				}
			})
		}
	}
}

func BenchmarkDev(b *testing.B) {
	for b.Loop() {
		f, err := Dev(nil, DevOptions{})
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

func BenchmarkMakePoint(b *testing.B) {
	root, _ := rootfs(b, "etc/hosts=", "var/run->/run", "run/secrets/")
	for _, p := range []string{"/etc/hosts", "/proc", "/var/run/secrets"} {
		b.Run(p, func(b *testing.B) {
			for b.Loop() {
				if _, err := MakePoint(root, p, p != "/etc/hosts", Owner{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkTmpfs(b *testing.B) {
	for b.Loop() {
		f, err := EmptyReadOnlyDir()
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

func BenchmarkPTY(b *testing.B) {
	for b.Loop() {
		pts, err := Devpts(5, "")
		if err != nil {
			b.Fatal(err)
		}
		m, s, err := OpenPTY(pts)
		if err != nil {
			b.Fatal(err)
		}
		m.Close()
		s.Close()
		pts.Close()
	}
}
