package crash

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"strata/integration/harness"
)

// TestRandomKills kills daemons and shims at random under a load. STRATA_CRASH_SEED repeats
// a run as far as the load lets it.
func TestRandomKills(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("STRATA_CRASH_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	duration := 15 * time.Second
	if os.Getenv("STRATA_CRASH") == "all" {
		duration = time.Minute
	}
	s := harness.New(t)
	s.LoadBusybox()
	stop := make(chan struct{})
	var done, failed atomic.Int64
	var wg sync.WaitGroup
	for worker := range 3 {
		wg.Go(func() { load(s, worker, stop, &done, &failed) })
	}
	kills := 0
	for end := time.Now().Add(duration); time.Now().Before(end); kills++ {
		<-time.After(200*time.Millisecond + time.Duration(r.Int64N(int64(900*time.Millisecond))))
		switch r.IntN(5) {
		case 0, 1:
			s.KillEngine()
			s.StartEngine()
		case 2, 3:
			s.KillSupervisor()
			s.StartSupervisor()
		case 4:
			s.KillShims()
		}
	}
	close(stop)
	wg.Wait()
	// The promise is about what a daemon finds when it starts again.
	s.KillSupervisor()
	s.KillEngine()
	s.StartSupervisor()
	s.StartEngine()
	s.WaitReady()
	t.Logf("%d kills, %d commands succeeded, %d failed", kills, done.Load(), failed.Load())
	if done.Load() == 0 {
		t.Error("no command succeeded: this was no load")
	}
	var left harness.Result
	if !harness.Eventually(10*time.Second, func() bool {
		ids := strings.Fields(s.Engine("ps", "-aq").Stdout)
		if len(ids) == 0 {
			return true
		}
		left = s.Engine(append([]string{"rm", "-fv"}, ids...)...)
		return false
	}) {
		t.Errorf("containers cannot be removed: %+v", left)
	}
	// The names and the port are free again.
	for worker := range 3 {
		s.OK("engine", "run", "--rm", "--name", fmt.Sprintf("worker-%d", worker), "-p", "18080:80", "busybox:test", "true")
	}
	clean(t, s)
}

// load creates, runs and removes containers of one name until stop.
func load(s *harness.Stack, worker int, stop <-chan struct{}, done, failed *atomic.Int64) {
	name := fmt.Sprintf("worker-%d", worker)
	port := fmt.Sprintf("%d:80", 18081+worker)
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		for _, args := range [][][]string{
			{{"run", "--rm", "--name", name, "busybox:test", "true"}},
			{{"create", "--name", name, "-v", "/anonymous", "busybox:test", "true"}, {"rm", "-v", name}},
			{{"run", "-d", "--name", name, "-p", port, "--restart", "always", "busybox:test", "sleep", "1000"}, {"exec", name, "true"}},
		}[i%3] {
			if s.Engine(args...).Code == 0 {
				done.Add(1)
			} else {
				failed.Add(1)
			}
		}
		s.Engine("rm", "-fv", name) // what a failure has left
	}
}
