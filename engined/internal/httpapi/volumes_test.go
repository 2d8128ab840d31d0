package httpapi

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"strata/engined/internal/events"
	"strata/engined/internal/volumes"
	"strata/pkg/metadb"
)

// TestVolumesAnswerAsDockerd replays requests whose answers were recorded from dockerd 20.10,
// against the real manager.
func TestVolumesAnswerAsDockerd(t *testing.T) {
	dir := t.TempDir()
	db, err := metadb.Open(filepath.Join(dir, "engine.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	m, err := volumes.New(db, dir, events.NewLog())
	if err != nil {
		t.Fatal(err)
	}
	h := newRouter(http.Header{}, volumesAPI{m}.routes())
	created := regexp.MustCompile(`"CreatedAt":"[^"]+"`)
	v1 := `{"CreatedAt":"","Driver":"local","Labels":{"a":"b"},"Mountpoint":"DIR/volumes/v1/_data","Name":"v1","Options":null,"Scope":"local"}`
	for _, step := range []struct {
		method, path, body string
		status             int
		answer             string
	}{
		{"GET", "/volumes", "", 200, `{"Volumes":[],"Warnings":null}`},
		{"POST", "/volumes/create", `{"Name":"v1","Labels":{"a":"b"}}`, 201, v1},
		{"POST", "/volumes/create", `{"Name":"v1","DriverOpts":{"type":"tmpfs","device":"tmpfs"}}`, 201, v1},
		{"POST", "/volumes/create", `{"Name":"x"}`, 400, `{"message":"create x: volume name is too short, names should be at least two alphanumeric characters"}`},
		{"POST", "/volumes/create", `{"Name":"v2","DriverOpts":{"foo":"1"}}`, 400, `{"message":"create v2: invalid option: \"foo\""}`},
		{"POST", "/volumes/create", `{"Name":"v2","DriverOpts":{"type":"tmpfs"}}`, 400, `{"message":"create v2: missing required option: \"device\""}`},
		{"POST", "/volumes/create", `{"Name":"v2","DriverOpts":{"size":"1g"}}`, 400, `{"message":"create v2: quota size requested but no quota support"}`},
		{"GET", "/volumes/nope", "", 404, `{"message":"get nope: no such volume"}`},
		{"GET", "/volumes/v1", "", 200, v1},
		{"DELETE", "/volumes/nope", "", 404, `{"message":"get nope: no such volume"}`},
		{"DELETE", "/volumes/nope?force=1", "", 204, ""},
		{"POST", "/v1.41/volumes/prune", "", 200, `{"VolumesDeleted":["v1"],"SpaceReclaimed":0}`},
		{"POST", "/v1.41/volumes/prune", "", 200, `{"VolumesDeleted":[],"SpaceReclaimed":0}`},
	} {
		r := httptest.NewRequestWithContext(t.Context(), step.method, step.path, strings.NewReader(step.body))
		if step.body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		got := strings.TrimSpace(strings.ReplaceAll(created.ReplaceAllString(w.Body.String(), `"CreatedAt":""`), dir, "DIR"))
		if w.Code != step.status || got != step.answer {
			t.Errorf("%s %s %s: %d %s, want %d %s", step.method, step.path, step.body, w.Code, got, step.status, step.answer)
		}
	}
}
