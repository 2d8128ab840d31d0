package ocirun

import (
	"os/exec"
	"strings"
	"testing"
)

// Every verb pays for the initialisation of every linked package.
func TestCostlyPackagesAreNotLinked(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "strata/cmd/ocirun").Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := map[string]bool{}
	for p := range strings.FieldsSeq(string(out)) {
		linked[p] = true
	}
	if !linked["strata/ocirun/internal/child"] {
		t.Fatal("the list of packages is not ocirun's")
	}
	for p := range linked {
		switch {
		case p == "net/http", p == "flag", p == "regexp", p == "crypto/tls", p == "text/template":
			t.Errorf("ocirun links %s", p)
		case strings.HasPrefix(p, "google.golang.org/"), strings.HasPrefix(p, "github.com/urfave/"), strings.HasPrefix(p, "github.com/sirupsen/"):
			t.Errorf("ocirun links %s", p)
		}
	}
}
