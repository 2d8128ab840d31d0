package engined

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"strata/engined/internal/build"
)

func TestBuilderPoliciesAreThoseOfTheFile(t *testing.T) {
	for _, tt := range []struct {
		name, json string
		want       []build.Policy
		is         func(error) bool // nil for no error
	}{
		{"nothing said", `{}`, []build.Policy{{All: true, Keep: build.DefaultKeep}}, nil},
		{"switched off", `{"gc": {"enabled": false, "defaultKeepStorage": "1GB"}}`, nil, nil},
		{"the older word", `{"gc": {"enabled": true, "defaultKeepStorage": "1GB"}}`, []build.Policy{{All: true, Keep: 1 << 30}}, nil},
		{
			"policies in their order", `{"gc": {"policy": [{"filter": ["type=regular", "unused-for==48h"]}, {"keepStorage": "2MB", "all": true}]}}`,
			[]build.Policy{{Types: []string{"regular"}, UnusedFor: 48 * time.Hour}, {All: true, Keep: 2 << 20}},
			nil,
		},
		{"a filter that nobody knows", `{"gc": {"policy": [{"filter": ["colour=red"]}]}}`, nil, errdefs.IsInvalidArgument},
		{"no duration", `{"gc": {"policy": [{"filter": ["unused-for=long"]}]}}`, nil, errdefs.IsInvalidArgument},
		{
			"the newer words", `{"gc": {"defaultReservedSpace": "1GB", "defaultMaxUsedSpace": "3GB", "defaultMinFreeSpace": "2GB"}}`,
			[]build.Policy{{All: true, Keep: 1 << 30, MaxUsed: 3 << 30, MinFree: 2 << 30}},
			nil,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "engine.json")
			if err := os.WriteFile(file, []byte(`{"builder": `+tt.json+`}`), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, err := Load(file, nil)
			if tt.is != nil {
				if err == nil || !tt.is(err) {
					t.Errorf("Load = %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := cfg.Builder.GC.policies(); err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("policies = %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}
