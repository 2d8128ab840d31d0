package files

import (
	"archive/tar"
	"strings"

	"golang.org/x/sys/unix"

	"strata/pkg/linux/xattr"
)

// readlinkat reads the symlink that the descriptor fd itself names: readlinkat(2), Linux
// 2.6.39.
func readlinkat(fd int, buf []byte) (int, error) { return unix.Readlinkat(fd, "", buf) }

// Xattrs returns what belongs to a regular file rather than to its host: capabilities and
// user attributes. A filesystem without attributes has none.
func (r *Root) Xattrs(name string) (map[string]string, error) {
	f, err := r.root.OpenFile(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return xattr.Of(f, xattr.Portable)
}

// paxXattr is what the record of an extended attribute begins with in a tar.
const paxXattr = "SCHILY.xattr."

// attributesOf returns what Xattrs would of a file in a tar; nil for none.
func attributesOf(h *tar.Header) map[string]string {
	var out map[string]string
	for k, v := range h.PAXRecords {
		if k, ok := strings.CutPrefix(k, paxXattr); ok && xattr.Portable(k) {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}
