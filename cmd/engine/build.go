package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/registry"
	"github.com/urfave/cli/v2"

	"strata/pkg/api"
	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/runspec"
)

func buildCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "build", Args: "[OPTIONS] PATH|-", Min: 1, Max: 1,
		Short: "Build an image from a Dockerfile",
		Also:  []string{"image build", "builder build", "build"},
		Flags: []cliapp.Flag{
			listFlag("add-host", "", "Add a custom host-to-IP mapping (host:ip)"),
			listFlag("build-arg", "", "Set build-time variables"),
			listFlag("cache-from", "", "Images to consider as cache sources (not needed: the cache is the engine's own)"),
			stringFlag("cgroup-parent", "", "Set the parent cgroup for the RUN instructions"),
			stringFlag("file", "f", `Name of the Dockerfile (default: "PATH/Dockerfile", "-" for STDIN)`),
			boolFlag("force-rm", "", "Accepted: nothing is left of a command"),
			stringFlag("iidfile", "", "Write the image ID to a file"),
			listFlag("label", "", "Set metadata for an image"),
			stringFlag("memory", "m", "Memory limit of commands"),
			stringFlag("network", "", "Set the networking mode for the RUN instructions"),
			boolFlag("no-cache", "", "Do not use cache when building the image"),
			listFlag("output", "o", "Output destination; only type=image and type=docker (the engine's images) are implemented"),
			stringFlag("platform", "", "Set the platform of the image (os[/arch[/variant]])"),
			{Name: "progress", Kind: cliapp.String, Default: "auto", Usage: `Set type of progress output ("auto", "plain", "tty", "quiet", "rawjson")`, Check: checkProgress},
			boolFlag("pull", "", "Always attempt to pull a newer version of the base images"),
			boolFlag("quiet", "q", "Suppress the build output and print the image ID on success"),
			{Name: "rm", Kind: cliapp.Bool, Default: "true", Usage: "Accepted: nothing is left of a command"},
			listFlag("secret", "", "Secret to expose to the build (id=ID[,src=FILE|,env=VARIABLE])"),
			stringFlag("shm-size", "", "Size of /dev/shm"),
			listFlag("ssh", "", "SSH agent to expose to the build (not implemented)"),
			listFlag("tag", "t", "Name and optionally a tag of the image (name:tag)"),
			stringFlag("target", "", "Set the target build stage to build"),
			listFlag("ulimit", "", "Ulimit options"),
		},
		Action: s.build,
	}
}

func checkProgress(v string) error {
	switch v {
	case "auto", "plain", "tty", "quiet", "rawjson":
		return nil
	}
	return fmt.Errorf("invalid progress mode %q: use auto, plain, tty, quiet or rawjson", v)
}

func (s *session) build(ctx context.Context, c *cli.Context) error {
	opts, err := s.buildOptions(ctx, c)
	if err != nil {
		return err
	}
	src, err := openBuildContext(c.Args().First(), c.String("file"), s.stdin)
	if err != nil {
		return err
	}
	opts.Query.Set("dockerfile", src.dockerfile)
	engine, err := s.api()
	if err != nil {
		return err
	}
	quiet := c.Bool("quiet") || c.String("progress") == "quiet"
	opts.Events = !quiet
	start := time.Now()
	pr, pw := io.Pipe()
	sent := make(chan error, 1) // one result
	go func() {
		err := src.write(ctx, pw)
		pw.CloseWithError(err) // never fails
		sent <- err
	}()
	body, err := engine.ImageBuild(ctx, pr, opts)
	if err != nil {
		pr.CloseWithError(io.ErrClosedPipe) // ends the sender
		if serr := <-sent; serr != nil && !errors.Is(serr, io.ErrClosedPipe) {
			return serr
		}
		return err
	}
	defer body.Close()
	view := s.newBuildView(c, quiet, start)
	id, err := view.follow(body, src.text)
	pr.CloseWithError(io.ErrClosedPipe) // ends the sender, should it still be there
	<-sent
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	if quiet {
		fmt.Fprintln(s.stdout, id)
	}
	if file := c.String("iidfile"); file != "" {
		return os.WriteFile(file, []byte(id), 0o666) //nolint:gosec // as docker does
	}
	return nil
}

// buildOptions turns the flags into options of POST /build.
func (s *session) buildOptions(ctx context.Context, c *cli.Context) (client.BuildImage, error) {
	q := url.Values{}
	opts := client.BuildImage{Query: q}
	if len(c.StringSlice("ssh")) > 0 {
		return opts, cliapp.Exit(cliapp.StatusUsage, "engine build --ssh: not implemented")
	}
	for _, o := range c.StringSlice("output") {
		if o != "type=image" && o != "type=docker" {
			return opts, cliapp.Exit(cliapp.StatusUsage, "engine build --output %s: not implemented; use 'engine save' or 'engine export'", o)
		}
	}
	q["t"], q["extrahosts"] = c.StringSlice("tag"), c.StringSlice("add-host")
	for flag, key := range map[string]string{"target": "target", "platform": "platform", "network": "networkmode", "cgroup-parent": "cgroupparent"} {
		if v := c.String(flag); v != "" {
			q.Set(key, v)
		}
	}
	for flag, key := range map[string]string{"no-cache": "nocache", "pull": "pull", "quiet": "q"} {
		if c.Bool(flag) {
			q.Set(key, "1")
		}
	}
	if c.String("progress") == "quiet" {
		q.Set("q", "1")
	}
	q.Set("rm", "1")
	for flag, key := range map[string]string{"memory": "memory", "shm-size": "shmsize"} {
		if v := c.String(flag); v != "" {
			n, err := units.RAMInBytes(v)
			if err != nil {
				return opts, fmt.Errorf("invalid argument %q for --%s: %w", v, flag, err)
			}
			q.Set(key, strconv.FormatInt(n, 10))
		}
	}
	if err := buildMaps(c, q, s.conf().ProxyEnv(environmentHost(), func(string) bool { return false })); err != nil {
		return opts, err
	}
	var err error
	if opts.Secrets, err = buildSecrets(c.StringSlice("secret")); err != nil {
		return opts, err
	}
	opts.Auth, err = s.buildAuth(ctx)
	return opts, err
}

// buildMaps adds the options that are JSON.
func buildMaps(c *cli.Context, q url.Values, proxies []string) error {
	args := map[string]*string{}
	for _, kv := range proxies {
		k, v, _ := strings.Cut(kv, "=")
		args[k] = &v
	}
	for _, kv := range c.StringSlice("build-arg") {
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			if v, ok = os.LookupEnv(k); !ok {
				continue
			}
		}
		args[k] = &v
	}
	labels := map[string]string{}
	for _, kv := range c.StringSlice("label") {
		k, v, _ := strings.Cut(kv, "=")
		labels[k] = v
	}
	limits, err := runspec.ParseUlimits(c.StringSlice("ulimit"))
	if err != nil {
		return err
	}
	for key, v := range map[string]any{"buildargs": args, "labels": labels, "ulimits": limits} {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if s := string(raw); s != "{}" && s != "null" && s != "[]" {
			q.Set(key, s)
		}
	}
	return nil
}

// buildSecrets reads "id=x,src=FILE", "id=x,env=VAR" and "id=x" (variable x, or file x).
func buildSecrets(list []string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, spec := range list {
		var id, src, env, kind string
		for field := range strings.SplitSeq(spec, ",") {
			k, v, ok := strings.Cut(field, "=")
			if !ok {
				return nil, fmt.Errorf("invalid --secret %q: field %q must be a key=value pair", spec, field)
			}
			switch k {
			case "id":
				id = v
			case "src", "source":
				src = v
			case "env":
				env = v
			case "type":
				kind = v
			default:
				return nil, fmt.Errorf("invalid --secret %q: unexpected key %q", spec, k)
			}
		}
		if id == "" {
			return nil, fmt.Errorf("invalid --secret %q: id is missing", spec)
		}
		if kind == "env" && env == "" {
			env, src = src, ""
		}
		if env == "" && src == "" {
			if _, ok := os.LookupEnv(id); ok && kind != "file" {
				env = id
			} else {
				src = id
			}
		}
		if env != "" {
			v, ok := os.LookupEnv(env)
			if !ok {
				return nil, fmt.Errorf("secret %s: variable %s is not set", id, env)
			}
			out[id] = []byte(v)
			continue
		}
		data, err := os.ReadFile(src)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", id, err)
		}
		out[id] = data
	}
	return out, nil
}

// buildAuth are the credentials that the user has, for base images.
func (s *session) buildAuth(ctx context.Context) (map[string]registry.AuthConfig, error) {
	out := map[string]registry.AuthConfig{}
	for _, server := range s.conf().Servers() {
		cred, err := s.conf().Credential(ctx, server)
		if err != nil {
			return nil, err
		}
		if !cred.Empty() {
			out[server] = authConfig(cred)
		}
	}
	return out, nil
}

// readBuildError shows where in the Dockerfile a build failed.
func readBuildError(w io.Writer, e *api.BuildEvent, dockerfile []byte) {
	if e == nil || e.Line == 0 || len(dockerfile) == 0 {
		return
	}
	lines := bytes.Split(bytes.TrimRight(dockerfile, "\n"), []byte("\n"))
	fmt.Fprintf(w, "Dockerfile:%d\n--------------------\n", e.Line)
	end := max(e.EndLine, e.Line)
	for n := max(1, e.Line-3); n <= min(len(lines), end+2); n++ {
		mark := "   "
		if n >= e.Line && n <= end {
			mark = ">>>"
		}
		fmt.Fprintf(w, "%4d | %s %s\n", n, mark, lines[n-1])
	}
	fmt.Fprintln(w, "--------------------")
}
