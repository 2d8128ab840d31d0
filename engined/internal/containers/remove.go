package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"

	"strata/engined/internal/store"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
)

// RemoveRequest says what goes with a container.
type RemoveRequest struct {
	Force   bool // kill it first if it runs
	Volumes bool // its anonymous volumes too
	Link    bool
}

// Remove removes a container. ErrConflict with dockerd's words if it runs and Force is not
// given.
func (s *Service) Remove(ctx context.Context, ref string, r RemoveRequest) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	if r.Link {
		return fmt.Errorf("removal of links: %w", errdefs.ErrNotImplemented)
	}
	if st := c.State(); st.Status.Alive() {
		if !r.Force {
			return s.refuseRemoval(c, st)
		}
		if err := s.Kill(ctx, c.ID, "KILL"); err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
			return fmt.Errorf("could not kill container before removal: %w", err)
		}
	}
	return s.remove(ctx, c, r)
}

func (s *Service) refuseRemoval(c *Container, st State) error {
	word, advice := "running", "stop the container before removing or force remove"
	switch st.Status {
	case Paused:
		word, advice = "paused", "unpause and then stop the container before removing or force remove"
	case Restarting:
		word = "restarting"
	default:
	}
	return fmt.Errorf("cannot remove container %q: container is %s: %s: %w", "/"+c.Definition().Name, word, advice, errdefs.ErrConflict)
}

// remove removes a container that does not run.
func (s *Service) remove(ctx context.Context, c *Container, r RemoveRequest) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	if _, err := s.Get(c.ID); err != nil {
		if r.Force {
			return nil // somebody else removed it while we waited
		}
		return err
	}
	st := c.State()
	if st.Status.Alive() {
		return s.refuseRemoval(c, st)
	}
	d := c.Definition()
	t := store.Tombstone{Volumes: r.Volumes, Snapshotter: d.Image.Snapshotter}
	if err := s.Store.Remove(d, t); err != nil {
		return fmt.Errorf("remove container %s: %w", c.ID, err)
	}
	failpoint.Pass("containers/remove/stored")
	// Point of no return: the container is gone; what is left of it is freed now, or
	// swept by the next start of the engine.
	if _, err := c.advance(evRemoved, nil); err != nil {
		ctxlog.From(ctx).Error("container removed out of turn", ctxlog.ContainerID, c.ID, ctxlog.Error, err)
	}
	c.failPending(nil)
	s.bury(ctx, c.ID, t)
	s.drop(c)
	s.publish(c, "destroy")
	c.notifyRemoved()
	ctxlog.From(ctx).Info("container removed", ctxlog.ContainerID, c.ID, ctxlog.Name, d.Name)
	return nil
}

// removeLater removes a container without a request that waits for it.
func (s *Service) removeLater(c *Container) {
	s.work.Go(func() {
		if err := s.remove(s.base, c, RemoveRequest{Volumes: true, Force: true}); err != nil {
			ctxlog.From(s.base).Warn("container was not removed", ctxlog.ContainerID, c.ID, ctxlog.Error, err)
		}
	})
}

// bury frees what a removed container leaves behind and drops its tombstone. What cannot
// be freed keeps the tombstone, for the next start of the engine.
func (s *Service) bury(ctx context.Context, containerID string, t store.Tombstone) {
	ctx, done := cleanup.Context(ctx)
	defer done()
	// First: what it holds cannot be freed under it. Usually it is gone already.
	if _, err := s.Tasks.DeleteTask(ctx, containerID); err != nil && !errdefs.IsNotFound(err) {
		s.deleteTask(ctx, containerID)
	}
	steps := []func() error{
		func() error { return ignoreNotFound(s.Records.DeleteContainer(ctx, containerID)) },
		func() error { return ignoreNotFound(s.Records.RemoveRootfs(ctx, t.Snapshotter, containerID)) },
		func() error { return s.Networks.Leave(ctx, containerID) },
		func() error { return s.forgetVolumes(ctx, containerID, t.Volumes) },
		func() error { return errors.Join(unmountShm(s.shmDir(containerID)), os.RemoveAll(s.dir(containerID))) },
	}
	errs := make([]error, len(steps))
	var wg sync.WaitGroup
	for i, step := range steps {
		wg.Go(func() { errs[i] = step() })
	}
	wg.Wait()
	s.RemoveStreams(containerID)
	err := errors.Join(errs...)
	failpoint.Pass("containers/bury/freed")
	if err == nil {
		s.work.Go(func() { // nobody waits for the disk here
			if err := s.Store.Forget(containerID); err != nil {
				ctxlog.From(ctx).Warn("tombstone stays", ctxlog.ContainerID, containerID, ctxlog.Error, err)
			}
		})
		return
	}
	ctxlog.From(ctx).Warn("something of a removed container was not freed; the next start of the engine tries again", ctxlog.ContainerID, containerID, ctxlog.Error, err)
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func (s *Service) forgetVolumes(ctx context.Context, containerID string, anonymous bool) error {
	orphans, err := s.Volumes.Forget(ctx, containerID)
	if err != nil || !anonymous {
		return err
	}
	var errs []error
	for _, name := range orphans {
		if err := s.Volumes.Remove(ctx, name, true); err != nil && !errdefs.IsConflict(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Pruned is what a prune removed.
type Pruned struct {
	IDs       []string
	Reclaimed int64 // bytes
}

// Prune removes the containers that do not run and that match.
func (s *Service) Prune(ctx context.Context, match func(*Container) bool) (Pruned, error) {
	var out Pruned
	var errs []error
	for _, c := range s.All() {
		if c.State().Status.Alive() || !match(c) {
			continue
		}
		size, err := s.Records.RootfsUsage(ctx, c.Definition().Image.Snapshotter, c.ID)
		if err != nil {
			size = 0 // it goes all the same
		}
		if err := s.remove(ctx, c, RemoveRequest{}); err != nil {
			if !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
				errs = append(errs, err)
			}
			continue
		}
		out.IDs = append(out.IDs, c.ID)
		out.Reclaimed += size
	}
	return out, errors.Join(errs...)
}
