package buildclient

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"strata/pkg/buildkit"
	"strata/pkg/buildkit/sessionpb"
)

// secretServer serves secrets.
type secretServer struct {
	sessionpb.UnimplementedSecretsServer
	secrets map[string]Secret
}

// GetSecret implements sessionpb.SecretsServer.
func (s secretServer) GetSecret(_ context.Context, req *sessionpb.GetSecretRequest) (*sessionpb.GetSecretResponse, error) {
	read, ok := s.secrets[req.ID]
	if !ok {
		return nil, status.Errorf(codes.NotFound, "secret %s: not found", req.ID)
	}
	data, err := read()
	if err != nil {
		return nil, status.Errorf(codes.Unknown, "secret %s: %v", req.ID, err)
	}
	return &sessionpb.GetSecretResponse{Data: data}, nil
}

// agentServer forwards to SSH agents.
type agentServer struct {
	sessionpb.UnimplementedSSHServer
	agents map[string]Agent
}

// CheckAgent implements sessionpb.SSHServer.
func (s agentServer) CheckAgent(_ context.Context, req *sessionpb.CheckAgentRequest) (*sessionpb.CheckAgentResponse, error) {
	if s.agents[agentID(req.ID)] == nil {
		return nil, status.Errorf(codes.NotFound, "unset ssh forward key %s", req.ID)
	}
	return &sessionpb.CheckAgentResponse{}, nil
}

func agentID(id string) string {
	if id == "" {
		return "default"
	}
	return id
}

// ForwardAgent implements sessionpb.SSHServer.
func (s agentServer) ForwardAgent(stream sessionpb.SSH_ForwardAgentServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context()) // none is no metadata
	id := agentID(strings.Join(md.Get(buildkit.KeySSHID), ""))
	dial := s.agents[id]
	if dial == nil {
		return status.Errorf(codes.NotFound, "unset ssh forward key %s", id)
	}
	conn, err := dial(stream.Context())
	if err != nil {
		return status.Errorf(codes.Unavailable, "ssh agent %s: %v", id, err)
	}
	defer func() { _ = conn.Close() }() // both copies know
	go func() {                         // ends with the stream, which ends with this method
		_, _ = io.Copy(conn, buildkit.NewReader(stream)) // the agent's end says it
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		} else {
			_ = conn.Close()
		}
	}()
	_, err = io.Copy(buildkit.Chunks(stream), conn)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// uploadServer gives contexts in one piece.
type uploadServer struct {
	sessionpb.UnimplementedUploadServer
	uploads map[string]io.Reader
}

// Pull implements sessionpb.UploadServer.
func (s uploadServer) Pull(stream sessionpb.Upload_PullServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context()) // none is no metadata
	id := strings.TrimPrefix(strings.Join(md.Get(buildkit.KeyUploadPath), ""), "/")
	r, ok := s.uploads[id]
	if !ok {
		return status.Errorf(codes.NotFound, "no upload is called %q", id)
	}
	w := buildkit.NewWriter(stream)
	if _, err := io.Copy(w, r); err != nil {
		return err
	}
	return w.Flush()
}

// UploadURL is the context attribute that means Uploads[id].
func UploadURL(id string) string { return "http://" + buildkit.UploadHost + "/" + id }
