package httpapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"strata/engined/internal/events"
	"strata/engined/internal/filters"
)

// eventsAPI serves GET /events.
type eventsAPI struct {
	log *events.Log
}

func (a eventsAPI) routes() []route { return []route{{http.MethodGet, "/events", a.events}} }

var eventFilters = []string{
	"config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret", "service", "type", "volume",
}

// eventMessage is events.Message with the fields of clients before 1.52.
type eventMessage struct {
	Status   string     `json:"status,omitempty"`
	ID       string     `json:"id,omitempty"`
	From     string     `json:"from,omitempty"`
	Type     string     `json:"Type"`
	Action   string     `json:"Action"`
	Actor    eventActor `json:"Actor"`
	Scope    string     `json:"scope"`
	Time     int64      `json:"time"`
	TimeNano int64      `json:"timeNano"`
}

type eventActor struct {
	ID         string            `json:"ID"`
	Attributes map[string]string `json:"Attributes"`
}

func toMessage(e events.Event) eventMessage {
	m := eventMessage{
		Type: e.Type, Action: e.Action, Actor: eventActor{e.ActorID, e.Attributes}, Scope: "local", Time: e.Time.Unix(), TimeNano: e.Time.UnixNano(),
	}
	if m.Actor.Attributes == nil {
		m.Actor.Attributes = map[string]string{}
	}
	switch e.Type {
	case "container":
		m.Status, m.ID, m.From = e.Action, e.ActorID, e.Attributes["image"]
	case "image":
		m.Status, m.ID = e.Action, e.ActorID
	}
	return m
}

// events streams what happens, after what happened since the asked time, until the client
// goes away or the asked time has come.
func (a eventsAPI) events(w http.ResponseWriter, r *request) error {
	f, err := filters.Parse(r.Query("filters"), eventFilters...)
	if err != nil {
		return err
	}
	since, err := parseTimestamp(r.Query("since"))
	if err != nil {
		return err
	}
	until, err := parseTimestamp(r.Query("until"))
	if err != nil {
		return err
	}
	if !since.IsZero() && !until.IsZero() && until.Before(since) {
		return invalid("`since` time (%s) cannot be after `until` time (%s)", r.Query("since"), r.Query("until"))
	}
	past, sub := a.log.Subscribe(since)
	defer a.log.Cancel(sub)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	for _, e := range past {
		if (until.IsZero() || !e.Time.After(until)) && matchEvent(f, e) {
			if err := enc.Encode(toMessage(e)); err != nil {
				return err
			}
		}
	}
	if err := rc.Flush(); err != nil {
		return err
	}
	var deadline <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		deadline = timer.C
	}
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-deadline:
			return nil
		case e, ok := <-sub.C:
			if !ok {
				return errors.Join(io.ErrShortWrite, errors.New("client reads events too slowly"))
			}
			if !matchEvent(f, e) {
				continue
			}
			if err := errors.Join(enc.Encode(toMessage(e)), rc.Flush()); err != nil {
				return err
			}
		}
	}
}

func matchEvent(f filters.Args, e events.Event) bool {
	if !f.Exact("type", e.Type) || !f.Exact("scope", "local") || !f.Labels(e.Attributes) {
		return false
	}
	// "exec_create: ls" is found by "exec_create", and "health_status: healthy" by both.
	if f.Has("event") {
		word, _, _ := strings.Cut(e.Action, ":")
		if !slices.Contains(f["event"], e.Action) && !slices.Contains(f["event"], word) {
			return false
		}
	}
	for _, kind := range []string{"container", "network", "volume", "daemon", "image"} {
		if !f.Has(kind) {
			continue
		}
		if kind == "image" && e.Type == "container" {
			if !slices.Contains(f["image"], e.Attributes["image"]) {
				return false
			}
			continue
		}
		if !matchActor(f[kind], kind, e) {
			return false
		}
	}
	return true
}

func matchActor(wanted []string, kind string, e events.Event) bool {
	if e.Type != kind {
		return false
	}
	return slices.ContainsFunc(wanted, func(v string) bool {
		return v == e.Attributes["name"] || v == e.ActorID || v != "" && strings.HasPrefix(e.ActorID, v)
	})
}
