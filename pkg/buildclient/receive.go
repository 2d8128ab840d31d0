package buildclient

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"strata/pkg/buildkit"
	"strata/pkg/buildkit/sessionpb"
	"strata/pkg/buildkit/transfer"
)

// fileSend takes what outputs make.
type fileSend struct {
	sessionpb.UnimplementedFileSendServer
	outputs []Output
}

// DiffCopy implements sessionpb.FileSendServer.
func (s fileSend) DiffCopy(stream sessionpb.FileSend_DiffCopyServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context()) // none is no metadata
	id := 0
	if v := md.Get(buildkit.KeyExporterID); len(v) > 0 {
		var err error
		if id, err = strconv.Atoi(v[0]); err != nil {
			return status.Errorf(codes.InvalidArgument, "exporter %q", v[0])
		}
	}
	if id < 0 || id >= len(s.outputs) {
		return status.Errorf(codes.NotFound, "exporter %d not found", id)
	}
	switch o := s.outputs[id]; {
	case o.Dir != "":
		return receiveTree(packets{stream}, o.Dir, o.Attrs["mode"] == "delete")
	case o.File != nil:
		return receiveFile(stream, o.File, md)
	}
	return status.Errorf(codes.NotFound, "exporter %d has no destination", id)
}

func receiveFile(stream sessionpb.FileSend_DiffCopyServer, open func(map[string]string) (File, error), md metadata.MD) error {
	meta := map[string]string{}
	for k, v := range md {
		if name, ok := strings.CutPrefix(k, buildkit.PrefixExporterMeta); ok {
			meta[name] = strings.Join(v, ",")
		}
	}
	w, err := open(meta)
	if err != nil {
		return err
	}
	if _, err = io.Copy(w, buildkit.NewReader(stream)); err != nil {
		return errors.Join(err, w.Abort())
	}
	return w.Close()
}

// packets speaks packets on a stream that is declared for bytes.
type packets struct{ grpc.ServerStream }

func (p packets) Send(m *sessionpb.Packet) error { return p.SendMsg(m) }

func (p packets) Recv() (*sessionpb.Packet, error) {
	m := &sessionpb.Packet{}
	return m, p.RecvMsg(m)
}

// receiver writes a tree into a directory. Nothing is written outside of it, whatever the
// names and symlinks are: os.Root sees to that.
type receiver struct {
	root  *os.Root
	files map[uint32]*os.File // that are being received
	stats map[uint32]*sessionpb.Stat
	dirs  []*sessionpb.Stat // whose times are set at the end
	names map[string]bool   // that have come
	next  uint32
	ended bool
}

// receiveTree receives a tree into dir, beside what is there or (alone) in its place.
func receiveTree(stream packets, dir string, alone bool) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // a result for the user
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // only a descriptor
	r := &receiver{root: root, files: map[uint32]*os.File{}, stats: map[uint32]*sessionpb.Stat{}, names: map[string]bool{".": true}}
	defer r.drop()
	asks := transfer.NewQueue()
	g, ctx := errgroup.WithContext(stream.Context())
	g.Go(func() error { return asks.Drain(ctx, stream) })
	g.Go(func() error {
		defer asks.End()
		if err := r.receive(stream, asks); err != nil {
			return err
		}
		if alone {
			if err := r.removeOthers("."); err != nil {
				return err
			}
		}
		if err := r.finishDirs(); err != nil {
			return err
		}
		// With this the build is over for the daemon: nothing may be left to be done.
		asks.Add(&sessionpb.Packet{Type: sessionpb.Packet_PACKET_FIN})
		for { // until the daemon has answered: the end of the stream must not come before
			if p, err := stream.Recv(); errors.Is(err, io.EOF) || err == nil && p.Type == sessionpb.Packet_PACKET_FIN {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
	err = g.Wait()
	if err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	return nil
}

// removeOthers removes from a directory what has not come.
func (r *receiver) removeOthers(dir string) error {
	f, err := r.root.Open(dir)
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	_ = f.Close() // only read
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case !r.names[name]:
			err = r.root.RemoveAll(name)
		case e.IsDir():
			err = r.removeOthers(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// finishDirs finishes directories, the inner ones first: their names may be out of reach
// afterwards.
func (r *receiver) finishDirs() error {
	for _, st := range slices.Backward(r.dirs) {
		if err := r.finish(st); err != nil {
			return err
		}
	}
	return nil
}

// receive reads packets until all names and all content have come.
func (r *receiver) receive(stream packets, asks *transfer.Queue) error {
	for !r.ended || len(r.stats) > 0 {
		p, err := stream.Recv()
		if err != nil {
			return err
		}
		switch p.Type {
		case sessionpb.Packet_PACKET_STAT:
			if p.Stat == nil {
				r.ended = true
				continue
			}
			id := r.next
			r.next++
			if err := r.stat(id, p.Stat, asks); err != nil {
				return err
			}
		case sessionpb.Packet_PACKET_DATA:
			if err := r.data(p); err != nil {
				return err
			}
		case sessionpb.Packet_PACKET_ERR:
			return fmt.Errorf("the daemon: %s", p.Data)
		default:
			return fmt.Errorf("the daemon sent a packet of type %d", p.Type)
		}
	}
	return nil
}

// stat makes a directory or a symlink, and asks for a file.
func (r *receiver) stat(id uint32, st *sessionpb.Stat, asks *transfer.Queue) error {
	mode := fs.FileMode(st.Mode)
	if path.Clean(st.Path) != st.Path || path.IsAbs(st.Path) {
		return fmt.Errorf("%q is no name of a file", st.Path)
	}
	r.names[st.Path] = true
	if old, err := r.root.Lstat(st.Path); err == nil && (old.IsDir() != mode.IsDir() || !mode.IsDir() && !mode.IsRegular()) {
		if err := r.root.RemoveAll(st.Path); err != nil {
			return err
		}
	}
	switch {
	case mode.IsDir():
		if err := r.root.Mkdir(st.Path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		r.dirs = append(r.dirs, st)
	case mode&fs.ModeSymlink != 0:
		return r.root.Symlink(st.Linkname, st.Path)
	case mode.IsRegular():
		r.stats[id] = st
		asks.Add(&sessionpb.Packet{Type: sessionpb.Packet_PACKET_REQ, ID: id})
	}
	return nil // a device is not for a user's directory
}

// data writes a piece of a file; an empty one ends it.
func (r *receiver) data(p *sessionpb.Packet) error {
	st, ok := r.stats[p.ID]
	if !ok {
		return fmt.Errorf("content of file %d, which nobody asked for", p.ID)
	}
	f := r.files[p.ID]
	if f == nil {
		// A file that is there may be a hard link, or run.
		if err := r.root.Remove(st.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		var err error
		if f, err = r.root.OpenFile(st.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
		r.files[p.ID] = f
	}
	if len(p.Data) > 0 {
		_, err := f.Write(p.Data)
		return err
	}
	delete(r.files, p.ID)
	delete(r.stats, p.ID)
	if err := f.Close(); err != nil {
		return err
	}
	return r.finish(st)
}

// finish gives a file its mode and time.
func (r *receiver) finish(st *sessionpb.Stat) error {
	at := time.Unix(0, st.ModTime)
	return errors.Join(r.root.Chmod(st.Path, fs.FileMode(st.Mode)&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)), r.root.Chtimes(st.Path, at, at))
}

// drop closes what is half received.
func (r *receiver) drop() {
	for _, f := range r.files {
		_ = f.Close() // the transfer has failed
	}
}
