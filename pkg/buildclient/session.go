package buildclient

import (
	"context"
	"fmt"
	"net/http"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"strata/pkg/buildkit"
	"strata/pkg/buildkit/sessionpb"
	"strata/pkg/identifiers"
)

// session serves what a build needs from here.
type session struct {
	id     string
	server *grpc.Server
	ended  chan struct{}
}

// openSession connects to the daemon and serves on the connection.
func (b *Build) openSession(ctx context.Context, up Upgrader) (*session, error) {
	s := &session{id: identifiers.New()[:25], ended: make(chan struct{})}
	s.server = grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	healthpb.RegisterHealthServer(s.server, health.NewServer())
	sessionpb.RegisterFileSyncServer(s.server, fileSync{dirs: b.Dirs})
	sessionpb.RegisterFileSendServer(s.server, fileSend{outputs: b.Outputs})
	sessionpb.RegisterSecretsServer(s.server, secretServer{secrets: b.Secrets})
	if b.Auth != nil {
		sessionpb.RegisterAuthServer(s.server, newAuthServer(b.Auth))
	}
	if len(b.Agents) > 0 {
		sessionpb.RegisterSSHServer(s.server, agentServer{agents: b.Agents})
	}
	if len(b.Uploads) > 0 {
		sessionpb.RegisterUploadServer(s.server, uploadServer{uploads: b.Uploads})
	}
	if stores := b.stores(); len(stores) > 0 {
		contentapi.RegisterContentServer(s.server, contentServer{stores: stores})
	}
	h := http.Header{}
	h.Set(buildkit.HeaderSessionID, s.id)
	h.Set(buildkit.HeaderSessionName, "engine")
	h.Set(buildkit.HeaderSessionSharedKey, b.SharedKey)
	for name, info := range s.server.GetServiceInfo() {
		for _, m := range info.Methods {
			h.Add(buildkit.HeaderSessionMethod, "/"+name+"/"+m.Name)
		}
	}
	conn, err := up.Upgrade(ctx, "/session", "h2c", h)
	if err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	go func() { // ends with close
		defer close(s.ended)
		_ = s.server.Serve(&singleListener{conn: conn, closed: make(chan struct{})}) // it ends when it is stopped
	}()
	return s, nil
}

// close ends the session.
func (s *session) close() {
	s.server.Stop()
	<-s.ended
}
