package grpcapi

import (
	"context"
	"fmt"

	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	ttrpcapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strata/pkg/namespaces"
	"strata/supervisord/internal/events"
)

// Forwarder takes in events of others. *tasks.Service is the real one.
type Forwarder interface {
	Forward(e events.Envelope) error
}

// eventServer translates containerd.services.events.v1.Events.
type eventServer struct {
	eventsapi.UnimplementedEventsServer
	broker    *events.Broker
	forwarder Forwarder
}

// RegisterEvents adds the event service to a server.
func RegisterEvents(s *grpc.Server, broker *events.Broker, forwarder Forwarder) {
	eventsapi.RegisterEventsServer(s, &eventServer{broker: broker, forwarder: forwarder})
}

// Publish implements Events. Old shims use it through our "publish" verb.
func (s *eventServer) Publish(ctx context.Context, r *eventsapi.PublishRequest) (*emptypb.Empty, error) {
	ns, err := namespaces.Required(ctx)
	if err != nil {
		return nil, err
	}
	return done(s.forwarder.Forward(events.Envelope{Timestamp: timestamppb.Now().AsTime(), Namespace: ns, Topic: r.Topic, Event: r.Event}))
}

// Forward implements Events.
func (s *eventServer) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	return done(forward(s.forwarder, r.Envelope))
}

func forward(f Forwarder, e *types.Envelope) error {
	if e == nil || e.Timestamp == nil {
		return fmt.Errorf("forward: no envelope: %w", errdefs.ErrInvalidArgument)
	}
	event := e.Event
	if event == nil {
		event = &anypb.Any{}
	}
	return f.Forward(events.Envelope{Timestamp: e.Timestamp.AsTime(), Namespace: e.Namespace, Topic: e.Topic, Event: event})
}

// Subscribe implements Events. The header is sent once the subscription is in force.
func (s *eventServer) Subscribe(r *eventsapi.SubscribeRequest, stream eventsapi.Events_SubscribeServer) error {
	sub, err := s.broker.Subscribe(r.Filters...)
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		e, err := sub.Next(stream.Context())
		if err != nil {
			return err
		}
		if err := stream.Send(&types.Envelope{Timestamp: timestamppb.New(e.Timestamp), Namespace: e.Namespace, Topic: e.Topic, Event: e.Event}); err != nil {
			return err
		}
	}
}

// ttrpcEvents is what shims report to.
type ttrpcEvents struct{ forwarder Forwarder }

// RegisterTTRPCEvents adds the service that shims report to.
func RegisterTTRPCEvents(s *ttrpc.Server, forwarder Forwarder) {
	ttrpcapi.RegisterTTRPCEventsService(s, ttrpcEvents{forwarder})
}

// Forward implements TTRPCEventsService.
func (s ttrpcEvents) Forward(_ context.Context, r *ttrpcapi.ForwardRequest) (*emptypb.Empty, error) {
	if err := forward(s.forwarder, r.Envelope); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &emptypb.Empty{}, nil
}
