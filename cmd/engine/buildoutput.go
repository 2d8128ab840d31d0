package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"strata/pkg/buildclient"
)

// imageOutput is the output that is an image of the daemon. dockerd knows it by this name.
const imageOutput = "moby"

// setBuildOutputs reads --output, --push and --load.
func (s *session) setBuildOutputs(b *buildclient.Build, c *cli.Context) error {
	if b.Attrs["requestid"] != "" {
		return nil
	}
	list := c.StringSlice("output")
	if c.Bool("push") {
		list = append(list, "type=registry")
	}
	if c.Bool("load") || len(list) == 0 {
		list = append(list, "type=docker")
	}
	for _, spec := range list {
		o, err := s.buildOutput(spec)
		if err != nil {
			return err
		}
		if o == nil {
			continue // cache only
		}
		if o.Type != "local" && o.Type != "tar" {
			if tags := c.StringSlice("tag"); len(tags) > 0 {
				o.Attrs["name"] = strings.Join(tags, ",")
			}
			if err := annotate(o.Attrs, c.StringSlice("annotation")); err != nil {
				return err
			}
		}
		if o.Layout != "" && slices.ContainsFunc(b.Outputs, func(have buildclient.Output) bool { return have.Layout != "" }) {
			return fmt.Errorf("invalid --output %q: only one can have tar=false", spec)
		}
		b.Outputs = append(b.Outputs, *o)
	}
	return nil
}

// annotate adds KEY=VALUE and LEVEL[PLATFORM]:KEY=VALUE, of which LEVELs may be several.
func annotate(attrs map[string]string, list []string) error {
	for _, spec := range list {
		key, value, ok := strings.Cut(spec, "=")
		if !ok || key == "" {
			return fmt.Errorf("invalid annotation %q, expected key=value", spec)
		}
		levels, rest, ok := strings.Cut(key, ":")
		if !ok {
			attrs["annotation."+key] = value
			continue
		}
		for level := range strings.SplitSeq(levels, ",") {
			attrs["annotation-"+level+"."+rest] = value
		}
	}
	return nil
}

// buildOutput reads one --output; nil for one that makes nothing.
func (s *session) buildOutput(spec string) (*buildclient.Output, error) {
	if spec == "-" {
		spec = "type=tar,dest=-"
	} else if !strings.Contains(spec, "=") {
		spec = "type=local,dest=" + spec
	}
	attrs, err := fields("output", spec)
	if err != nil {
		return nil, err
	}
	o := &buildclient.Output{Type: attrs["type"], Attrs: attrs}
	dest := attrs["dest"]
	delete(attrs, "type")
	delete(attrs, "dest")
	switch o.Type {
	case "cacheonly":
		return nil, nil
	case "image":
		o.Type = imageOutput
	case "registry":
		o.Type, attrs["push"] = imageOutput, "true"
	case "docker":
		if dest == "" {
			o.Type = imageOutput
			break
		}
		return o, s.toArchive(o, dest)
	case "local":
		if dest == "" {
			return nil, errors.New("dest is required for local output")
		}
		o.Dir = dest
		return o, nil
	case "oci":
		return o, s.toArchive(o, dest)
	case "tar":
		return o, s.toFile(o, dest)
	case "":
		return nil, fmt.Errorf("invalid --output %q: type is required", spec)
	default:
		return nil, fmt.Errorf("invalid --output %q: unknown type %q", spec, o.Type)
	}
	if dest != "" {
		return nil, fmt.Errorf("invalid --output %q: dest is not for images", spec)
	}
	return o, nil
}

// toArchive is toFile, or with tar=false an OCI layout in a directory.
func (s *session) toArchive(o *buildclient.Output, dest string) error {
	v, ok := o.Attrs["tar"]
	if !ok {
		return s.toFile(o, dest)
	}
	tar, err := strconv.ParseBool(v)
	switch {
	case err != nil:
		return fmt.Errorf("invalid --output: tar=%s: want true or false", v)
	case tar:
		return s.toFile(o, dest)
	case dest == "" || dest == "-":
		return fmt.Errorf("dest is required for %s output with tar=false", o.Type)
	}
	o.Layout = dest
	return os.MkdirAll(dest, 0o755) //nolint:gosec // a result for the user
}

// toFile lets an archive go to a file, or to standard output.
func (s *session) toFile(o *buildclient.Output, dest string) error {
	if dest == "" || dest == "-" {
		if isTerminal(s.stdout) {
			return fmt.Errorf("dest is required for %s output: refusing to write to a terminal", o.Type)
		}
		o.File = func(map[string]string) (buildclient.File, error) { return unclosed{s.stdout}, nil }
		return nil
	}
	if info, err := os.Stat(dest); err == nil && info.IsDir() {
		return fmt.Errorf("destination file %s is a directory", dest)
	}
	o.File = func(map[string]string) (buildclient.File, error) { return createOutput(dest) }
	return nil
}

type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }
func (unclosed) Abort() error { return nil }

// newFile is a file that is there under its name when it is complete.
type newFile struct {
	*os.File
	dest string
}

func createOutput(dest string) (*newFile, error) {
	if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil { //nolint:gosec // a result for the user
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(dest), "."+filepath.Base(dest)+"-*")
	if err != nil {
		return nil, err
	}
	return &newFile{f, dest}, f.Chmod(0o644)
}

func (f *newFile) Close() error {
	if err := f.File.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), f.dest)
}

// Abort removes what was written.
func (f *newFile) Abort() error { return errors.Join(f.File.Close(), os.Remove(f.Name())) }
