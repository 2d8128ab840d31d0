// Package stats holds one sample of what a container uses, and reads the parts of it that
// the kernel tells without the supervisor: the host's CPU time and the counters of the
// container's network interfaces. It knows neither cgroup versions nor JSON.
package stats
