package spec

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// User is who a container's process is, with names resolved.
type User struct {
	UID uint32
	GID uint32
	// Groups are the supplementary groups in ascending order; GID is among them.
	Groups []uint32
	// Home is the directory that the image's passwd file gives, or "/".
	Home string
}

// maxID is the highest uid and gid. One more is (uid_t)-1, which setresuid(2)
// takes as "leave as it is": the process would stay root.
const maxID = math.MaxUint32 - 1

// maxGroups is NGROUPS_MAX, the most that setgroups(2) takes.
const maxGroups = 65536

// umask is what a process starts with, whatever the daemon's own is.
const umask = 0o022

// ResolveUser says who a process runs as: run_as_username or run_as_user, else
// image, the USER of the image config. Names are looked up in passwd and group,
// the content of the image's files. A name that is not there is ErrInvalid; a
// number needs no entry.
func ResolveUser(sc *runtimeapi.LinuxContainerSecurityContext, image string, passwd, group []byte) (User, error) {
	who, gid, err := requestedUser(sc, image)
	if err != nil {
		return User{}, err
	}
	entry, err := lookupUser(who, passwd)
	if err != nil {
		return User{}, err
	}
	u := User{UID: entry.uid, GID: entry.gid, Home: entry.home}
	if gid.text != "" {
		if u.GID, err = lookupGroup(gid, group); err != nil {
			return User{}, err
		}
	}
	u.Groups, err = supplementalGroups(sc, entry.name, u.GID, group)
	return u, err
}

// A reference is a user or group as somebody wrote it, and where.
type reference struct {
	text  string
	field string // "run_as_user", "image USER": for errors
	name  bool   // text is a name even if it looks like a number
}

// requestedUser picks the user, and the group where one is asked for.
func requestedUser(sc *runtimeapi.LinuxContainerSecurityContext, image string) (user, group reference, err error) {
	switch {
	case sc.GetRunAsUsername() != "":
		user = reference{sc.GetRunAsUsername(), "linux.security_context.run_as_username", true}
	case sc.GetRunAsUser() != nil:
		user = reference{strconv.FormatInt(sc.GetRunAsUser().GetValue(), 10), "linux.security_context.run_as_user", false}
	case sc.GetRunAsGroup() != nil:
		return user, group, invalid("linux.security_context.run_as_group %d needs run_as_user or run_as_username beside it", sc.GetRunAsGroup().GetValue())
	default:
		name, gid, _ := strings.Cut(image, ":")
		if name == "" {
			name = "0"
		}
		return reference{name, "image USER", false}, reference{gid, "image USER", false}, nil
	}
	if g := sc.GetRunAsGroup(); g != nil {
		group = reference{strconv.FormatInt(g.GetValue(), 10), "linux.security_context.run_as_group", false}
	}
	return user, group, nil
}

type passwdEntry struct {
	name     string
	uid, gid uint32
	home     string
}

// lookupUser finds r in passwd; the first entry counts, as in getpwnam(3).
func lookupUser(r reference, passwd []byte) (passwdEntry, error) {
	byNumber := !r.name && isNumber(r.text)
	var want uint32
	if byNumber {
		id, err := parseID(r.text)
		if err != nil {
			return passwdEntry{}, invalid("%s %q: %v", r.field, r.text, err)
		}
		want = id
	}
	for line := range bytes.Lines(passwd) {
		f := strings.Split(strings.TrimRight(string(line), "\r\n"), ":")
		if len(f) < 4 || f[0] == "" {
			continue
		}
		if byNumber {
			if id, err := parseID(f[2]); err != nil || id != want {
				continue
			}
		} else if f[0] != r.text {
			continue
		}
		return parsePasswd(f)
	}
	if !byNumber {
		return passwdEntry{}, invalid("%s %q is not in the image's /etc/passwd", r.field, r.text)
	}
	return passwdEntry{uid: want, home: "/"}, nil
}

func parsePasswd(f []string) (passwdEntry, error) {
	uid, uidErr := parseID(f[2])
	gid, gidErr := parseID(f[3])
	if uidErr != nil || gidErr != nil {
		return passwdEntry{}, invalid("the entry of %q in the image's /etc/passwd has no valid uid and gid (%q, %q)", f[0], f[2], f[3])
	}
	e := passwdEntry{name: f[0], uid: uid, gid: gid, home: "/"}
	if len(f) > 5 && f[5] != "" && !hasControl(f[5]) {
		e.home = f[5]
	}
	return e, nil
}

func lookupGroup(r reference, group []byte) (uint32, error) {
	if isNumber(r.text) {
		id, err := parseID(r.text)
		if err != nil {
			return 0, invalid("%s %q: %v", r.field, r.text, err)
		}
		return id, nil
	}
	for line := range bytes.Lines(group) {
		name, gid, _ := parseGroup(line)
		if name != r.text {
			continue
		}
		id, err := parseID(gid)
		if err != nil {
			return 0, invalid("the entry of %q in the image's /etc/group has no valid gid: %v", name, err)
		}
		return id, nil
	}
	return 0, invalid("group %q of %s is not in the image's /etc/group", r.text, r.field)
}

func parseGroup(line []byte) (name, gid, members string) {
	f := strings.SplitN(strings.TrimRight(string(line), "\r\n"), ":", 4)
	if len(f) < 3 {
		return "", "", ""
	}
	if len(f) == 4 {
		members = f[3]
	}
	return f[0], f[2], members
}

// supplementalGroups joins the primary group, those that the image's group file
// gives name (policy Merge only) and those of the request.
func supplementalGroups(sc *runtimeapi.LinuxContainerSecurityContext, name string, gid uint32, group []byte) ([]uint32, error) {
	groups := []uint32{gid}
	if sc.GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Merge && name != "" {
		groups = append(groups, memberships(name, group)...)
	}
	for i, g := range sc.GetSupplementalGroups() {
		if g < 0 || g > maxID {
			return nil, invalid("linux.security_context.supplemental_groups[%d] %d is not between 0 and %d", i, g, uint32(maxID))
		}
		groups = append(groups, uint32(g))
	}
	slices.Sort(groups)
	groups = slices.Compact(groups)
	if len(groups) > maxGroups {
		return nil, invalid("%d groups, of the image's /etc/group and linux.security_context.supplemental_groups, where the kernel takes %d", len(groups), maxGroups)
	}
	return groups, nil
}

// memberships are the groups whose member list holds name. Entries without a
// valid gid are none, as for getgrouplist(3).
func memberships(name string, group []byte) []uint32 {
	var gids []uint32
	for line := range bytes.Lines(group) {
		_, gid, members := parseGroup(line)
		for m := range strings.SplitSeq(members, ",") {
			if m != name {
				continue
			}
			if id, err := parseID(gid); err == nil {
				gids = append(gids, id)
			}
			break
		}
	}
	return gids
}

// isNumber reports that s is meant as a number, so that -1 and 99999999999 are
// refused as ids instead of being looked up as names.
func isNumber(s string) bool {
	_, err := strconv.ParseInt(s, 10, 64)
	return err == nil || strings.Trim(s, "0123456789") == ""
}

func parseID(s string) (uint32, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	if err != nil || id > maxID {
		return 0, fmt.Errorf("not a number between 0 and %d", uint32(maxID))
	}
	return uint32(id), nil
}

func (u User) spec() specs.User {
	mask := uint32(umask)
	return specs.User{UID: u.UID, GID: u.GID, Umask: &mask, AdditionalGids: u.Groups}
}
