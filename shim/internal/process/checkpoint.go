package process

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"strata/shim/internal/ocicli"
)

// Checkpoint has the runtime write the state of a running task to a.ImagePath. The error
// is of class ErrFailedPrecondition unless the task runs.
func (ts *Tasks) Checkpoint(ctx context.Context, containerID string, a ocicli.CheckpointArgs) error {
	t, err := ts.get(containerID)
	if err != nil {
		return err
	}
	if s := t.init.snapshot().Status; s != Running && s != Paused {
		return fmt.Errorf("checkpoint task %q: it is %s: %w", t.id, s, errdefs.ErrFailedPrecondition)
	}
	if err := t.runtime.Checkpoint(ctx, t.id, a); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.publishLocked(Event{Kind: TaskCheckpointed, Checkpoint: a.ImagePath})
	return nil
}
