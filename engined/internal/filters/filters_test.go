package filters

import (
	"reflect"
	"testing"
)

func TestParseReadsBothForms(t *testing.T) {
	want := Args{"label": {"a=b"}}
	for _, s := range []string{`{"label":{"a=b":true}}`, `{"label":["a=b"]}`} {
		got, err := Parse(s, "label")
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Parse(%s) = %v, %v; want %v", s, got, err, want)
		}
	}
}

func TestParseNamesTheUnknownKey(t *testing.T) {
	if _, err := Parse(`{"bogus":["x"]}`, "label"); err == nil || err.Error() != "invalid filter 'bogus': invalid argument" {
		t.Errorf("Parse = %v", err)
	}
	if _, err := Parse(`[`, "label"); err == nil {
		t.Error("Parse of malformed JSON succeeded")
	}
}

func TestLabels(t *testing.T) {
	labels := map[string]string{"a": "b", "c": ""}
	for _, tt := range []struct {
		args Args
		want bool
	}{
		{Args{}, true},
		{Args{"label": {"a"}}, true},
		{Args{"label": {"a=b", "c"}}, true},
		{Args{"label": {"a=x"}}, false},
		{Args{"label!": {"a"}}, false},
		{Args{"label!": {"a=x"}}, true},
	} {
		if got := tt.args.Labels(labels); got != tt.want {
			t.Errorf("%v.Labels = %v, want %v", tt.args, got, tt.want)
		}
	}
}
