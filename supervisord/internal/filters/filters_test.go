package filters

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
)

type object struct {
	name   string
	labels map[string]string
}

func (o object) Field(path []string) (string, bool) {
	switch path[0] {
	case "name":
		return o.name, o.name != ""
	case "labels":
		return Labels(o.labels, path[1:])
	}
	return "", false
}

var objects = []object{
	{"web", map[string]string{"tier": "front", "containerd.io/a.b": "1"}},
	{"db", map[string]string{"tier": "back"}},
	{"/tasks/exit", nil},
	{`a,"b`, map[string]string{"empty": ""}},
}

func TestFiltersSelect(t *testing.T) {
	for _, tt := range []struct {
		filters []string
		want    []int
	}{
		{nil, []int{0, 1, 2, 3}},
		{[]string{""}, []int{0, 1, 2, 3}},
		{[]string{"name==web"}, []int{0}},
		{[]string{"name!=web"}, []int{1, 2, 3}},
		{[]string{"name==web", "name==db"}, []int{0, 1}},
		{[]string{"name==web,labels.tier==back"}, nil},
		{[]string{"labels.tier"}, []int{0, 1}},
		{[]string{"labels.empty"}, []int{3}},
		{[]string{`labels."containerd.io/a.b"==1`}, []int{0}},
		{[]string{`labels.containerd.io`}, nil},
		{[]string{`labels."tier"~=^f`}, []int{0}},
		{[]string{"name~=|^/tasks/|"}, []int{2}},
		{[]string{"name~=/^\\/tasks\\//"}, []int{2}},
		{[]string{`name~="^/tasks/"`}, []int{2}},
		{[]string{"name~=|^/tasks/|,labels.tier"}, nil},
		{[]string{`name~=|^\w+$|`}, []int{0, 1}},
		{[]string{`name~=|^\\w+$|`}, []int{0, 1}},
		{[]string{`name=="a,\"b"`}, []int{3}},
		{[]string{"name==/tasks/exit"}, []int{2}},
		{[]string{"unknown!=x"}, []int{0, 1, 2, 3}},
		{[]string{"unknown==x"}, nil},
		{[]string{"name~=w.b|db"}, []int{0, 1}},
	} {
		f, err := ParseAll(tt.filters...)
		if err != nil {
			t.Errorf("ParseAll(%q): %v", tt.filters, err)
			continue
		}
		var got []int
		for i, o := range objects {
			if f.Match(o) {
				got = append(got, i)
			}
		}
		if len(got) != len(tt.want) {
			t.Errorf("%q matches %v, want %v", tt.filters, got, tt.want)
			continue
		}
		for i := range got {
			if got[i] != tt.want[i] {
				t.Errorf("%q matches %v, want %v", tt.filters, got, tt.want)
			}
		}
	}
}

func TestBrokenFiltersAreRefused(t *testing.T) {
	for _, s := range []string{"==", "name==", "name=", "name=web", ",", "name==a,", ".name", "name.", "name~=|(|", `name=="a`, "name~=/a", `name=="a"b`, `name=="\q"`, "na me", "name==a\"b", "name~=(", "name==\xff"} {
		if f, err := ParseAll(s); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("ParseAll(%q) = %v, %v; want class ErrInvalidArgument", s, f, err)
		}
	}
}

func FuzzFilters(f *testing.F) {
	for _, s := range []string{"", "name==web", `labels."a.b"~=|^x|,name!=y`, "namespace==moby,topic~=|^/tasks/|", `a."\x00"==1`, "a~=/\\//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		filter, err := ParseAll(s)
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("ParseAll(%q) = %v, want class ErrInvalidArgument", s, err)
			}
			return
		}
		for _, o := range objects {
			filter.Match(o)
		}
	})
}
