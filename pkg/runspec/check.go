package runspec

import (
	"net/netip"
	"strings"

	units "github.com/docker/go-units"
)

// The checks below look at one value of an option, so that a mistake is told together with the
// option that has it.

// CheckAttach says whether s names a standard stream.
func CheckAttach(s string) error {
	_, err := parseAttach([]string{s})
	return err
}

// CheckAddress says whether s is an IP address.
func CheckAddress(s string) error {
	if _, err := netip.ParseAddr(strings.TrimSpace(s)); err != nil {
		return invalid("IP address is not correctly formatted: %s", s)
	}
	return nil
}

// CheckSysctl says whether s is NAME=VALUE of a setting that has a namespace of its own, so that a
// container may have it without its host (sysctls of the ipc and net namespaces).
func CheckSysctl(s string) error {
	name, _, ok := strings.Cut(s, "=")
	if !ok || name == "" {
		return invalid("sysctl '%s' is not allowed", s)
	}
	switch name {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
		"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced":
		return nil
	}
	if strings.HasPrefix(name, "net.") || strings.HasPrefix(name, "fs.mqueue.") {
		return nil
	}
	return invalid("sysctl '%s' is not allowed", s)
}

// CheckWeight says whether s is DEVICE:WEIGHT.
func CheckWeight(s string) error {
	_, err := parseWeights([]string{s})
	return err
}

// CheckBytesRate says whether s is DEVICE:BYTES.
func CheckBytesRate(s string) error {
	_, err := parseThrottles([]string{s}, units.RAMInBytes)
	return err
}

// CheckIORate says whether s is DEVICE:NUMBER.
func CheckIORate(s string) error {
	_, err := parseThrottles([]string{s}, plainNumber)
	return err
}
