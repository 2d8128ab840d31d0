package httpapi

import (
	"slices"
	"testing"

	"strata/pkg/linux/archive"
)

func TestMountPointsAreNoChange(t *testing.T) {
	added := func(p string) archive.Change { return archive.Change{Kind: archive.Added, Path: p} }
	modified := func(p string) archive.Change { return archive.Change{Kind: archive.Modified, Path: p} }
	got := withoutMountPoints([]archive.Change{
		added("/dev"), added("/dev/pts"), added("/dev/shm"), modified("/etc"), added("/etc/hosts"), added("/proc"), modified("/srv"), added("/srv/f"), modified("/var"),
	})
	if want := []archive.Change{modified("/srv"), added("/srv/f"), modified("/var")}; !slices.Equal(got, want) {
		t.Errorf("changes = %v, want %v", got, want)
	}
	got = withoutMountPoints([]archive.Change{modified("/etc"), added("/etc/hosts"), added("/etc/mine")})
	if want := []archive.Change{modified("/etc"), added("/etc/mine")}; !slices.Equal(got, want) {
		t.Errorf("changes = %v, want %v", got, want)
	}
}
