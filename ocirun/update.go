package ocirun

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"strata/ocirun/internal/state"
)

// update changes limits: those of a file with LinuxResources ("-" is standard input),
// or those of flags.
func (a *app) update(args []string) error {
	var file string
	words := map[string]*string{}
	f := newFlags("update")
	f.str(&file, "resources", "r")
	for _, n := range []string{
		"blkio-weight", "cpu-period", "cpu-quota", "cpu-burst", "cpu-share", "cpu-rt-period", "cpu-rt-runtime", "cpuset-cpus",
		"cpuset-mems", "cpu-idle", "kernel-memory", "kernel-memory-tcp", "memory", "memory-reservation", "memory-swap",
		"pids-limit", "l3-cache-schema", "mem-bw-schema",
	} {
		words[n] = new(string)
		f.str(words[n], n)
	}
	id, err := f.parseID(args)
	if err != nil {
		return err
	}
	st, err := a.store.Load(id)
	if err != nil {
		return err
	}
	if a.status(st) == state.Stopped {
		return errNotRunningFor(state.Stopped)
	}
	res := &specs.LinuxResources{}
	switch {
	case file != "":
		if res, err = a.readResources(file); err != nil {
			return err
		}
	case *words["l3-cache-schema"]+*words["mem-bw-schema"] != "":
		return fmt.Errorf("intelRdt: %w", errdefs.ErrNotImplemented)
	default:
		if err := resourcesFromWords(res, words); err != nil {
			return err
		}
	}
	m, err := cgroupOf(st)
	if err != nil {
		return err
	}
	return m.Set(res)
}

func (a *app) readResources(file string) (*specs.LinuxResources, error) {
	in := a.cfg.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, 4<<20))
	if err != nil {
		return nil, err
	}
	res := &specs.LinuxResources{}
	if err := json.Unmarshal(data, res); err != nil {
		return nil, fmt.Errorf("parse resources: %w", err)
	}
	res.Devices = nil // an update leaves device rules alone, as runc does
	return res, nil
}

// resourcesFromWords fills in what the flags name.
func resourcesFromWords(r *specs.LinuxResources, words map[string]*string) (err error) {
	integer := func(name string) *int64 {
		s := *words[name]
		if s == "" || err != nil {
			return nil
		}
		n, perr := parseSize(s)
		if perr != nil {
			err = fmt.Errorf("invalid value for %s: %q: %w", name, s, errdefs.ErrInvalidArgument)
			return nil
		}
		return &n
	}
	unsigned := func(name string) *uint64 {
		n := integer(name)
		if n == nil {
			return nil
		}
		u := uint64(*n)
		return &u
	}
	r.CPU = &specs.LinuxCPU{
		Shares: unsigned("cpu-share"), Quota: integer("cpu-quota"), Burst: unsigned("cpu-burst"), Period: unsigned("cpu-period"),
		RealtimeRuntime: integer("cpu-rt-runtime"), RealtimePeriod: unsigned("cpu-rt-period"), Cpus: *words["cpuset-cpus"],
		Mems: *words["cpuset-mems"], Idle: integer("cpu-idle"),
	}
	r.Memory = &specs.LinuxMemory{
		Limit: integer("memory"), Reservation: integer("memory-reservation"), Swap: integer("memory-swap"),
		Kernel: integer("kernel-memory"), KernelTCP: integer("kernel-memory-tcp"),
	}
	if n := integer("pids-limit"); n != nil {
		r.Pids = &specs.LinuxPids{Limit: n}
	}
	if n := integer("blkio-weight"); n != nil {
		w := uint16(*n)
		r.BlockIO = &specs.LinuxBlockIO{Weight: &w}
	}
	return err
}

// parseSize parses a number with an optional unit (b, k, m, g, t: powers of 1024).
func parseSize(s string) (int64, error) {
	s = strings.TrimSuffix(strings.ToLower(s), "b")
	shift := 0
	if n := len(s); n > 0 {
		if i := strings.IndexByte("kmgt", s[n-1]); i >= 0 {
			shift, s = 10*(i+1), s[:n-1]
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, err
	}
	if shifted := n << shift; shifted>>shift == n {
		return shifted, nil
	}
	return 0, strconv.ErrRange
}
