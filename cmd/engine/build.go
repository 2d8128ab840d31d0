package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"strata/pkg/buildclient"
	"strata/pkg/buildkit"
	"strata/pkg/buildkit/controlpb"
	"strata/pkg/cliapp"
)

func buildCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "build", Args: "[OPTIONS] PATH|URL|-", Min: 1, Max: 1,
		Short: "Build an image from a Dockerfile",
		Also:  []string{"image build", "builder build", "build"},
		Flags: []cliapp.Flag{
			listFlag("add-host", "", "Add a custom host-to-IP mapping (host:ip)"),
			listFlag("allow", "", `Allow extra privileged entitlement ("network.host", "security.insecure")`),
			listFlag("annotation", "", "Add annotation to the image"),
			listFlag("attest", "", `Attestation parameters ("type=provenance,mode=max")`),
			listFlag("build-arg", "", "Set build-time variables"),
			listFlag("build-context", "", `Additional build contexts ("name=path", "name=docker-image://…", "name=oci-layout://DIR[:TAG|@DIGEST]")`),
			listFlag("cache-from", "", `External cache sources ("user/app:cache", "type=registry,ref=…", "type=local,src=DIR")`),
			listFlag("cache-to", "", `Cache export destinations ("type=inline", "type=registry,ref=…", "type=local,dest=DIR")`),
			{Name: "call", Kind: cliapp.String, Default: "build", Usage: `Method of evaluating the build ("check", "outline", "targets"), with ",format=json" for machines`},
			stringFlag("cgroup-parent", "", "Set the parent cgroup for the RUN instructions"),
			boolFlag("check", "", `Shorthand for "--call=check"`),
			stringFlag("file", "f", `Name of the Dockerfile (default: "PATH/Dockerfile", "-" for STDIN)`),
			{Name: "force-rm", Kind: cliapp.Bool, Hidden: true},
			stringFlag("iidfile", "", "Write the image ID to a file"),
			listFlag("label", "", "Set metadata for an image"),
			boolFlag("load", "", `Shorthand for "--output=type=docker"`),
			{Name: "memory", Short: "m", Kind: cliapp.String, Hidden: true},
			stringFlag("metadata-file", "", "Write build result metadata to a file"),
			stringFlag("network", "", "Set the networking mode for the RUN instructions"),
			boolFlag("no-cache", "", "Do not use cache when building the image"),
			listFlag("no-cache-filter", "", "Do not cache specified stages"),
			{Name: "on-failure", Kind: cliapp.String, Usage: `What to do when a step fails ("shell": a shell with the files before it; "shell,as-left": with what it has left)`, Check: checkOnFailure},
			listFlag("output", "o", `Output destination ("type=local,dest=path", "type=tar", "type=oci", "type=docker", "type=image,push=true")`),
			listFlag("platform", "", "Set target platforms for build"),
			{Name: "progress", Kind: cliapp.String, Default: defaultProgress(), Usage: `Set type of progress output ("auto", "none", "plain", "quiet", "rawjson", "tty")`, Check: checkProgress},
			stringFlag("provenance", "", `Shorthand for "--attest=type=provenance"`),
			boolFlag("pull", "", "Always attempt to pull all referenced images"),
			boolFlag("push", "", `Shorthand for "--output=type=registry"`),
			boolFlag("quiet", "q", "Suppress the build output and print the image ID on success"),
			{Name: "rm", Kind: cliapp.Bool, Default: "true", Hidden: true},
			{Name: "memory-swap", Kind: cliapp.String, Hidden: true},
			{Name: "cpu-shares", Short: "c", Kind: cliapp.String, Hidden: true},
			{Name: "cpu-period", Kind: cliapp.String, Hidden: true},
			{Name: "cpu-quota", Kind: cliapp.String, Hidden: true},
			{Name: "cpuset-cpus", Kind: cliapp.String, Hidden: true},
			{Name: "cpuset-mems", Kind: cliapp.String, Hidden: true},
			{Name: "print", Kind: cliapp.String, Hidden: true, AliasOf: "call"},
			{Name: "builder", Kind: cliapp.String, Hidden: true, Check: checkBuilder},
			{Name: "policy", Kind: cliapp.List, Hidden: true, Check: refusedFlag("source policies are not implemented")},
			{Name: "squash", Kind: cliapp.Bool, Hidden: true, Check: refusedFlag("layers are not squashed: copy the result of one stage into another")},
			{Name: "isolation", Kind: cliapp.String, Hidden: true, Check: refusedUnless("default", "there is one way to isolate commands")},
			{Name: "security-opt", Kind: cliapp.List, Hidden: true, Check: refusedFlag("commands say it themselves: RUN --security=insecure")},
			{Name: "compress", Kind: cliapp.Bool, Hidden: true},
			{Name: "disable-content-trust", Kind: cliapp.Bool, Default: "true", Hidden: true},
			listFlag("resource", "", `Resource limits of commands ("memory=2g", "cpu-quota=50000", "cpuset-cpus=0,1")`),
			stringFlag("sbom", "", `Shorthand for "--attest=type=sbom"`),
			listFlag("secret", "", "Secret to expose to the build (id=ID[,src=FILE|,env=VARIABLE])"),
			stringFlag("shm-size", "", "Size of /dev/shm"),
			listFlag("ssh", "", "SSH agent socket or keys to expose to the build (default|<id>[=<socket>|<key>[,<key>]])"),
			listFlag("tag", "t", "Name and optionally a tag of the image (name:tag)"),
			stringFlag("target", "", "Set the target build stage to build"),
			listFlag("ulimit", "", "Ulimit options"),
		},
		Action: s.build,
	}
}

// defaultProgress is what the user has set for all builds.
func defaultProgress() string {
	if v := os.Getenv("BUILDKIT_PROGRESS"); v != "" {
		return v
	}
	return "auto"
}

func checkProgress(v string) error {
	switch v {
	case "auto", "none", "plain", "quiet", "rawjson", "tty":
		return nil
	}
	return fmt.Errorf("invalid progress mode %q: use auto, none, plain, quiet, rawjson or tty", v)
}

func (s *session) build(ctx context.Context, c *cli.Context) error {
	if err := s.checkShellTerminal(c); err != nil {
		return err
	}
	b := &buildclient.Build{Attrs: map[string]string{}, Dirs: map[string]string{}}
	done, err := setBuildContext(b, c, s.stdin)
	defer done()
	if err != nil {
		return err
	}
	engine, err := s.api()
	if err != nil {
		return err
	}
	if err := s.setBuildOptions(ctx, b, c, engine); err != nil {
		return err
	}
	onlyID := c.Bool("quiet") || c.String("progress") == "quiet"
	quiet := onlyID || c.String("progress") == "none"
	view := s.newBuildView(c, quiet)
	if c.String("on-failure") != "" {
		when := "before"
		if b.AsLeft = c.String("on-failure") == buildkit.OnFailureAsLeft; b.AsLeft {
			when = "after"
		}
		b.OnFailure = s.failureShell(view, when)
	}
	stop := view.animate()
	res, err := buildclient.Run(ctx, engine, *b, func(e *controlpb.StatusResponse) { view.tell(e) })
	stop()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	view.end(err)
	if err != nil {
		return s.buildFailure(c, err, res.NoShell)
	}
	if res.Metadata != nil {
		return s.showCall(c, res.Metadata)
	}
	id := res.Response["containerimage.config.digest"]
	if id == "" {
		id = res.Response["containerimage.digest"]
	}
	switch {
	case onlyID && id != "":
		fmt.Fprintln(s.stdout, id)
	case !quiet:
		view.built(id)
	}
	return writeResult(c, res, id)
}

// writeResult writes the files that say what the build made.
func writeResult(c *cli.Context, res buildclient.Result, id string) error {
	if file := c.String("iidfile"); file != "" {
		if err := os.WriteFile(file, []byte(id), 0o666); err != nil { //nolint:gosec // as docker does
			return err
		}
	}
	if file := c.String("metadata-file"); file != "" {
		raw, err := json.MarshalIndent(resultMetadata(res), "", "  ")
		if err != nil {
			return err
		}
		return os.WriteFile(file, append(raw, '\n'), 0o666) //nolint:gosec // the same
	}
	return nil
}

// resultMetadata is what the daemon said, with what is JSON in it as such.
func resultMetadata(res buildclient.Result) map[string]any {
	out := map[string]any{"buildx.build.ref": "default/default/" + res.Ref}
	for k, v := range res.Response {
		raw, err := base64.StdEncoding.DecodeString(v)
		if err == nil && json.Valid(raw) && strings.HasPrefix(string(raw), "{") {
			out[k] = json.RawMessage(raw)
			continue
		}
		out[k] = v
	}
	return out
}
