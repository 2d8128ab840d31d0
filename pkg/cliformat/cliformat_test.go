package cliformat_test

import (
	"errors"
	"strings"
	"testing"

	"strata/pkg/cliformat"
)

type row struct {
	ID   string
	Name string

	labels map[string]string
}

func (r row) Label(k string) string { return r.labels[k] }

func table() cliformat.Table {
	return cliformat.Table{
		Columns: `{{.ID}}\t{{.Name}}`, Quiet: "{{.ID}}",
		Header: cliformat.Header{"ID": "THING ID", "Name": "NAME"},
	}
}

func rows() []row {
	return []row{{"1", "first", map[string]string{"a.b": "<x>"}}, {"22", "the second", nil}}
}

func TestWritePrintsEachFormat(t *testing.T) {
	for _, tc := range []struct {
		name, format, configured string
		quiet                    bool
		want                     string
	}{
		{"default table", "", "", false, "THING ID   NAME\n1          first\n22         the second\n"},
		{"quiet", "", "{{.Name}}", true, "1\n22\n"},
		{"format of the configuration", "", "{{.Name}}", false, "first\nthe second\n"},
		{"json", "json", "", false, `{"ID":"1","Name":"first"}` + "\n" + `{"ID":"22","Name":"the second"}` + "\n"},
		{"template", `{{upper .Name}}\t{{.ID}}`, "", false, "FIRST\t1\nTHE SECOND\t22\n"},
		{"own table", `table {{lower .Name}}\t{{.Label "a.b"}}`, "", false, "NAME         b\nfirst        <x>\nthe second   \n"},
		{
			"functions", `{{json .Name}} {{title .Name}} {{pad .ID 1 2}}| {{truncate .Name 3}} {{join (split .Name " ") "-"}}`, "", false,
			"\"first\" First  1  | fir first\n\"the second\" The Second  22  | the the-second\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out strings.Builder
			tab := table()
			err := cliformat.Write(&out, tab, tab.Choose(tc.format, tc.configured, tc.quiet), rows())
			if err != nil || out.String() != tc.want {
				t.Errorf("Write = %q, %v, want %q", out.String(), err, tc.want)
			}
		})
	}
}

func TestWriteReportsABadTemplate(t *testing.T) {
	for format, want := range map[string]string{"{{": "failed to parse template: ", "{{.Nope}}": "failed to execute template: "} {
		var out strings.Builder
		if err := cliformat.Write(&out, table(), format, rows()); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("Write with %q = %v, want %q…", format, err, want)
		}
		if out.Len() > 0 {
			t.Errorf("Write with %q printed %q, want nothing", format, out.String())
		}
	}
}

func TestInspectPrintsWhatIsFound(t *testing.T) {
	missing := errors.New("no such thing")
	get := func(name string) (cliformat.Element, error) {
		if name == "nope" {
			return cliformat.Element{}, missing
		}
		return cliformat.Element{Typed: row{ID: name}, Raw: []byte(`{"ID":"` + name + `","Old":{"Size":12345678901}}`)}, nil
	}
	for _, tc := range []struct {
		format string
		names  []string
		want   string
		err    error
	}{
		{"", []string{"a", "nope"}, "[\n    {\n        \"ID\": \"a\",\n        \"Old\": {\n            \"Size\": 12345678901\n        }\n    }\n]\n", missing},
		{"", []string{"nope"}, "[]\n", missing},
		{"json", []string{"a"}, `[{"ID":"a","Old":{"Size":12345678901}}]` + "\n", nil},
		{"{{.ID}}", []string{"a", "nope", "b"}, "a\nb\n", missing},
		{"{{.Old.Size}}", []string{"a"}, "12345678901\n", nil}, // a member that our types do not have
	} {
		var out strings.Builder
		err := cliformat.Inspect(&out, tc.format, tc.names, get)
		if !errors.Is(err, tc.err) || out.String() != tc.want {
			t.Errorf("Inspect(%q, %q) = %q, %v, want %q, %v", tc.format, tc.names, out.String(), err, tc.want, tc.err)
		}
	}
	if err := cliformat.Inspect(&strings.Builder{}, "{{.Nope}}", []string{"a"}, get); err == nil {
		t.Error("Inspect of a member that is nowhere succeeded, want an error")
	}
}

func TestEllipsisCountsCharacters(t *testing.T) {
	for _, tc := range []struct{ in, want string }{{"short", "short"}, {"exactly 10", "exactly 10"}, {"more than 10", "more than…"}, {"äöüäöüäöüäöü", "äöüäöüäöü…"}} {
		if got := cliformat.Ellipsis(tc.in, 10); got != tc.want {
			t.Errorf("Ellipsis(%q) = %q, want %q", tc.in, got, tc.want)
		}
	}
}
