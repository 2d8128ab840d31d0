package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"strata/pkg/buildclient"
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
			{Name: "call", Kind: cliapp.String, Default: "build", Usage: `Method of evaluating the build ("check", "targets", "subrequests.describe")`},
			stringFlag("cgroup-parent", "", "Set the parent cgroup for the RUN instructions"),
			boolFlag("check", "", `Shorthand for "--call=check"`),
			stringFlag("file", "f", `Name of the Dockerfile (default: "PATH/Dockerfile", "-" for STDIN)`),
			{Name: "force-rm", Kind: cliapp.Bool, Hidden: true},
			stringFlag("iidfile", "", "Write the image ID to a file"),
			listFlag("label", "", "Set metadata for an image"),
			boolFlag("load", "", `Shorthand for "--output=type=docker"`),
			stringFlag("memory", "m", "Memory limit of commands"),
			stringFlag("metadata-file", "", "Write build result metadata to a file"),
			stringFlag("network", "", "Set the networking mode for the RUN instructions"),
			boolFlag("no-cache", "", "Do not use cache when building the image"),
			listFlag("no-cache-filter", "", "Do not cache specified stages"),
			{Name: "on-failure", Kind: cliapp.String, Usage: `What to do when a step fails ("shell": a shell with the files before it)`, Check: checkOnFailure},
			listFlag("output", "o", `Output destination ("type=local,dest=path", "type=tar", "type=oci", "type=docker", "type=image,push=true")`),
			listFlag("platform", "", "Set target platforms for build"),
			{Name: "progress", Kind: cliapp.String, Default: defaultProgress(), Usage: `Set type of progress output ("auto", "plain", "tty", "quiet", "rawjson")`, Check: checkProgress},
			stringFlag("provenance", "", `Shorthand for "--attest=type=provenance"`),
			boolFlag("pull", "", "Always attempt to pull all referenced images"),
			boolFlag("push", "", `Shorthand for "--output=type=registry"`),
			boolFlag("quiet", "q", "Suppress the build output and print the image ID on success"),
			{Name: "rm", Kind: cliapp.Bool, Default: "true", Hidden: true},
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
	case "auto", "plain", "tty", "quiet", "rawjson":
		return nil
	}
	return fmt.Errorf("invalid progress mode %q: use auto, plain, tty, quiet or rawjson", v)
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
	quiet := c.Bool("quiet") || c.String("progress") == "quiet"
	view := s.newBuildView(c, quiet)
	if c.String("on-failure") != "" {
		b.OnFailure = s.failureShell(view)
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
	return s.showResult(c, res, quiet, view)
}

// showResult says what the build made, where the user wants to know it.
func (s *session) showResult(c *cli.Context, res buildclient.Result, quiet bool, view *buildView) error {
	id := res.Response["containerimage.config.digest"]
	if id == "" {
		id = res.Response["containerimage.digest"]
	}
	switch {
	case quiet && id != "":
		fmt.Fprintln(s.stdout, id)
	case !quiet:
		view.built(id)
	}
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

// showCall prints the answer to --call, and ends with its status.
func (s *session) showCall(c *cli.Context, md map[string][]byte) error {
	_, format, _ := strings.Cut(c.String("call"), ",format=")
	text := md["result.txt"]
	if format == "json" {
		text = append(slices.Clone(md["result.json"]), '\n')
	}
	if len(text) == 0 && string(md["result.statuscode"]) == "0" {
		text = []byte("Check complete, no warnings found.\n")
	}
	if _, err := s.stdout.Write(text); err != nil {
		return err
	}
	if v := string(md["result.statuscode"]); v != "" && v != "0" {
		return cliapp.Exit(1, "")
	}
	return nil
}

// showBuilds lists the builds that the daemon remembers.
func (s *session) showBuilds(ctx context.Context, c *cli.Context) error {
	engine, err := s.api()
	if err != nil {
		return err
	}
	conn, err := buildclient.Dial(engine)
	if err != nil {
		return err
	}
	defer conn.Close()
	if ref := c.Args().First(); ref != "" {
		return s.showStory(ctx, c, conn, ref)
	}
	list, err := buildRecords(ctx, conn)
	if err != nil {
		return buildError(err)
	}
	return writeBuilds(s.stdout, list, time.Now())
}
