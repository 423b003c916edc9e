package spec

import (
	"fmt"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	testPasswd = "root:x:0:0:root:/root:/bin/sh\n" +
		"\n# a comment\nshort:x:5\n" +
		"web:x:1000:1001:Web:/home/web:/bin/sh\r\n" +
		"web:x:7:7:a second entry does not count:/:/\n" +
		"also:x:1000:8:nor does a second name:/:/\n" +
		"nogid:x:1002:none::/:\n" +
		"nouid:x:-1:5::/:\n" +
		"huge:x:4294967296:5::/:\n" +
		"nohome:x:1003:1003\n" +
		"badhome:x:1004:1004::/a\x07b:\n" +
		"1234:x:9:9::/:\n" +
		"last:x:1005:1005::/last:/bin/sh"
	testGroup = "root:x:0:\n" +
		"short:x\n" +
		"www:x:2000:web\n" +
		"logs:x:3000:other,web\n" +
		"webby:x:3001:webby,we,eb\n" +
		"broken:x:none:web\n" +
		"twice:x:2000:web,web\n"
)

func value(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }

type security = runtimeapi.LinuxContainerSecurityContext

func TestResolveUser(t *testing.T) {
	strict := runtimeapi.SupplementalGroupsPolicy_Strict
	for _, c := range []struct {
		name  string
		sc    *security
		image string
		want  User
	}{
		{"nothing said", nil, "", User{0, 0, []uint32{0}, "/root"}},
		{"image name", nil, "web", User{1000, 1001, []uint32{1001, 2000, 3000}, "/home/web"}},
		{"image uid", nil, "1000", User{1000, 1001, []uint32{1001, 2000, 3000}, "/home/web"}},
		{"image uid without entry", nil, "1500", User{1500, 0, []uint32{0}, "/"}},
		{"image uid:gid", nil, "1500:1600", User{1500, 1600, []uint32{1600}, "/"}},
		{"image name:group", nil, "web:logs", User{1000, 3000, []uint32{2000, 3000}, "/home/web"}},
		{"image :group", nil, ":www", User{0, 2000, []uint32{2000}, "/root"}},
		{"image uid:", nil, "1000:", User{1000, 1001, []uint32{1001, 2000, 3000}, "/home/web"}},
		{"a number is a uid before a name", nil, "1234", User{1234, 0, []uint32{0}, "/"}},
		{"the last line has no newline", nil, "last", User{1005, 1005, []uint32{1005}, "/last"}},
		{"no home", nil, "nohome", User{1003, 1003, []uint32{1003}, "/"}},
		{"a home with control characters", nil, "badhome", User{1004, 1004, []uint32{1004}, "/"}},
		{"highest id", nil, "4294967294:4294967294", User{4294967294, 4294967294, []uint32{4294967294}, "/"}},
		{"run_as_user over image", &security{RunAsUser: value(1000)}, "root:logs", User{1000, 1001, []uint32{1001, 2000, 3000}, "/home/web"}},
		{"run_as_user 0 over image", &security{RunAsUser: value(0)}, "web", User{0, 0, []uint32{0}, "/root"}},
		{"run_as_group", &security{RunAsUser: value(1000), RunAsGroup: value(5)}, "", User{1000, 5, []uint32{5, 2000, 3000}, "/home/web"}},
		{"run_as_username", &security{RunAsUsername: "web"}, "root", User{1000, 1001, []uint32{1001, 2000, 3000}, "/home/web"}},
		{"run_as_username that looks like a number", &security{RunAsUsername: "1234"}, "", User{9, 9, []uint32{9}, "/"}},
		{"run_as_username and group", &security{RunAsUsername: "web", RunAsGroup: value(0)}, "", User{1000, 0, []uint32{0, 2000, 3000}, "/home/web"}},
		{"merge", &security{RunAsUser: value(1000), SupplementalGroups: []int64{4000, 10, 2000}}, "",
			User{1000, 1001, []uint32{10, 1001, 2000, 3000, 4000}, "/home/web"}},
		{"strict", &security{RunAsUser: value(1000), SupplementalGroups: []int64{4000}, SupplementalGroupsPolicy: strict}, "",
			User{1000, 1001, []uint32{1001, 4000}, "/home/web"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ResolveUser(c.sc, c.image, []byte(testPasswd), []byte(testGroup))
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "user", got, c.want)
		})
	}
}

func TestResolveUserRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		sc    *security
		image string
		says  []string
	}{
		{"unknown name", nil, "nobody", []string{"image USER", `"nobody"`, "/etc/passwd"}},
		{"unknown group", nil, "web:staff", []string{"image USER", `"staff"`, "/etc/group"}},
		{"uid overflow", nil, "4294967296", []string{"image USER", "4294967294"}},
		{"uid that setuid takes as no change", nil, "4294967295", []string{"4294967294"}},
		{"uid beyond 64 bits", nil, "99999999999999999999", []string{"4294967294"}},
		{"negative uid", nil, "-1", []string{"image USER"}},
		{"signed uid", nil, "+1", []string{"image USER"}},
		{"gid overflow", nil, "0:4294967296", []string{"image USER", "4294967294"}},
		{"negative gid", nil, "0:-1", []string{"image USER"}},
		{"entry without gid", nil, "nogid", []string{`"nogid"`, "/etc/passwd"}},
		{"entry without gid, by uid", &security{RunAsUser: value(1002)}, "", []string{`"nogid"`}},
		{"entry with negative uid", nil, "nouid", []string{`"nouid"`}},
		{"entry with huge uid", nil, "huge", []string{`"huge"`}},
		{"group entry without gid", nil, "web:broken", []string{`"broken"`, "/etc/group"}},
		{"short group entry", nil, "web:short", []string{`"short"`, "/etc/group"}},
		{"run_as_user negative", &security{RunAsUser: value(-1)}, "", []string{"run_as_user"}},
		{"run_as_user overflow", &security{RunAsUser: value(1 << 32)}, "", []string{"run_as_user"}},
		{"run_as_group overflow", &security{RunAsUser: value(1), RunAsGroup: value(1 << 32)}, "", []string{"run_as_group"}},
		{"run_as_group alone", &security{RunAsGroup: value(1)}, "web", []string{"run_as_group 1", "run_as_user"}},
		{"run_as_username unknown", &security{RunAsUsername: "1000"}, "", []string{"run_as_username", `"1000"`}},
		{"supplemental group negative", &security{SupplementalGroups: []int64{1, -1}}, "", []string{"supplemental_groups[1] -1"}},
		{"supplemental group overflow", &security{SupplementalGroups: []int64{1 << 32}}, "", []string{"supplemental_groups[0]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ResolveUser(c.sc, c.image, []byte(testPasswd), []byte(testGroup))
			wantInvalid(t, err, c.says...)
		})
	}
}

func TestTooManyGroups(t *testing.T) {
	var group strings.Builder
	for i := range maxGroups + 1 {
		fmt.Fprintf(&group, "g%d:x:%d:web\n", i, i)
	}
	_, err := ResolveUser(nil, "web", []byte(testPasswd), []byte(group.String()))
	wantInvalid(t, err, "65536", "/etc/group")
}

// FuzzResolveUser is for CVE-2024-40635: no content of an image's files turns an
// id that is out of range into one that is not.
func FuzzResolveUser(f *testing.F) {
	for _, user := range []string{"", "web", "web:logs", "1000", "-1", "4294967295", ":", "huge"} {
		f.Add(user, testPasswd, testGroup)
	}
	f.Fuzz(func(t *testing.T, user, passwd, group string) {
		u, err := ResolveUser(nil, user, []byte(passwd), []byte(group))
		if err != nil {
			wantInvalid(t, err)
			return
		}
		for _, id := range append(u.Groups, u.UID, u.GID) {
			if id > maxID {
				t.Errorf("id %d", id)
			}
		}
		if hasControl(u.Home) {
			t.Errorf("home %q", u.Home)
		}
	})
}
