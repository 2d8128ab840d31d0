package engined

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"strata/engined/internal/containers"
)

// serveMetrics answers GET /metrics on address until ctx is done; "" serves nothing.
func serveMetrics(ctx context.Context, address string, ctrs *containers.Service) error {
	if address == "" {
		return nil
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for state, count := range map[string]func(containers.Counts) int{
		"running": func(c containers.Counts) int { return c.Running },
		"paused":  func(c containers.Counts) int { return c.Paused },
		"stopped": func(c containers.Counts) int { return c.Stopped },
	} {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "engine_daemon_container_states_containers", Help: "The count of containers in various states", ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(count(ctrs.Count())) }))
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // nothing to drain
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}
