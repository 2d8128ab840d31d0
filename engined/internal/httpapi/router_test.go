package httpapi

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestAnAnswerThatBreaksOffDoesNotLookWhole fails a handler after it has begun to answer.
func TestAnAnswerThatBreaksOffDoesNotLookWhole(t *testing.T) {
	half := route{http.MethodGet, "/half", func(w http.ResponseWriter, _ *request) error {
		if _, err := io.WriteString(w, "half a tar"); err != nil {
			return err
		}
		return errors.New("the disk is gone")
	}}
	srv := httptest.NewServer(newRouter(http.Header{}, []route{half}))
	defer srv.Close()
	r, err := srv.Client().Get(srv.URL + "/half")
	if err == nil {
		_, err = io.ReadAll(r.Body)
		_ = r.Body.Close() // read to its end
	}
	if err == nil {
		t.Error("the client takes half an answer for a whole one")
	}
}
