package storage

import (
	"strata/supervisord/internal/containers"
	"strata/supervisord/internal/gc"
	"strata/supervisord/internal/images"
	"strata/supervisord/internal/leases"
)

// CollectorWith returns a collector of the same parts and one more, which is scanned
// last.
func (s *Storage) CollectorWith(last gc.Part) *gc.Collector {
	return gc.New(s.db.Barrier(), leases.NewPart(s.db), images.NewPart(s.db), containers.NewPart(s.db), s.Content, s.Snapshotters["overlayfs"], last)
}
