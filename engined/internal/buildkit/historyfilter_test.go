package buildkit

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strata/pkg/buildkit/controlpb"
)

func TestHistoryIsFilteredAsBuildKitDoes(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }
	records := []*controlpb.BuildHistoryRecord{
		{Ref: "running", CreatedAt: ago(time.Minute)},
		{Ref: "done", CreatedAt: ago(2 * time.Hour), CompletedAt: ago(time.Hour), FrontendAttrs: map[string]string{"context": "https://host/a/b.git#main"}},
		{Ref: "bad", CreatedAt: ago(48 * time.Hour), CompletedAt: ago(47*time.Hour + 50*time.Minute), Error: &controlpb.Status{Message: "x"}, FrontendAttrs: map[string]string{"vcs:source": "https://host/c.git"}},
		{Ref: "stopped", CreatedAt: ago(72 * time.Hour), CompletedAt: ago(71 * time.Hour), Error: &controlpb.Status{Message: "context canceled"}},
	}
	for _, tt := range []struct {
		filters []string
		want    string
	}{
		{nil, "running done bad stopped "},
		{[]string{"status==completed"}, "done "},
		{[]string{"status==canceled"}, "stopped "},
		{[]string{"status!=error"}, "running done stopped "},
		{[]string{`ref~="^(bad|done)$"`}, ""}, // as a line of CSV, a quote within a field is none
		{[]string{"ref~=^(bad|done)$"}, "done bad "},
		{[]string{"repository==https://host/a/b.git"}, "done "},
		{[]string{"repository~=c.git"}, "bad "},
		{[]string{"startedAt<24h"}, "bad stopped "},
		{[]string{"startedAt>=24h"}, "running done "},
		{[]string{"completedAt>24h"}, "done "},
		{[]string{"completedAt<" + now.Add(-50*time.Hour).Format(time.RFC3339)}, "stopped "},
		{[]string{"duration<30m"}, "bad "},
		{[]string{"duration>=30m,status==completed"}, "done "},
		{[]string{"status==running", "ref==bad"}, "running bad "},
	} {
		f, err := parseHistoryFilter(tt.filters, now)
		if err != nil {
			if tt.want != "" || !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q: %v", tt.filters, err)
			}
			continue
		}
		var got strings.Builder
		for _, r := range records {
			if f.fits(r) {
				got.WriteString(r.Ref + " ")
			}
		}
		if got.String() != tt.want {
			t.Errorf("%q: %q, want %q", tt.filters, got.String(), tt.want)
		}
	}
	for _, bad := range []string{"ref", "colour==red", "ref>x", "status<=x", "startedAt==24h", "startedAt>soon", "duration<long", "ref~=(", `"`} {
		if _, err := parseHistoryFilter([]string{bad}, now); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
