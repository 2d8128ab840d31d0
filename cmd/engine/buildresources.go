package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
	"github.com/urfave/cli/v2"

	"strata/pkg/buildclient"
	"strata/pkg/runspec"
)

// buildResources are the keys of --resource, each of which has been a flag of its own, and
// what the frontend calls them.
var buildResources = map[string]struct {
	attr  string
	parse func(string) (int64, error) // nil for a text
}{
	"memory": {"memory", units.RAMInBytes}, "memory-swap": {"memswap", swapInBytes}, "cpu-shares": {"cpushares", number}, "cpu-period": {"cpuperiod", number},
	"cpu-quota": {"cpuquota", number}, "cpuset-cpus": {"cpusetcpus", nil}, "cpuset-mems": {"cpusetmems", nil},
}

func number(v string) (int64, error) { return strconv.ParseInt(v, 10, 64) }

// swapInBytes reads memory and swap together; -1 is no limit.
func swapInBytes(v string) (int64, error) {
	if v == "-1" {
		return -1, nil
	}
	return units.RAMInBytes(v)
}

// setBuildResources reads what commands may take.
func setBuildResources(b *buildclient.Build, c *cli.Context) error {
	for _, key := range slices.Sorted(maps.Keys(buildResources)) {
		if v := c.String(key); v != "" {
			if err := setBuildResource(b, key, v); err != nil {
				return fmt.Errorf("invalid argument %q for --%s: %w", v, key, err)
			}
		}
	}
	for _, spec := range c.StringSlice("resource") {
		key, v, ok := strings.Cut(spec, "=")
		if !ok || v == "" {
			return fmt.Errorf("invalid --resource %q, expected key=value", spec)
		}
		if err := setBuildResource(b, strings.TrimSpace(key), strings.TrimSpace(v)); err != nil {
			return fmt.Errorf("invalid --resource %q: %w", spec, err)
		}
	}
	if v := c.String("shm-size"); v != "" {
		n, err := units.RAMInBytes(v)
		if err != nil {
			return fmt.Errorf("invalid argument %q for --shm-size: %w", v, err)
		}
		b.Attrs["shm-size"] = strconv.FormatInt(n, 10)
	}
	list := c.StringSlice("ulimit")
	if _, err := runspec.ParseUlimits(list); err != nil {
		return err
	}
	if len(list) > 0 {
		b.Attrs["ulimit"] = strings.Join(list, ",")
	}
	return nil
}

func setBuildResource(b *buildclient.Build, key, v string) error {
	r, ok := buildResources[key]
	if !ok {
		return fmt.Errorf("there are %s", strings.Join(slices.Sorted(maps.Keys(buildResources)), ", "))
	}
	if r.parse == nil {
		b.Attrs[r.attr] = v
		return nil
	}
	n, err := r.parse(v)
	if err != nil {
		return err
	}
	b.Attrs[r.attr] = strconv.FormatInt(n, 10)
	return nil
}

// refusedFlag says why a flag of docker build is not here.
func refusedFlag(why string) func(string) error {
	return refusedUnless("false", why)
}

// refusedUnless lets one value pass, which asks for nothing.
func refusedUnless(nothing, why string) func(string) error {
	return func(v string) error {
		if v == nothing || v == "" {
			return nil
		}
		return errors.New(why)
	}
}

// checkBuilder knows the only builder that there is: the daemon's.
func checkBuilder(v string) error {
	if v == "" || v == "default" {
		return nil
	}
	return fmt.Errorf("builder %q: there is one, the daemon's; docker buildx build --builder knows others", v)
}
