package restartpolicy

import (
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]string{"": "no", "no": "no", "always": "always", "unless-stopped": "unless-stopped", "on-failure": "on-failure", "on-failure:3": "on-failure:3"} {
		p, err := Parse(in)
		if err != nil || p.String() != want {
			t.Errorf("Parse(%q) = %v, %v; want %v", in, p, err, want)
		}
	}
	for _, in := range []string{"sometimes", "always:3", "on-failure:x", "on-failure:-1"} {
		if p, err := Parse(in); err == nil {
			t.Errorf("Parse(%q) = %v, want an error", in, p)
		}
	}
}

func TestRestart(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy string
		exit   Exit
		want   bool
	}{
		{"no never restarts", "no", Exit{Code: 1}, false},
		{"always restarts after success", "always", Exit{}, true},
		{"always respects a stop by hand", "always", Exit{ExplicitlyStopped: true}, false},
		{"unless-stopped restarts after success", "unless-stopped", Exit{}, true},
		{"on-failure leaves success alone", "on-failure", Exit{}, false},
		{"on-failure restarts without limit", "on-failure", Exit{Code: 1, Restarts: 99}, true},
		{"on-failure stops at its limit", "on-failure:3", Exit{Code: 1, Restarts: 3}, false},
		{"on-failure restarts below its limit", "on-failure:3", Exit{Code: 1, Restarts: 2}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Parse(tt.policy)
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Restart(tt.exit); got != tt.want {
				t.Errorf("%v.Restart(%+v) = %v, want %v", p, tt.exit, got, tt.want)
			}
		})
	}
}

func TestNextDelayDoublesToAMinuteAndResets(t *testing.T) {
	d := NextDelay(0, 0)
	for range 20 {
		d = NextDelay(d, 0)
	}
	if d != time.Minute {
		t.Errorf("delay after 20 quick exits = %v, want 1m", d)
	}
	if d = NextDelay(d, 11*time.Second); d != 100*time.Millisecond {
		t.Errorf("delay after a stable run = %v, want 100ms", d)
	}
}
