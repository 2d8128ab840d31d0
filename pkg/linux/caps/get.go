package caps

import (
	"os"

	"golang.org/x/sys/unix"
)

func get() ([2]unix.CapUserData, error) {
	var d [2]unix.CapUserData
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&h, &d[0]); err != nil {
		return d, os.NewSyscallError("capget", err)
	}
	return d, nil
}
