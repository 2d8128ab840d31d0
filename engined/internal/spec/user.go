package spec

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// User is who a process runs as.
type User struct {
	UID, GID int
	Groups   []int // additional
	Home     string
}

// Spec returns the user in the words of the runtime-spec.
func (u User) Spec() specs.User {
	out := specs.User{UID: uint32(u.UID), GID: uint32(u.GID)}
	for _, g := range u.Groups {
		out.AdditionalGids = append(out.AdditionalGids, uint32(g))
	}
	return out
}

// ResolveUser looks "uid|name[:gid|group]" and additional groups up in the contents of
// /etc/passwd and /etc/group, which may be empty. The error is of class
// ErrInvalidArgument and has dockerd's words.
func ResolveUser(wish string, groupAdd []string, passwd, group []byte) (User, error) {
	eu, err := user.GetExecUser(wish, nil, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return User{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	u := User{UID: eu.Uid, GID: eu.Gid, Groups: append([]int{eu.Gid}, eu.Sgids...), Home: eu.Home}
	if u.Home == "" {
		u.Home = "/"
	}
	var names []string
	for _, g := range groupAdd {
		if n, err := strconv.Atoi(g); err == nil {
			u.Groups = append(u.Groups, n)
		} else {
			names = append(names, g)
		}
	}
	if len(names) > 0 {
		gids, err := user.GetAdditionalGroups(names, bytes.NewReader(group))
		if err != nil {
			return User{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		u.Groups = append(u.Groups, gids...)
	}
	seen := map[int]bool{}
	groups := u.Groups[:0]
	for _, g := range u.Groups {
		if !seen[g] {
			seen[g] = true
			groups = append(groups, g)
		}
	}
	u.Groups = groups
	return u, nil
}
