//go:build !amd64 && !arm64

package child

// Without a tail for the architecture the machine executes the program itself.
func tailStart() uintptr { return 0 }
