// Package health probes containers: it runs each one's health check as an exec, keeps the
// last results, and says when a container becomes healthy or unhealthy.
//
// It owns one goroutine per probed container, from its start to its end. It refuses to
// know REST and definitions beyond Config.Healthcheck.
package health
