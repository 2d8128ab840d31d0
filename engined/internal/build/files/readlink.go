package files

import "golang.org/x/sys/unix"

// readlinkat reads the symlink that the descriptor fd itself names: readlinkat(2), Linux
// 2.6.39.
func readlinkat(fd int, buf []byte) (int, error) { return unix.Readlinkat(fd, "", buf) }
