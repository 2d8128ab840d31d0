package health

import (
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
)

func TestJudge(t *testing.T) {
	k := settings(&container.HealthConfig{Test: []string{"CMD", "x"}, Retries: 2})
	for _, tt := range []struct {
		name   string
		from   container.Health
		code   int
		start  bool
		status container.HealthStatus
		streak int
	}{
		{"first success is healthy", container.Health{Status: container.Starting}, 0, true, container.Healthy, 0},
		{"failure in the start period does not count", container.Health{Status: container.Starting}, 1, true, container.Starting, 0},
		{"failure after the start period counts", container.Health{Status: container.Starting}, 1, false, container.Starting, 1},
		{"failure of a healthy one counts in the start period too", container.Health{Status: container.Healthy}, 1, true, container.Healthy, 1},
		{"the last retry is unhealthy", container.Health{Status: container.Healthy, FailingStreak: 1}, 1, false, container.Unhealthy, 2},
		{"success mends", container.Health{Status: container.Unhealthy, FailingStreak: 7}, 0, false, container.Healthy, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := judge(tt.from, container.HealthcheckResult{ExitCode: tt.code}, k, tt.start)
			if got.Status != tt.status || got.FailingStreak != tt.streak || len(got.Log) != 1 {
				t.Errorf("judge = %s, streak %d, %d results; want %s, streak %d, 1", got.Status, got.FailingStreak, len(got.Log), tt.status, tt.streak)
			}
		})
	}
}

func TestJudgeKeepsTheLastFiveResults(t *testing.T) {
	h := container.Health{Status: container.Starting}
	for i := range 8 {
		h = judge(h, container.HealthcheckResult{ExitCode: i}, settings(&container.HealthConfig{}), false)
	}
	if len(h.Log) != maxLog || h.Log[0].ExitCode != 3 {
		t.Errorf("log has %d results, first %d; want 5 from 3 on", len(h.Log), h.Log[0].ExitCode)
	}
}

func TestPauseIsShorterInTheStartPeriod(t *testing.T) {
	k := settings(&container.HealthConfig{Interval: time.Minute, StartPeriod: time.Hour, StartInterval: time.Second})
	if d := k.pause(container.Starting, time.Second); d != time.Second {
		t.Errorf("pause in the start period = %v, want 1s", d)
	}
	if d := k.pause(container.Healthy, time.Second); d != time.Minute {
		t.Errorf("pause of a healthy container = %v, want 1m", d)
	}
}
