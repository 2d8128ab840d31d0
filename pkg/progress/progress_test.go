package progress_test

import (
	"encoding/json"
	"strings"
	"testing"

	"strata/pkg/progress"
)

const pull = `{"status":"Pulling from bb","id":"v1"}
{"status":"Pulling fs layer","progressDetail":{},"id":"aaa"}
{"status":"Pulling fs layer","progressDetail":{},"id":"bbb"}
{"status":"Downloading","progressDetail":{"current":500,"total":1000},"progress":"old","id":"aaa"}
{"status":"Pull complete","progressDetail":{},"id":"aaa"}
{"aux":{"Digest":"x"}}
{"status":"Status: Downloaded newer image for bb:v1"}
`

func TestShowWritesPlainLinesWithoutTerminal(t *testing.T) {
	var out strings.Builder
	var aux []string
	err := progress.Show(strings.NewReader(pull), &out, progress.Options{Aux: func(m json.RawMessage) { aux = append(aux, string(m)) }})
	want := "v1: Pulling from bb\naaa: Pulling fs layer\nbbb: Pulling fs layer\naaa: Pull complete\nStatus: Downloaded newer image for bb:v1\n"
	if err != nil || out.String() != want {
		t.Errorf("Show wrote %q, %v, want %q", out.String(), err, want)
	}
	if len(aux) != 1 || aux[0] != `{"Digest":"x"}` {
		t.Errorf("aux = %q, want the digest", aux)
	}
}

func TestShowRedrawsTheLineOfAnIDOnATerminal(t *testing.T) {
	var out strings.Builder
	if err := progress.Show(strings.NewReader(pull), &out, progress.Options{Terminal: true, Width: 120}); err != nil {
		t.Fatal(err)
	}
	bar := "[" + strings.Repeat("=", 25) + ">" + strings.Repeat(" ", 24) + "]  500B/1kB"
	want := "v1: Pulling from bb\n" +
		"\n\x1b[1A\x1b[2K\raaa: Pulling fs layer\r\x1b[1B" +
		"\n\x1b[1A\x1b[2K\rbbb: Pulling fs layer\r\x1b[1B" +
		"\x1b[2A\x1b[2K\raaa: Downloading " + bar + "\r\x1b[2B" +
		"\x1b[2A\x1b[2K\raaa: Pull complete\r\x1b[2B" +
		"Status: Downloaded newer image for bb:v1\n"
	if out.String() != want {
		t.Errorf("Show wrote\n%q, want\n%q", out.String(), want)
	}
}

func TestShowKeepsLinesWithinANarrowTerminal(t *testing.T) {
	var out strings.Builder
	in := `{"status":"Downloading a rather long thing","progressDetail":{"current":500,"total":1000},"id":"aaaaaaaaaaaa"}`
	if err := progress.Show(strings.NewReader(in), &out, progress.Options{Terminal: true, Width: 20}); err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(strings.SplitAfter(out.String(), "\x1b[2K\r")[1], "\r")
	if len(line) > 20 {
		t.Errorf("line %q has %d columns, want at most 20", line, len(line))
	}
}

func TestShowReturnsTheErrorOfTheStream(t *testing.T) {
	for _, in := range []string{
		`{"errorDetail":{"code":1,"message":"no space"},"error":"no space"}`,
		`{"error":"no space"}`,
	} {
		var out strings.Builder
		if err := progress.Show(strings.NewReader(in), &out, progress.Options{}); err == nil || err.Error() != "no space" {
			t.Errorf("Show(%s) = %v, want \"no space\"", in, err)
		}
	}
	if err := progress.Show(strings.NewReader(`{"status":`), &strings.Builder{}, progress.Options{}); err == nil {
		t.Error("Show of a cut stream succeeded, want an error")
	}
}
