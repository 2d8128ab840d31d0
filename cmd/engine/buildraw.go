package main

import (
	"encoding/json"
	"io"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"strata/pkg/buildkit/controlpb"
)

// The lines of --progress=rawjson are those of buildx.

type rawStatus struct {
	Vertexes []rawVertex  `json:"vertexes,omitempty"`
	Statuses []rawMeasure `json:"statuses,omitempty"`
	Logs     []rawLog     `json:"logs,omitempty"`
	Warnings []rawWarning `json:"warnings,omitempty"`
}

type rawVertex struct {
	Digest    string     `json:"digest,omitempty"`
	Inputs    []string   `json:"inputs,omitempty"`
	Name      string     `json:"name,omitempty"`
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
	Cached    bool       `json:"cached,omitempty"`
	Error     string     `json:"error,omitempty"`
}

type rawMeasure struct {
	ID        string     `json:"id"`
	Vertex    string     `json:"vertex,omitempty"`
	Name      string     `json:"name,omitempty"`
	Total     int64      `json:"total,omitempty"`
	Current   int64      `json:"current"`
	Timestamp *time.Time `json:"timestamp,omitempty"`
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
}

type rawLog struct {
	Vertex    string     `json:"vertex,omitempty"`
	Stream    int64      `json:"stream,omitempty"`
	Data      []byte     `json:"data"`
	Timestamp *time.Time `json:"timestamp"`
}

type rawWarning struct {
	Vertex string   `json:"vertex,omitempty"`
	Level  int64    `json:"level,omitempty"`
	Short  []byte   `json:"short,omitempty"`
	Detail [][]byte `json:"detail,omitempty"`
	URL    string   `json:"url,omitempty"`
}

func rawTime(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime()
	return &at
}

func writeRawStatus(w io.Writer, e *controlpb.StatusResponse) {
	var s rawStatus
	for _, v := range e.Vertexes {
		s.Vertexes = append(s.Vertexes, rawVertex{v.Digest, v.Inputs, v.Name, rawTime(v.Started), rawTime(v.Completed), v.Cached, v.Error})
	}
	for _, m := range e.Statuses {
		s.Statuses = append(s.Statuses, rawMeasure{m.ID, m.Vertex, m.Name, m.Total, m.Current, rawTime(m.Timestamp), rawTime(m.Started), rawTime(m.Completed)})
	}
	for _, l := range e.Logs {
		s.Logs = append(s.Logs, rawLog{l.Vertex, l.Stream, l.Msg, rawTime(l.Timestamp)})
	}
	for _, x := range e.Warnings {
		s.Warnings = append(s.Warnings, rawWarning{x.Vertex, x.Level, x.Short, x.Detail, x.Url})
	}
	_ = json.NewEncoder(w).Encode(s) // whoever reads has gone
}
