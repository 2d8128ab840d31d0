package supervisord

import (
	"context"
	"fmt"
	"io"
	"strings"

	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"strata/pkg/namespaces"
	"strata/pkg/rpc"
)

// maxEvent bounds an event that is read from a file, in bytes.
const maxEvent = 1 << 20

// Publish sends the event that r holds (an encoded Any) to the daemon at address. Shims
// from before the ttrpc event service run it as "DAEMON publish".
func Publish(ctx context.Context, address, namespace, topic string, r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, maxEvent))
	if err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	var event anypb.Any
	if err := proto.Unmarshal(data, &event); err != nil {
		return fmt.Errorf("decode event: %w", err)
	}
	conn, err := rpc.Dial(strings.TrimPrefix(address, "unix://"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = eventsapi.NewEventsClient(conn).Publish(namespaces.With(ctx, namespace), &eventsapi.PublishRequest{Topic: topic, Event: &event})
	return err
}
