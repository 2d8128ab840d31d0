package buildkit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strata/pkg/buildkit/controlpb"
	"strata/pkg/ctxlog"
	"strata/pkg/metadb"
)

// Buckets of buildhistory.db:
//
//	builds  reference → controlpb.BuildHistoryRecord
//	stories reference → controlpb.StatusResponse: all that was told, in one message
var (
	bucketBuilds  = []byte("builds")
	bucketStories = []byte("stories")
)

// maxBuilds is how many builds are remembered, beside those that are pinned; maxStory bounds
// what is remembered of what one told, in bytes: a longer one is forgotten.
const (
	maxBuilds = 50
	maxStory  = 1 << 20
)

// history remembers builds.
type history struct {
	db *bolt.DB

	mu        sync.Mutex
	listeners map[chan *controlpb.BuildHistoryEvent]bool
}

func openHistory(path string) (*history, error) {
	db, err := metadb.Open(path)
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketBuilds, bucketStories} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open build history: %w", err), db.Close())
	}
	db.NoSync = true // a build that a power failure makes forgotten is no loss, and fsync would be felt in each
	return &history{db: db, listeners: map[chan *controlpb.BuildHistoryEvent]bool{}}, nil
}

func (h *history) close() error { return errors.Join(h.db.Sync(), h.db.Close()) }

// record is what is remembered of a build.
func (j *job) record(start time.Time, attrs, resp map[string]string, err error) *controlpb.BuildHistoryRecord {
	n := j.story.counts()
	r := &controlpb.BuildHistoryRecord{
		Ref: j.ref, Frontend: cmp.Or(j.req.Frontend, frontendDockerfile), FrontendAttrs: publicAttrs(attrs, j.req.FrontendAttrs), Exporters: j.req.Exporters,
		CreatedAt: timestamppb.New(start), ExporterResponse: resp,
		NumCachedSteps: n.cached, NumTotalSteps: n.total, NumCompletedSteps: n.completed, NumWarnings: n.warnings,
	}
	if err != nil {
		st, _ := status.FromError(err) // every error has one
		r.Error = &controlpb.Status{Code: int32(st.Code()), Message: st.Message()}
	}
	return r
}

// publicAttrs are the attributes without values that a user may have thought of as secret.
func publicAttrs(lists ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, attrs := range lists {
		for k, v := range attrs {
			if strings.HasPrefix(k, prefixSharedKey) {
				continue
			}
			out[k] = v
		}
	}
	return out
}

// add remembers a build that has ended, with its story.
func (h *history) add(ctx context.Context, r *controlpb.BuildHistoryRecord, told *controlpb.StatusResponse) {
	r.CompletedAt = timestamppb.Now()
	err := h.db.Update(func(tx *bolt.Tx) error {
		raw, err := proto.Marshal(r)
		if err != nil {
			return err
		}
		if err := tx.Bucket(bucketBuilds).Put([]byte(r.Ref), raw); err != nil {
			return err
		}
		if n := proto.Size(told); n <= maxStory {
			if raw, err = proto.Marshal(told); err != nil {
				return err
			}
			if err := tx.Bucket(bucketStories).Put([]byte(r.Ref), raw); err != nil {
				return err
			}
		}
		return forgetOldest(tx)
	})
	if err != nil {
		ctxlog.From(ctx).Warn("build was not remembered in the history", ctxlog.Error, err)
		return
	}
	h.tell(&controlpb.BuildHistoryEvent{Type: controlpb.BuildHistoryEventType_COMPLETE, Record: r})
}

// forgetOldest keeps the newest builds and those that are pinned.
func forgetOldest(tx *bolt.Tx) error {
	list := records(tx)
	list = slices.DeleteFunc(list, func(r *controlpb.BuildHistoryRecord) bool { return r.Pinned })
	for i := maxBuilds; i < len(list); i++ {
		if err := forget(tx, list[i].Ref); err != nil {
			return err
		}
	}
	return nil
}

func forget(tx *bolt.Tx, ref string) error {
	return errors.Join(tx.Bucket(bucketBuilds).Delete([]byte(ref)), tx.Bucket(bucketStories).Delete([]byte(ref)))
}

// records are all builds, the newest first.
func records(tx *bolt.Tx) []*controlpb.BuildHistoryRecord {
	var out []*controlpb.BuildHistoryRecord
	_ = tx.Bucket(bucketBuilds).ForEach(func(_, v []byte) error { // a broken record is none
		r := &controlpb.BuildHistoryRecord{}
		if proto.Unmarshal(v, r) == nil {
			out = append(out, r)
		}
		return nil
	})
	slices.SortFunc(out, func(a, b *controlpb.BuildHistoryRecord) int {
		return b.CreatedAt.AsTime().Compare(a.CreatedAt.AsTime())
	})
	return out
}

// events returns what a build that has ended told.
func (h *history) events(ref string) (out []*controlpb.StatusResponse, ok bool) {
	_ = h.db.View(func(tx *bolt.Tx) error { // a broken record is none
		raw := tx.Bucket(bucketStories).Get([]byte(ref))
		e := &controlpb.StatusResponse{}
		if ok = raw != nil && proto.Unmarshal(raw, e) == nil; ok {
			out = []*controlpb.StatusResponse{e}
		}
		return nil
	})
	return out, ok
}

// update pins or forgets a build. ErrNotFound if there is none.
func (h *history) update(req *controlpb.UpdateBuildHistoryRequest) error {
	return h.db.Update(func(tx *bolt.Tx) error {
		raw := tx.Bucket(bucketBuilds).Get([]byte(req.Ref))
		r := &controlpb.BuildHistoryRecord{}
		if raw == nil || proto.Unmarshal(raw, r) != nil {
			return fmt.Errorf("build %s: %w", req.Ref, errdefs.ErrNotFound)
		}
		switch {
		case req.Delete:
			return forget(tx, req.Ref)
		case req.Finalize:
			return nil // what is kept is kept at the end of the build
		}
		r.Pinned = req.Pinned
		raw, err := proto.Marshal(r)
		if err != nil {
			return err
		}
		return tx.Bucket(bucketBuilds).Put([]byte(req.Ref), raw)
	})
}

// listen sends the builds that there are, and unless the client wants no more, those that
// come.
func (h *history) listen(ctx context.Context, req *controlpb.BuildHistoryRequest, running []*controlpb.BuildHistoryRecord, send func(*controlpb.BuildHistoryEvent) error) error {
	filter, err := parseHistoryFilter(req.Filter, time.Now())
	if err != nil {
		return err
	}
	events := make(chan *controlpb.BuildHistoryEvent, 64)
	h.mu.Lock()
	h.listeners[events] = true
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.listeners, events)
		h.mu.Unlock()
	}()
	var list []*controlpb.BuildHistoryRecord
	if !req.ActiveOnly {
		_ = h.db.View(func(tx *bolt.Tx) error { // records does not fail
			list = records(tx)
			return nil
		})
	}
	sent := int32(0)
	for i, part := range [][]*controlpb.BuildHistoryRecord{running, list} {
		for _, r := range part {
			if req.Ref != "" && r.Ref != req.Ref || req.Limit > 0 && sent >= req.Limit || !filter.fits(r) {
				continue
			}
			kind := controlpb.BuildHistoryEventType_STARTED
			if i == 1 {
				kind = controlpb.BuildHistoryEventType_COMPLETE
			}
			if err := send(&controlpb.BuildHistoryEvent{Type: kind, Record: r}); err != nil {
				return err
			}
			sent++
		}
	}
	for !req.EarlyExit {
		select {
		case e := <-events:
			if (req.Ref == "" || e.Record.Ref == req.Ref) && filter.fits(e.Record) {
				if err := send(e); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// tell tells all listeners; one that does not listen misses it.
func (h *history) tell(e *controlpb.BuildHistoryEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := range h.listeners {
		select {
		case l <- e:
		default:
		}
	}
}
