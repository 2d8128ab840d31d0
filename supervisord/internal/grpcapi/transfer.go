package grpcapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	"github.com/containerd/containerd/api/types"
	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"strata/pkg/ctxlog"
	"strata/pkg/registry"
	"strata/supervisord/internal/archive"
	"strata/supervisord/internal/transfer"
)

// transferServer translates the transfer service.
type transferServer struct {
	transferapi.UnimplementedTransferServer
	service *transfer.Service
	streams *Streams
}

// RegisterTransfer adds the transfer service to a server. Streams that calls name are
// those of streams.
func RegisterTransfer(s *grpc.Server, service *transfer.Service, streams *Streams) {
	transferapi.RegisterTransferServer(s, &transferServer{service: service, streams: streams})
}

// Transfer implements containerd.services.transfer.v1.Transfer for the pairs registry to
// store, store to registry, archive to store, store to archive and store to store. Any
// other pair is not implemented.
func (t *transferServer) Transfer(ctx context.Context, req *transferapi.TransferRequest) (*emptypb.Empty, error) {
	src, err := endpoint(req.GetSource())
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	dst, err := endpoint(req.GetDestination())
	if err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	report, end, err := t.progress(ctx, req.GetOptions().GetProgressStream())
	if err != nil {
		return nil, err
	}
	defer end()
	switch src := src.(type) {
	case *transfertypes.OCIRegistry:
		if dst, ok := dst.(*transfertypes.ImageStore); ok {
			return &emptypb.Empty{}, t.pull(ctx, src, dst, report)
		}
	case *transfertypes.ImageStore:
		switch dst := dst.(type) {
		case *transfertypes.OCIRegistry:
			return &emptypb.Empty{}, t.push(ctx, src, dst, report)
		case *transfertypes.ImageStore:
			_, err := t.service.Tag(ctx, src.Name, dst.Name, dst.Labels)
			return &emptypb.Empty{}, err
		case *transfertypes.ImageExportStream:
			return &emptypb.Empty{}, t.export(ctx, src, dst, report)
		}
	case *transfertypes.ImageImportStream:
		if dst, ok := dst.(*transfertypes.ImageStore); ok {
			return &emptypb.Empty{}, t.load(ctx, src, dst, report)
		}
	}
	return nil, fmt.Errorf("transfer from %s to %s: %w", req.GetSource().GetTypeUrl(), req.GetDestination().GetTypeUrl(), errdefs.ErrNotImplemented)
}

// endpoint unpacks one side of a transfer.
func endpoint(a *anypb.Any) (proto.Message, error) {
	if a == nil {
		return nil, fmt.Errorf("transfer endpoint is missing: %w", errdefs.ErrInvalidArgument)
	}
	for _, m := range []proto.Message{
		&transfertypes.OCIRegistry{}, &transfertypes.ImageStore{}, &transfertypes.ImageImportStream{}, &transfertypes.ImageExportStream{},
	} {
		if name := string(m.ProtoReflect().Descriptor().FullName()); a.TypeUrl == name || strings.HasSuffix(a.TypeUrl, "/"+name) {
			if err := proto.Unmarshal(a.Value, m); err != nil {
				return nil, fmt.Errorf("%s: %w: %w", name, err, errdefs.ErrInvalidArgument)
			}
			return m, nil
		}
	}
	return nil, fmt.Errorf("transfer endpoint %q: %w", a.TypeUrl, errdefs.ErrNotImplemented)
}

// progress returns a report that writes to the stream id. A client that stops listening
// does not stop the transfer.
func (t *transferServer) progress(ctx context.Context, id string) (transfer.Report, func(), error) {
	if id == "" {
		return nil, func() {}, nil
	}
	st, err := t.streams.get(ctx, id)
	if err != nil {
		return nil, nil, fmt.Errorf("progress: %w", err)
	}
	var gone bool
	report := func(p transfer.Progress) {
		if gone {
			return
		}
		m := &transfertypes.Progress{Event: p.Event, Name: p.Name, Parents: p.Parents, Progress: p.Progress, Total: p.Total}
		if p.Desc != nil {
			m.Desc = descriptorToProto(*p.Desc)
		}
		if err := st.send(m); err != nil {
			ctxlog.From(ctx).Debug("progress stream broke off", ctxlog.Error, err)
			gone = true
		}
	}
	return report, st.close, nil
}

func descriptorToProto(d ocispec.Descriptor) *types.Descriptor {
	return &types.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
}

func platformFromProto(p *types.Platform) ocispec.Platform {
	return platforms.Normalize(ocispec.Platform{OS: p.GetOS(), Architecture: p.GetArchitecture(), Variant: p.GetVariant(), OSVersion: p.GetOsVersion()})
}

func platformsFromProto(ps []*types.Platform) []ocispec.Platform {
	out := make([]ocispec.Platform, len(ps))
	for i, p := range ps {
		out[i] = platformFromProto(p)
	}
	return out
}

func unpacksFromProto(us []*transfertypes.UnpackConfiguration) []transfer.Unpack {
	out := make([]transfer.Unpack, len(us))
	for i, u := range us {
		out[i].Snapshotter = u.GetSnapshotter()
		if u.GetPlatform() != nil {
			p := platformFromProto(u.GetPlatform())
			out[i].Platform = &p
		}
	}
	return out
}

// registryOptions reads a resolver. end closes what it opened.
func (t *transferServer) registryOptions(ctx context.Context, ref string, r *transfertypes.RegistryResolver) (opts registry.Options, end func(), err error) {
	end = func() {}
	opts = registry.Options{HostDir: r.GetHostDir(), Scheme: r.GetDefaultScheme(), Header: http.Header{}}
	for k, v := range r.GetHeaders() {
		opts.Header.Set(k, v)
	}
	if id := r.GetAuthStream(); id != "" {
		st, err := t.streams.get(ctx, id)
		if err != nil {
			return opts, end, fmt.Errorf("credentials: %w", err)
		}
		opts.Credentials, end = askCredentials(st, ref), st.close
	}
	return opts, end, nil
}

// askCredentials asks the client, one question at a time.
func askCredentials(st *stream, ref string) registry.CredentialFunc {
	var mu sync.Mutex
	return func(_ context.Context, host string, challenges []string) (registry.Credential, error) {
		mu.Lock()
		defer mu.Unlock()
		if err := st.send(&transfertypes.AuthRequest{Host: host, Reference: ref, Wwwauthenticate: challenges}); err != nil {
			return registry.Credential{}, err
		}
		var resp transfertypes.AuthResponse
		if err := st.recv(&resp); err != nil {
			return registry.Credential{}, err
		}
		switch resp.AuthType {
		case transfertypes.AuthType_CREDENTIALS:
			return registry.Credential{Username: resp.Username, Password: resp.Secret}, nil
		case transfertypes.AuthType_REFRESH:
			return registry.Credential{RefreshToken: resp.Secret}, nil
		case transfertypes.AuthType_HEADER:
			return registry.Credential{Header: resp.Secret}, nil
		default:
			return registry.Credential{}, nil
		}
	}
}

func (t *transferServer) pull(ctx context.Context, src *transfertypes.OCIRegistry, dst *transfertypes.ImageStore, report transfer.Report) error {
	opts, end, err := t.registryOptions(ctx, src.Reference, src.Resolver)
	if err != nil {
		return err
	}
	defer end()
	_, err = t.service.Pull(ctx, transfer.PullRequest{
		Reference: src.Reference, Registry: opts, Name: dst.Name, Labels: dst.Labels,
		Platforms: platformsFromProto(dst.Platforms), AllMetadata: dst.AllMetadata, Unpacks: unpacksFromProto(dst.Unpacks),
	}, report)
	return err
}

func (t *transferServer) push(ctx context.Context, src *transfertypes.ImageStore, dst *transfertypes.OCIRegistry, report transfer.Report) error {
	opts, end, err := t.registryOptions(ctx, dst.Reference, dst.Resolver)
	if err != nil {
		return err
	}
	defer end()
	_, err = t.service.Push(ctx, transfer.PushRequest{
		Name: src.Name, Reference: dst.Reference, Registry: opts, Platforms: platformsFromProto(src.Platforms),
	}, report)
	return err
}

func (t *transferServer) load(ctx context.Context, src *transfertypes.ImageImportStream, dst *transfertypes.ImageStore, report transfer.Report) error {
	st, err := t.streams.get(ctx, src.Stream)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer st.close()
	req := transfer.ImportRequest{
		Name: dst.Name, Labels: dst.Labels, Unpacks: unpacksFromProto(dst.Unpacks),
	}
	for _, r := range dst.ExtraReferences {
		req.Rules = append(req.Rules, transfer.NameRule{Name: r.Name, Prefix: r.IsPrefix, AddDigest: r.AddDigest, SkipNamed: r.SkipNamedDigest})
	}
	_, err = t.service.Import(ctx, &byteReader{st: st}, req, report)
	return err
}

func (t *transferServer) export(ctx context.Context, src *transfertypes.ImageStore, dst *transfertypes.ImageExportStream, report transfer.Report) error {
	st, err := t.streams.get(ctx, dst.Stream)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	req := transfer.ExportRequest{Options: archive.ExportOptions{OCIOnly: dst.SkipCompatibilityManifest, SkipForeign: dst.SkipNonDistributable}}
	if !dst.AllPlatforms {
		req.Options.Platforms = platformsFromProto(dst.Platforms)
	}
	if src.Name != "" {
		req.Names = append(req.Names, src.Name)
	}
	for _, r := range src.ExtraReferences {
		req.Names = append(req.Names, r.Name)
	}
	w, wait := newByteWriter(ctx, st)
	defer wait()
	defer st.close()
	buffered := bufio.NewWriterSize(w, streamChunk)
	if err := t.service.Export(ctx, buffered, req, report); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("send archive: %w", errors.Join(err, ctx.Err()))
	}
	return nil
}
