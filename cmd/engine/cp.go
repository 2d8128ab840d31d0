package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	units "github.com/docker/go-units"
	"github.com/urfave/cli/v2"

	"strata/pkg/cliapp"
	"strata/pkg/client"
	"strata/pkg/localcopy"
)

func cpCommand(s *session) cliapp.Command {
	return cliapp.Command{
		Name: "cp", Args: "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-", MoreUsage: []string{"[OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH"}, Min: 2, Max: 2,
		Short: "Copy files/folders between a container and the local filesystem",
		Long: `Copy files/folders between a container and the local filesystem

With '-' as the source, a tar archive is read from stdin and unpacked
into a directory of the container.
With '-' as the destination, the source is written to stdout as a tar
archive.`,
		Also: []string{"container cp", "cp"},
		Flags: []cliapp.Flag{
			boolFlag("archive", "a", "Archive mode (copy all uid/gid information)"),
			boolFlag("follow-link", "L", "Always follow symbol link in SRC_PATH"),
			boolFlag("quiet", "q", "Suppress the message about what was copied (there is none without a terminal)"),
		},
		Action: s.cp,
	}
}

// copying is one run of cp.
type copying struct {
	s         *session
	api       *client.Client
	container string
	src, dst  string
	owners    bool
	follow    bool
	quiet     bool
}

func (s *session) cp(ctx context.Context, c *cli.Context) error {
	srcContainer, src := splitCopyArg(c.Args().Get(0))
	dstContainer, dst := splitCopyArg(c.Args().Get(1))
	cp := copying{
		s: s, src: src, dst: dst, owners: c.Bool("archive"), follow: c.Bool("follow-link"),
		quiet: c.Bool("quiet") || !isTerminal(s.stderr),
	}
	switch {
	case srcContainer != "" && dstContainer != "":
		return errors.New("copying between containers is not supported")
	case srcContainer == "" && dstContainer == "":
		return errors.New("must specify at least one container source")
	case src == "":
		return errors.New("source can not be empty")
	case dst == "":
		return errors.New("destination can not be empty")
	}
	var err error
	if cp.api, err = s.api(); err != nil {
		return err
	}
	if srcContainer != "" {
		cp.container = srcContainer
		return cp.from(ctx)
	}
	cp.container = dstContainer
	return cp.to(ctx)
}

// splitCopyArg tells CONTAINER:PATH from a local path, which holds no colon unless it
// begins with "/" or ".".
func splitCopyArg(arg string) (containerName, file string) {
	if filepath.IsAbs(arg) || strings.HasPrefix(arg, ".") {
		return "", arg
	}
	name, file, ok := strings.Cut(arg, ":")
	if !ok {
		return "", arg
	}
	return name, file
}

// rooted makes a path in a container absolute and keeps what its end says: "/" or "/." want a
// directory.
func rooted(p string) string {
	abs := path.Join("/", p)
	switch {
	case strings.HasSuffix(p, "/."), p == ".":
		return strings.TrimSuffix(abs, "/") + "/."
	case strings.HasSuffix(p, "/") && abs != "/":
		return abs + "/"
	}
	return abs
}

func wantsDirectory(p string) bool {
	return strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || p == "."
}

// from copies out of the container.
func (cp copying) from(ctx context.Context) error {
	src := rooted(cp.src)
	base := path.Base(src)
	if cp.follow {
		// The link's target is copied under the link's name.
		stat, err := cp.api.ContainerStatPath(ctx, cp.container, src)
		if err == nil && stat.Mode&fs.ModeSymlink != 0 {
			src = linkTarget(src, stat.LinkTarget)
		}
	}
	body, stat, err := cp.api.ContainerCopyFrom(ctx, cp.container, src)
	if err != nil {
		return err
	}
	defer body.Close()
	if cp.dst == "-" {
		if isTerminal(cp.s.stdout) {
			return errors.New("cowardly refusing to write a tar archive to a terminal: redirect stdout")
		}
		_, err := io.Copy(cp.s.stdout, body)
		return err
	}
	dir, rebase, err := localDestination(cp.dst, stat.Mode.IsDir(), base, path.Base(src))
	if err != nil {
		return err
	}
	counted := &counter{r: body}
	if err := localcopy.Extract(dir, counted, rebase); err != nil {
		return err
	}
	cp.report(counted.n, cp.dst)
	return nil
}

func linkTarget(link, target string) string {
	if path.IsAbs(target) {
		return path.Clean(target)
	}
	return path.Join(path.Dir(link), target)
}

// localDestination says in which directory to unpack, and under which name (empty: its own).
func localDestination(dst string, srcIsDir bool, base, archived string) (dir, rebase string, err error) {
	info, err := os.Stat(dst)
	switch {
	case err == nil && info.IsDir():
		if base != archived {
			return dst, base, nil
		}
		return dst, "", nil
	case err == nil && srcIsDir:
		return "", "", errors.New("cannot copy directory")
	case err == nil && wantsDirectory(dst):
		return "", "", errors.New("not a directory")
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return "", "", err
	case !srcIsDir && wantsDirectory(dst):
		return "", "", errors.New("no such directory")
	}
	dst = filepath.Clean(dst)
	if info, err := os.Stat(filepath.Dir(dst)); err != nil || !info.IsDir() {
		return "", "", fmt.Errorf("invalid output path: directory %q does not exist", filepath.Dir(dst))
	}
	return filepath.Dir(dst), filepath.Base(dst), nil
}

// to copies into the container.
func (cp copying) to(ctx context.Context) error {
	dst, dstIsDir, exists, err := cp.remoteDestination(ctx)
	if err != nil {
		return err
	}
	opts := client.CopyTo{CopyUIDGID: cp.owners}
	if cp.src == "-" {
		if !dstIsDir {
			return fmt.Errorf("destination \"%s:%s\" must be a directory", cp.container, cp.dst)
		}
		return cp.api.ContainerCopyTo(ctx, cp.container, dst, cp.s.stdin, opts)
	}
	src, base, srcIsDir, err := localSource(cp.src, cp.follow)
	if err != nil {
		return err
	}
	switch {
	case exists && dstIsDir: // into it, under its own name
	case exists && srcIsDir:
		return errors.New("cannot copy directory")
	case exists && wantsDirectory(dst):
		return errors.New("not a directory")
	case !exists && !srcIsDir && wantsDirectory(dst):
		return errors.New("no such directory")
	default:
		dst = path.Clean(dst)
		dst, base = path.Dir(dst), path.Base(dst)
	}
	r, w := io.Pipe()
	archived := make(chan error, 1) // one result, read below
	go func() {
		err := localcopy.Archive(ctx, w, src, base)
		w.CloseWithError(err)
		archived <- err
	}()
	counted := &counter{r: r}
	err = cp.api.ContainerCopyTo(ctx, cp.container, dst, counted, opts)
	_ = r.CloseWithError(errStopped)
	if archiveErr := <-archived; archiveErr != nil && !errors.Is(archiveErr, errStopped) {
		return archiveErr // the cause of what the daemon may have said
	}
	if err != nil {
		return err
	}
	cp.report(counted.n, cp.container+":"+cp.dst)
	return nil
}

var errStopped = errors.New("the daemon stopped reading")

// remoteDestination follows a symlink at the destination, as cp(1) does.
func (cp copying) remoteDestination(ctx context.Context) (dst string, isDir, exists bool, err error) {
	dst = rooted(cp.dst)
	stat, err := cp.api.ContainerStatPath(ctx, cp.container, dst)
	if err == nil && stat.Mode&fs.ModeSymlink != 0 {
		dst = linkTarget(dst, stat.LinkTarget)
		stat, err = cp.api.ContainerStatPath(ctx, cp.container, dst)
	}
	switch {
	case errors.Is(err, errdefs.ErrUnavailable):
		return "", false, false, err
	case err != nil:
		// Missing is fine: the call that copies finds out what else is wrong.
		return dst, false, false, nil //nolint:nilerr // said above
	}
	return dst, stat.Mode.IsDir(), true, nil
}

// localSource says what to archive and under which name.
func localSource(arg string, follow bool) (src, base string, isDir bool, err error) {
	abs, err := filepath.Abs(arg)
	if err != nil {
		return "", "", false, err
	}
	base = filepath.Base(abs)
	info, err := os.Lstat(abs)
	if err != nil {
		return "", "", false, err
	}
	if info.Mode()&fs.ModeSymlink != 0 && (follow || wantsDirectory(arg)) {
		if abs, err = filepath.EvalSymlinks(abs); err != nil {
			return "", "", false, err
		}
		if info, err = os.Lstat(abs); err != nil {
			return "", "", false, err
		}
	}
	if wantsDirectory(arg) && !info.IsDir() {
		return "", "", false, fmt.Errorf("%s: not a directory", arg)
	}
	if strings.HasSuffix(arg, "/.") || arg == "." {
		base = "."
	}
	return abs, base, info.IsDir(), nil
}

func (cp copying) report(n int64, to string) {
	if !cp.quiet {
		fmt.Fprintf(cp.s.stderr, "Successfully copied %s to %s\n", units.HumanSize(float64(n)), to)
	}
}

// counter counts what is read through it.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
