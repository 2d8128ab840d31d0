package runspec

import "io/fs"

// fileMode makes permission bits of the number of --mount tmpfs-mode. The API wants the bits as
// chmod(2) writes them, not Go's own bits for set-user-id and sticky.
func fileMode(n uint64) fs.FileMode { return fs.FileMode(n) }
