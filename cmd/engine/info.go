package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/system"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/cliformat"
	"strata/pkg/version"
)

func infoCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "info", Args: "[OPTIONS]",
		Short:  "Display system-wide information",
		Also:   []string{"system info", "info"},
		Flags:  []cliapp.Flag{stringFlag("format", "f", inspectFormatUsage)},
		Action: s.info,
	}
}

// infoView is what a template of info may name.
type infoView struct {
	*system.Info
	ServerErrors []string    `json:",omitempty"`
	ClientInfo   *clientView `json:",omitempty"`
}

type clientView struct {
	Debug   bool
	Version string
	Context string
}

func (s *session) info(ctx context.Context, c *cli.Context) error {
	v := infoView{Info: &system.Info{}, ClientInfo: &clientView{Debug: s.global.debug, Version: version.Version, Context: s.contextName()}}
	api, err := s.api()
	if err != nil {
		return err
	}
	info, _, err := api.Info(ctx)
	if err != nil {
		v.ServerErrors = []string{err.Error()}
	} else {
		v.Info = &info
	}
	if format := c.String("format"); format != "" {
		return errors.Join(s.template(format, v), err)
	}
	p := infoPrinter{w: s.stdout}
	p.client(v.ClientInfo)
	p.line(0, "")
	p.line(0, "Server:")
	if err != nil {
		return fmt.Errorf("%w\nerrors pretty printing info", err)
	}
	p.server(&info)
	for _, w := range info.Warnings {
		fmt.Fprintln(s.stderr, w)
	}
	return p.err
}

// template prints v by a Go template, or as JSON.
func (s *session) template(format string, v any) error {
	if format == "json" {
		format = "{{json .}}"
	}
	t, err := cliformat.Compile(format)
	if err != nil {
		return cliapp.Exit(64, "%v", err)
	}
	var b strings.Builder
	if err := t.Execute(&b, v); err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	_, err = fmt.Fprintln(s.stdout, b.String())
	return err
}

// infoPrinter writes "Name: value" lines and keeps the first error.
type infoPrinter struct {
	w   io.Writer
	err error
}

func (p *infoPrinter) line(depth int, format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, strings.Repeat(" ", depth)+format+"\n", args...)
	}
}

// some prints a value that is not empty.
func (p *infoPrinter) some(depth int, name, value string) {
	if value != "" {
		p.line(depth, "%s: %s", name, value)
	}
}

func (p *infoPrinter) client(c *clientView) {
	p.line(0, "Client:")
	p.line(1, "Version:    %s", c.Version)
	p.line(1, "Context:    %s", c.Context)
	p.line(1, "Debug Mode: %t", c.Debug)
}

func (p *infoPrinter) server(i *system.Info) {
	p.line(1, "Containers: %d", i.Containers)
	p.line(2, "Running: %d", i.ContainersRunning)
	p.line(2, "Paused: %d", i.ContainersPaused)
	p.line(2, "Stopped: %d", i.ContainersStopped)
	p.line(1, "Images: %d", i.Images)
	p.some(1, "Server Version", i.ServerVersion)
	p.some(1, "Storage Driver", i.Driver)
	for _, kv := range i.DriverStatus {
		p.line(2, "%s: %s", kv[0], kv[1])
	}
	p.some(1, "Logging Driver", i.LoggingDriver)
	p.some(1, "Cgroup Driver", i.CgroupDriver)
	p.some(1, "Cgroup Version", i.CgroupVersion)
	p.plugins(i)
	p.line(1, "Swarm: %s", i.Swarm.LocalNodeState)
	p.runtimes(i)
	p.security(i)
	p.host(i)
	p.settings(i)
}

func (p *infoPrinter) plugins(i *system.Info) {
	p.line(1, "Plugins:")
	p.line(2, "Volume: %s", strings.Join(i.Plugins.Volume, " "))
	p.line(2, "Network: %s", strings.Join(i.Plugins.Network, " "))
	if len(i.Plugins.Authorization) > 0 {
		p.line(2, "Authorization: %s", strings.Join(i.Plugins.Authorization, " "))
	}
	p.line(2, "Log: %s", strings.Join(i.Plugins.Log, " "))
	if len(i.CDISpecDirs) > 0 {
		p.line(1, "CDI spec directories:")
		for _, d := range i.CDISpecDirs {
			p.line(2, "%s", d)
		}
	}
}

func (p *infoPrinter) runtimes(i *system.Info) {
	if len(i.Runtimes) > 0 {
		p.line(1, "Runtimes: %s", strings.Join(slices.Sorted(maps.Keys(i.Runtimes)), " "))
		p.line(1, "Default Runtime: %s", i.DefaultRuntime)
	}
	p.line(1, "Init Binary: %s", i.InitBinary)
	p.line(1, "containerd version: %s", i.ContainerdCommit.ID)
	p.line(1, "runc version: %s", i.RuncCommit.ID)
	p.line(1, "init version: %s", i.InitCommit.ID)
}

// security prints options such as "name=seccomp,profile=builtin".
func (p *infoPrinter) security(i *system.Info) {
	if len(i.SecurityOptions) == 0 {
		return
	}
	p.line(1, "Security Options:")
	for _, opt := range i.SecurityOptions {
		for field := range strings.SplitSeq(opt, ",") {
			k, v, ok := strings.Cut(field, "=")
			switch {
			case !ok:
				p.line(2, "%s", field)
			case k == "name":
				p.line(2, "%s", v)
			case k == "profile":
				p.line(3, "Profile: %s", v)
			default:
				p.line(3, "%s: %s", k, v)
			}
		}
	}
}

func (p *infoPrinter) host(i *system.Info) {
	p.some(1, "Kernel Version", i.KernelVersion)
	p.some(1, "Operating System", i.OperatingSystem)
	p.some(1, "OSType", i.OSType)
	p.some(1, "Architecture", i.Architecture)
	p.line(1, "CPUs: %d", i.NCPU)
	p.line(1, "Total Memory: %s", units.BytesSize(float64(i.MemTotal)))
	p.some(1, "Name", i.Name)
	p.some(1, "ID", i.ID)
	p.some(1, "Docker Root Dir", i.DockerRootDir)
	p.line(1, "Debug Mode: %t", i.Debug)
	if i.Debug {
		p.line(2, "File Descriptors: %d", i.NFd)
		p.line(2, "Goroutines: %d", i.NGoroutines)
		p.line(2, "System Time: %s", i.SystemTime)
		p.line(2, "EventsListeners: %d", i.NEventsListener)
	}
}

func (p *infoPrinter) settings(i *system.Info) {
	p.some(1, "HTTP Proxy", i.HTTPProxy)
	p.some(1, "HTTPS Proxy", i.HTTPSProxy)
	p.some(1, "No Proxy", i.NoProxy)
	if len(i.Labels) > 0 {
		p.line(1, "Labels:")
		for _, l := range i.Labels {
			p.line(2, "%s", l)
		}
	}
	p.line(1, "Experimental: %t", i.ExperimentalBuild)
	p.registries(i)
	p.line(1, "Live Restore Enabled: %t", i.LiveRestoreEnabled)
	if len(i.DefaultAddressPools) > 0 {
		p.line(1, "Default Address Pools:")
		for _, pool := range i.DefaultAddressPools {
			p.line(2, "Base: %s, Size: %d", pool.Base, pool.Size)
		}
	}
	if f := i.FirewallBackend; f != nil {
		p.line(1, "Firewall Backend: %s", f.Driver)
		for _, kv := range f.Info {
			p.line(2, "%s: %s", kv[0], kv[1])
		}
	}
	p.line(0, "")
}

func (p *infoPrinter) registries(i *system.Info) {
	conf := i.RegistryConfig
	if conf == nil {
		return
	}
	var insecure []string
	for _, name := range slices.Sorted(maps.Keys(conf.IndexConfigs)) {
		if idx := conf.IndexConfigs[name]; idx != nil && !idx.Secure {
			insecure = append(insecure, name)
		}
	}
	for _, cidr := range conf.InsecureRegistryCIDRs {
		insecure = append(insecure, cidr.String())
	}
	if len(insecure) > 0 {
		p.line(1, "Insecure Registries:")
		for _, name := range insecure {
			p.line(2, "%s", name)
		}
	}
	if len(conf.Mirrors) > 0 {
		p.line(1, "Registry Mirrors:")
		for _, m := range conf.Mirrors {
			p.line(2, "%s", m)
		}
	}
}
