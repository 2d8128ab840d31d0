package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// buildContext is what a build gets from the client.
type buildContext struct {
	dir        string    // "" if stream is the whole archive, or there is only a Dockerfile
	stream     io.Reader // a tar
	dockerfile string    // its name in the archive
	text       []byte    // the Dockerfile, if it is known here
	extra      bool      // text is not in dir
	ignore     *patternmatcher.PatternMatcher
}

// openBuildContext finds out what PATH and --file mean.
func openBuildContext(path, file string, stdin io.Reader) (*buildContext, error) {
	b := &buildContext{dockerfile: filepath.ToSlash(file)}
	if strings.Contains(path, "://") || strings.HasPrefix(path, "git@") {
		return nil, fmt.Errorf("build from %s: not implemented; check the repository out and build from its directory", path)
	}
	if path == "-" {
		return b, b.readStdin(file, stdin)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("unable to prepare context: path %q not found", path)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("unable to prepare context: context must be a directory: %s", path)
	}
	b.dir = path
	if err := b.findDockerfile(file, stdin); err != nil {
		return nil, err
	}
	return b, b.readIgnore(file)
}

// readStdin takes a tar, or a Dockerfile alone.
func (b *buildContext) readStdin(file string, stdin io.Reader) error {
	if file == "-" {
		return errors.New("invalid argument: can't use stdin for both build context and dockerfile")
	}
	r := bufio.NewReaderSize(stdin, 1<<16)
	head, err := r.Peek(512)
	if len(head) == 0 {
		return fmt.Errorf("unable to prepare context: nothing on stdin: %w", err)
	}
	if isArchiveHead(head) {
		b.stream = r
		return nil
	}
	if b.text, err = io.ReadAll(r); err != nil {
		return err
	}
	b.dockerfile, b.extra = "Dockerfile", true
	return nil
}

func isArchiveHead(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "BZh", "\x28\xb5\x2f\xfd", "\xfd7zXZ"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil
}

func (b *buildContext) findDockerfile(file string, stdin io.Reader) error {
	var err error
	if file == "-" {
		b.extra, b.dockerfile = true, unusedName()
		b.text, err = io.ReadAll(stdin)
		return err
	}
	full := file
	if file == "" {
		full = filepath.Join(b.dir, "Dockerfile")
	}
	if b.text, err = os.ReadFile(full); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat %s: no such file or directory", full)
		}
		return err
	}
	rel, err := inContext(b.dir, full)
	if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		b.extra, b.dockerfile = true, unusedName()
		return nil //nolint:nilerr // it comes from elsewhere
	}
	b.dockerfile = filepath.ToSlash(rel)
	return nil
}

// inContext returns the path of file below dir.
func inContext(dir, file string) (string, error) {
	absDir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	absFile, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	return filepath.Rel(absDir, absFile)
}

func unusedName() string {
	var b [10]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand.Read, Go 1.24
	return ".dockerfile." + hex.EncodeToString(b[:])
}

// readIgnore reads NAME.dockerignore beside the Dockerfile, or .dockerignore.
func (b *buildContext) readIgnore(file string) error {
	candidates := []string{filepath.Join(b.dir, ".dockerignore")}
	if file != "" && file != "-" {
		candidates = append([]string{file + ".dockerignore"}, candidates...)
	} else if file == "" {
		candidates = append([]string{filepath.Join(b.dir, "Dockerfile.dockerignore")}, candidates...)
	}
	for _, name := range candidates {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		patterns, err := ignorefile.ReadAll(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if b.ignore, err = patternmatcher.New(patterns); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	return nil
}

// write sends the context as a tar.
func (b *buildContext) write(ctx context.Context, w io.Writer) error {
	if b.stream != nil {
		_, err := io.Copy(w, b.stream)
		return err
	}
	buf := bufio.NewWriterSize(w, 1<<18)
	tw := tar.NewWriter(buf)
	if b.dir != "" {
		if err := filepath.WalkDir(b.dir, func(name string, d fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			return b.entry(tw, name, d)
		}); err != nil {
			return err
		}
	}
	if b.extra {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: b.dockerfile, Mode: 0o600, Size: int64(len(b.text)), ModTime: time.Unix(0, 0)}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := tw.Write(b.text); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return buf.Flush()
}

func (b *buildContext) entry(tw *tar.Writer, name string, d fs.DirEntry) error {
	rel, err := filepath.Rel(b.dir, name)
	if err != nil || rel == "." {
		return err
	}
	rel = filepath.ToSlash(rel)
	if skip, err := b.skip(rel, d.IsDir()); skip || err != nil {
		return err
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	if info.Mode()&(fs.ModeSocket|fs.ModeNamedPipe|fs.ModeDevice) != 0 {
		return nil
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(name); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name, h.Uid, h.Gid, h.Uname, h.Gname = rel, 0, 0, "", ""
	h.AccessTime, h.ChangeTime, h.ModTime = time.Time{}, time.Time{}, h.ModTime.Truncate(time.Second) // a layer has whole seconds
	if d.IsDir() {
		h.Name += "/"
	}
	if err := tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(tw, f, h.Size); err != nil {
		return fmt.Errorf("%s changed while it was read: %w", name, err)
	}
	return nil
}

// skip reports whether .dockerignore leaves a file out. A directory is not entered if
// nothing in it can be wanted.
func (b *buildContext) skip(rel string, isDir bool) (bool, error) {
	if b.ignore == nil || rel == b.dockerfile || rel == ".dockerignore" {
		return false, nil
	}
	out, err := b.ignore.MatchesOrParentMatches(rel)
	if err != nil || !out {
		return false, err
	}
	if isDir && !b.ignore.Exclusions() && !strings.HasPrefix(b.dockerfile, rel+"/") {
		return true, filepath.SkipDir
	}
	return true, nil
}
