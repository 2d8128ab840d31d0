package binfmt

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestInterpretersAreFoundByMagicAndFlag(t *testing.T) {
	const entry = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: %\noffset 0\nmagic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
	for _, row := range []struct {
		name, flags, arch, change string
		want                      bool
	}{
		{"fixed", "OCF", "arm64", "", true},
		{"opened late", "OC", "arm64", "", false},
		{"another machine", "F", "riscv64", "", false},
		{"disabled", "F", "arm64", "enabled", false},
	} {
		dir := t.TempDir()
		text := strings.Replace(entry, "%", row.flags, 1)
		if row.change != "" {
			text = strings.Replace(text, row.change, "disabled", 1)
		}
		if err := os.WriteFile(filepath.Join(dir, "qemu"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(listed(dir), row.arch); got != row.want {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
	}
}
