package synced

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/containerd/errdefs"

	"strata/pkg/buildkit/sessionpb"
	"strata/pkg/linux/xattr"
)

// maxAttrs bounds the extended attributes of one file, in bytes: what Linux lets one value
// have.
const maxAttrs = 64 << 10

// encodeAttrs returns the extended attributes that a regular file is to have: names and values
// in order, their lengths before them. Those that belong to the client's host are left out.
func encodeAttrs(st *sessionpb.Stat) (string, error) {
	if len(st.Xattrs) == 0 || !fs.FileMode(st.Mode).IsRegular() {
		return "", nil
	}
	var out []byte
	for _, k := range slices.Sorted(maps.Keys(st.Xattrs)) {
		if !xattr.Portable(k) {
			continue
		}
		for _, s := range []string{k, string(st.Xattrs[k])} {
			out = binary.AppendUvarint(out, uint64(len(s)))
			out = append(out, s...)
		}
	}
	if len(out) > maxAttrs {
		return "", fmt.Errorf("%q has more than %d bytes of extended attributes: %w", st.Path, maxAttrs, errdefs.ErrInvalidArgument)
	}
	return string(out), nil
}

// Xattrs returns the extended attributes of a file.
func (t *Tree) Xattrs(name string) (map[string]string, error) {
	e, err := t.get(name)
	if err != nil || e == nil || e.attrs == "" {
		return nil, err
	}
	out := map[string]string{}
	for d := (&decoder{raw: []byte(e.attrs)}); len(d.raw) > 0; {
		k := d.str()
		out[k] = d.str()
	}
	return out, nil
}
