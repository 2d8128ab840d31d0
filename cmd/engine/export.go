package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
)

func exportCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "export", Args: "[OPTIONS] CONTAINER", Min: 1, Max: 1,
		Short:  "Export a container's filesystem as a tar archive",
		Also:   []string{"container export", "export"},
		Flags:  []cliapp.Flag{stringFlag("output", "o", "Write to a file, instead of STDOUT")},
		Action: s.export,
	}
}

func (s *session) export(ctx context.Context, c *cli.Context) error {
	if err := s.checkArchiveOutput(c.String("output")); err != nil {
		return err
	}
	api, err := s.api()
	if err != nil {
		return err
	}
	body, err := api.ContainerExport(ctx, c.Args().First())
	if err != nil {
		return err
	}
	return s.writeArchive(body, c.String("output"))
}

// checkArchiveOutput refuses to flood a terminal, and a place where no file can be made, before
// the daemon is asked.
func (s *session) checkArchiveOutput(path string) error {
	if path == "" {
		if isTerminal(s.stdout) {
			return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
		}
		return nil
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
		return fmt.Errorf("invalid output path: directory %q does not exist", filepath.Dir(path))
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("invalid output path: %q is a directory", path)
	}
	return nil
}

// writeArchive copies body to stdout, or to a file that appears under its name only when whole.
func (s *session) writeArchive(body io.ReadCloser, path string) error {
	defer body.Close()
	if path == "" {
		_, err := io.Copy(s.stdout, body)
		return err
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, body)
		return errors.Join(err, f.Close())
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".engine-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(tmp, body)
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
