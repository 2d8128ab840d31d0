package client

import (
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
)

// legacyDiskUsage is the answer of /system/df before API 1.52.
type legacyDiskUsage struct {
	LayersSize int64
	Images     []image.Summary
	Containers []container.Summary
	Volumes    []volume.Volume
	BuildCache []build.CacheRecord
}

func (l legacyDiskUsage) convert() system.DiskUsage {
	return system.DiskUsage{
		ImageUsage:      l.images(),
		ContainerUsage:  l.containers(),
		VolumeUsage:     l.volumes(),
		BuildCacheUsage: l.buildCache(),
	}
}

func (l legacyDiskUsage) images() *image.DiskUsage {
	u := &image.DiskUsage{TotalCount: int64(len(l.Images)), TotalSize: l.LayersSize, Items: l.Images}
	var used int64
	for _, i := range l.Images {
		if i.Containers > 0 {
			u.ActiveCount++
		}
		if i.Containers != 0 && i.Size != -1 && i.SharedSize != -1 {
			used += i.Size - i.SharedSize
		}
	}
	u.Reclaimable = max(u.TotalSize-used, 0)
	return u
}

func (l legacyDiskUsage) containers() *container.DiskUsage {
	u := &container.DiskUsage{TotalCount: int64(len(l.Containers)), Items: l.Containers}
	for _, c := range l.Containers {
		u.TotalSize += c.SizeRw
		switch c.State {
		case container.StateRunning, container.StatePaused, container.StateRestarting:
			u.ActiveCount++
		default:
			u.Reclaimable += c.SizeRw
		}
	}
	return u
}

func (l legacyDiskUsage) volumes() *volume.DiskUsage {
	u := &volume.DiskUsage{TotalCount: int64(len(l.Volumes)), Items: l.Volumes}
	for _, v := range l.Volumes {
		if v.UsageData == nil {
			continue
		}
		size := max(v.UsageData.Size, 0)
		u.TotalSize += size
		if v.UsageData.RefCount > 0 {
			u.ActiveCount++
		} else {
			u.Reclaimable += size
		}
	}
	return u
}

func (l legacyDiskUsage) buildCache() *build.DiskUsage {
	u := &build.DiskUsage{TotalCount: int64(len(l.BuildCache)), Items: l.BuildCache}
	for _, b := range l.BuildCache {
		if b.InUse {
			u.ActiveCount++
		}
		if b.Shared {
			continue
		}
		u.TotalSize += b.Size
		if !b.InUse {
			u.Reclaimable += b.Size
		}
	}
	return u
}
