package spec

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/profiles/apparmor"
)

// defaultAppArmorProfile is what confines a container that asks for nothing else.
const defaultAppArmorProfile = "docker-default"

// appArmorParser compiles profiles and loads them.
const appArmorParser = "apparmor_parser"

// AppArmorProfile returns the profile of a container: its own wish, or docker-default if
// that is loaded; "" on a host without AppArmor.
func AppArmorProfile(h *container.HostConfig) string {
	profile := wantedAppArmorProfile(h)
	if profile != defaultAppArmorProfile {
		return profile
	}
	if loaded, err := apparmor.IsLoaded(profile); err != nil || !loaded {
		return ""
	}
	return profile
}

// wantedAppArmorProfile returns "" on a host without AppArmor.
func wantedAppArmorProfile(h *container.HostConfig) string {
	so, err := parseSecurityOpt(h.SecurityOpt)
	switch {
	case err != nil || !AppArmorSupported():
		return ""
	case so.apparmor != "":
		return so.apparmor
	case h.Privileged:
		return "unconfined"
	default:
		return defaultAppArmorProfile
	}
}

// AppArmorSupported reports whether the host confines with AppArmor.
func AppArmorSupported() bool {
	data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(data), "Y")
}

// WantsDefaultAppArmor reports whether a container is to be confined by docker-default.
func WantsDefaultAppArmor(h *container.HostConfig) bool {
	return wantedAppArmorProfile(h) == defaultAppArmorProfile
}

// LoadDefaultAppArmor loads docker-default where AppArmor is on and it is not loaded:
// upgrades of AppArmor unload what they do not know. Without apparmor_parser nobody can load
// it; that is ErrNotFound, and containers go without. Any other error means that containers
// should be confined here and cannot be.
func LoadDefaultAppArmor() error {
	if !AppArmorSupported() {
		return nil
	}
	if loaded, err := apparmor.IsLoaded(defaultAppArmorProfile); err == nil && loaded {
		return nil
	}
	if _, err := exec.LookPath(appArmorParser); err != nil {
		return fmt.Errorf("AppArmor is on, but %s is not installed (Debian: apt-get install apparmor), so containers run without the profile %s: %w", appArmorParser, defaultAppArmorProfile, errdefs.ErrNotFound)
	}
	if err := apparmor.InstallDefault(defaultAppArmorProfile); err != nil {
		return fmt.Errorf("AppArmor is on, but profile %s could not be loaded (--security-opt apparmor=unconfined runs a container without): %w", defaultAppArmorProfile, err)
	}
	return nil
}
