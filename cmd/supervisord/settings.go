package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"
	"github.com/urfave/cli/v2"

	"strata/pkg/version"
	"strata/supervisord"
)

// The defaults of flags and files.
const (
	defaultAddress = "/run/strata/supervisor.sock"
	defaultRoot    = "/var/lib/strata/supervisor"
	defaultState   = "/run/strata/supervisor"
	defaultConfig  = "/etc/strata/supervisor.toml"
	defaultHostDir = "/etc/strata/certs.d"
)

// file is the configuration file. An unknown key is an error: a typing mistake would
// otherwise pass for a default.
type file struct {
	Address        string            `toml:"address"`
	Root           string            `toml:"root"`
	State          string            `toml:"state"`
	LogLevel       string            `toml:"log_level"`
	HostDir        string            `toml:"registry_config_path"`
	DefaultRuntime string            `toml:"default_runtime"`
	OCIRuntime     string            `toml:"oci_runtime"`
	MetricsAddress string            `toml:"metrics_address"`
	Runtimes       map[string]string `toml:"runtimes"`
}

type settings struct {
	config supervisord.Config
	level  slog.Level
}

// readSettings merges flags, file and defaults, in this order of precedence.
func readSettings(c *cli.Context) (settings, error) {
	f, err := readFile(c.String("config"))
	if err != nil {
		return settings{}, err
	}
	pick := func(flag, inFile, fallback string) string {
		if v := c.String(flag); flag != "" && v != "" {
			return v
		}
		if inFile != "" {
			return inFile
		}
		return fallback
	}
	s := settings{config: supervisord.Config{
		Address: pick("address", f.Address, defaultAddress), Root: pick("root", f.Root, defaultRoot), State: pick("state", f.State, defaultState),
		HostDir: pick("", f.HostDir, defaultHostDir), DefaultRuntime: f.DefaultRuntime, OCIRuntime: f.OCIRuntime,
		Runtimes: f.Runtimes, MetricsAddress: f.MetricsAddress, Version: version.Version,
	}}
	for _, p := range []*string{&s.config.Address, &s.config.Root, &s.config.State} {
		if *p, err = filepath.Abs(*p); err != nil {
			return s, fmt.Errorf("path: %w", err)
		}
	}
	if s.config.State != defaultState { // a second instance keeps its containers apart from the first one's
		s.config.RuntimeRoot = filepath.Join(s.config.State, "oci")
	}
	level := pick("log-level", f.LogLevel, "info")
	if level == "trace" { // containerd has it; slog does not
		level = "debug"
	}
	if err := s.level.UnmarshalText([]byte(level)); err != nil {
		return s, fmt.Errorf("%w: log level %q is none of debug, info, warn, error", errUsage, level)
	}
	s.config.Debug = s.level <= slog.LevelDebug
	return s, nil
}

// readFile reads the configuration. Only the default one may be missing.
func readFile(path string) (file, error) {
	var f file
	named := path != ""
	if !named {
		path = defaultConfig
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && !named {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("read configuration: %w", err)
	}
	d := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return f, fmt.Errorf("read configuration %q: %w", path, err)
	}
	return f, nil
}
