package selfmem

import "testing"

func TestTrimKeepsTheProcessAlive(t *testing.T) {
	for range 3 {
		if err := Trim(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOnlyReadOnlyMappingsOfTheExecutableAreDropped(t *testing.T) {
	for line, want := range map[string]bool{
		"00400000-006e4000 r-xp 00000000 fe:00 1 /usr/bin/x y":  true,
		"006e4000-00a54000 r--p 002e4000 fe:00 1 /usr/bin/x y":  true,
		"00a54000-00a86000 rw-p 00654000 fe:00 1 /usr/bin/x y":  false,
		"006e4000-00a54000 r--s 002e4000 fe:00 1 /usr/bin/x y":  false,
		"006e4000-00a54000 r--p 002e4000 fe:00 1 /usr/bin/else": false,
		"7ffc0000-7ffd0000 rw-p 00000000 00:00 0 [stack]":       false,
		"7ffc0000-7ffd0000 r--p 00000000 00:00 0":               false,
		"": false,
	} {
		if _, _, got := executablePart(line, "/usr/bin/x y"); got != want {
			t.Errorf("%q: %v, want %v", line, got, want)
		}
	}
}
