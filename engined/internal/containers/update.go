package containers

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"strata/engined/internal/spec"
	"strata/engined/internal/store"
	"strata/pkg/ctxlog"
	"strata/pkg/failpoint"
	"strata/pkg/identifiers"
	"strata/pkg/restartpolicy"
)

// Rename gives a container another name.
func (s *Service) Rename(ctx context.Context, ref, name string) error {
	name = strings.TrimPrefix(name, "/")
	if name == "" {
		return invalid("Neither old nor new names may be empty")
	}
	if !identifiers.ValidName(name) {
		return invalid("Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name)
	}
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	old := c.Definition()
	if old.Name == name {
		return invalid("Renaming a container with the same name as its current name")
	}
	if err := s.reserve(name, c.ID); err != nil {
		return err
	}
	d := *old
	d.Name = name
	if err := s.Store.Update(&d); err != nil {
		s.unreserve(name, c.ID)
		return err
	}
	c.def.Store(&d) // Point of no return: the new name is stored.
	failpoint.Pass("containers/rename/stored")
	s.unreserve(old.Name, c.ID)
	if err := s.Networks.Rename(ctx, c.ID, name); err != nil {
		ctxlog.From(ctx).Warn("peers know a container by its old name until it is started again", ctxlog.ContainerID, c.ID, ctxlog.Error, err)
	}
	s.publish(c, "rename", "oldName", "/"+old.Name)
	return nil
}

// Update changes limits and the restart policy of a container, at once if it runs. What
// is zero in u stays.
func (s *Service) Update(ctx context.Context, ref string, u container.UpdateConfig) ([]string, error) {
	c, err := s.Get(ref)
	if err != nil {
		return nil, err
	}
	if err := c.lock(ctx); err != nil {
		return nil, err
	}
	defer c.unlock()
	old := c.Definition()
	d, host := *old, *old.Host
	d.Host = &host
	if u.RestartPolicy.Name != "" {
		if host.AutoRemove && u.RestartPolicy.Name != container.RestartPolicyDisabled {
			return nil, fmt.Errorf("Restart policy cannot be updated because AutoRemove is enabled for the container: %w", errdefs.ErrConflict) // dockerd's words
		}
		host.RestartPolicy = u.RestartPolicy
	}
	if err := mergeResources(&host.Resources, &u.Resources); err != nil {
		return nil, err
	}
	if err := validateRestart(&host); err != nil {
		return nil, err
	}
	warnings, err := s.validateResources(&host.Resources)
	if err != nil {
		return nil, err
	}
	if c.State().Status.HasTask() {
		res, err := spec.Resources(&u.Resources, s.cfg.Cgroup)
		if err != nil {
			return nil, err
		}
		if res.CPU != nil || res.Memory != nil || res.Pids != nil || res.BlockIO != nil {
			if err := s.Tasks.UpdateTask(ctx, c.ID, res); err != nil {
				return nil, fmt.Errorf("Cannot update container %s: %w", c.ID, err) //nolint:staticcheck // dockerd's words
			}
		}
	}
	if err := s.Store.Update(&d); err != nil {
		return nil, err
	}
	c.def.Store(&d)
	if Policy(old.Host.RestartPolicy) != Policy(host.RestartPolicy) {
		s.applyPolicy(ctx, c)
	}
	s.publish(c, "update")
	return warnings, nil
}

// applyPolicy tells the supervisor of a changed restart policy.
//
// Preconditions: the operation lock is held.
func (s *Service) applyPolicy(ctx context.Context, c *Container) {
	d, st := c.Definition(), c.State()
	if c.info().recorded && st.Status.Alive() {
		labels, err := s.labels(d, st.Stopped)
		if err == nil {
			err = s.Records.UpdateLabels(ctx, c.ID, labels)
		}
		c.setInfo(func(i *runtimeInfo) { i.specHash = [32]byte{} })
		if err != nil {
			ctxlog.From(ctx).Warn("supervisor follows the old restart policy until the next start", ctxlog.ContainerID, c.ID, ctxlog.Error, err)
		}
	}
	if st.Status == Restarting && Policy(d.Host.RestartPolicy).Name == restartpolicy.No {
		s.giveUp(ctx, c)
	}
}

// mergeResources applies what is set in u.
func mergeResources(r, u *container.Resources) error {
	if r.NanoCPUs > 0 && (u.CPUPeriod != 0 || u.CPUQuota != 0) {
		return fmt.Errorf("Conflicting options: CPU Period and Quota cannot be updated as NanoCPUs has already been set: %w", errdefs.ErrConflict) //nolint:staticcheck // dockerd's words
	}
	if u.NanoCPUs > 0 && (r.CPUPeriod > 0 || r.CPUQuota > 0) {
		return fmt.Errorf("Conflicting options: Nano CPUs cannot be updated as CPU Period or Quota has already been set: %w", errdefs.ErrConflict) //nolint:staticcheck // dockerd's words
	}
	if u.Memory != 0 {
		if u.Memory > r.MemorySwap && u.MemorySwap == 0 && r.MemorySwap > 0 {
			return fmt.Errorf("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time: %w", errdefs.ErrConflict) //nolint:staticcheck // dockerd's words
		}
		r.Memory = u.Memory
	}
	for _, f := range []struct{ to, from *int64 }{
		{&r.CPUShares, &u.CPUShares},
		{&r.NanoCPUs, &u.NanoCPUs},
		{&r.CPUPeriod, &u.CPUPeriod},
		{&r.CPUQuota, &u.CPUQuota},
		{&r.MemorySwap, &u.MemorySwap},
		{&r.MemoryReservation, &u.MemoryReservation},
		{&r.CPURealtimePeriod, &u.CPURealtimePeriod},
		{&r.CPURealtimeRuntime, &u.CPURealtimeRuntime},
	} {
		if *f.from != 0 {
			*f.to = *f.from
		}
	}
	if u.BlkioWeight != 0 {
		r.BlkioWeight = u.BlkioWeight
	}
	if u.CpusetCpus != "" {
		r.CpusetCpus = u.CpusetCpus
	}
	if u.CpusetMems != "" {
		r.CpusetMems = u.CpusetMems
	}
	if u.PidsLimit != nil {
		r.PidsLimit = u.PidsLimit
	}
	return nil
}

// Connect puts a container on one more network: at once if it runs, else from its next
// start on.
func (s *Service) Connect(ctx context.Context, ref, networkRef string, ep *network.EndpointSettings) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	n, err := s.Networks.Network(networkRef)
	if err != nil {
		return err
	}
	mode := c.Definition().Host.NetworkMode
	switch {
	case c.State().Status == Dead:
		return fmt.Errorf("container %s is marked for removal and cannot be connected or disconnected to the network: %w", c.ID, errdefs.ErrConflict)
	case mode.IsContainer():
		return invalid("container sharing network namespace with another container or host cannot be connected to any other network")
	case mode.IsHost() && c.State().Status.HasTask():
		return fmt.Errorf("container cannot be connected to network: it uses the host's network: %w", errdefs.ErrPermissionDenied)
	}
	if ep == nil {
		ep = &network.EndpointSettings{}
	}
	ep.NetworkID = n.ID
	if _, err := s.Networks.Connect(ctx, c.ID, EndpointRequest(n.Name, ep)); err != nil {
		return err
	}
	return s.storeEndpoints(c, func(eps map[string]*network.EndpointSettings) { eps[n.Name] = ep })
}

// Disconnect takes a container off a network.
func (s *Service) Disconnect(ctx context.Context, ref, networkRef string) error {
	c, err := s.Get(ref)
	if err != nil {
		return err
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	name := networkRef
	if n, err := s.Networks.Network(networkRef); err == nil {
		name = n.Name
	}
	attached, err := s.Networks.Disconnect(ctx, c.ID, networkRef)
	if err != nil {
		return err
	}
	if _, wished := c.Definition().Endpoints[name]; !wished && !attached {
		return fmt.Errorf("container %s is not connected to network %s: %w", c.ID, name, errdefs.ErrPermissionDenied)
	}
	return s.storeEndpoints(c, func(eps map[string]*network.EndpointSettings) { delete(eps, name) })
}

func (s *Service) storeEndpoints(c *Container, edit func(map[string]*network.EndpointSettings)) error {
	return s.Store.Update(c.changeDefinition(func(d *store.Definition) {
		if d.Endpoints == nil {
			d.Endpoints = map[string]*network.EndpointSettings{}
		}
		edit(d.Endpoints)
	}))
}
