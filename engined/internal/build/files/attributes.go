package files

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// readlinkat reads the symlink that the descriptor fd itself names: readlinkat(2), Linux
// 2.6.39.
func readlinkat(fd int, buf []byte) (int, error) { return unix.Readlinkat(fd, "", buf) }

// maxXattr bounds a list and a value of extended attributes, in bytes: the kernel's
// XATTR_LIST_MAX and XATTR_SIZE_MAX.
const maxXattr = 64 << 10

// Xattrs returns what belongs to a regular file rather than to its host: capabilities and
// user attributes. A filesystem without attributes has none.
func (r *Root) Xattrs(name string) (map[string]string, error) {
	f, err := r.root.OpenFile(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	n, err := unix.Flistxattr(int(f.Fd()), nil)
	if n <= 0 || err != nil {
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			return nil, &os.PathError{Op: "flistxattr", Path: name, Err: err}
		}
		return nil, nil
	}
	list := make([]byte, maxXattr)
	if n, err = unix.Flistxattr(int(f.Fd()), list); err != nil {
		return nil, &os.PathError{Op: "flistxattr", Path: name, Err: err}
	}
	var out map[string]string
	value := make([]byte, maxXattr)
	for k := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if k != "security.capability" && !strings.HasPrefix(k, "user.") {
			continue
		}
		n, err := unix.Fgetxattr(int(f.Fd()), k, value)
		if err != nil {
			return nil, &os.PathError{Op: "fgetxattr " + k, Path: name, Err: err}
		}
		if out == nil {
			out = map[string]string{}
		}
		out[k] = string(value[:n])
	}
	return out, nil
}
