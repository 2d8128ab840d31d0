package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"

	"strata/engined/internal/containers"
	"strata/engined/internal/images"
	"strata/pkg/cleanup"
	"strata/pkg/ctxlog"
)

// commitAPI serves POST /commit, where a container becomes an image.
type commitAPI struct {
	containers *containers.Service
	images     *images.Service
}

func (a commitAPI) routes() []route {
	return []route{{http.MethodPost, "/commit", a.commit}}
}

type commitResponse struct {
	ID string `json:"Id"`
}

func (a commitAPI) commit(w http.ResponseWriter, r *request) error {
	var wish *container.Config
	if err := r.Decode(&wish); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	name := ""
	if repo := r.Query("repo"); repo != "" {
		nt, err := images.ParseName(repo, r.Query("tag"))
		if err != nil {
			return err
		}
		name = nt.String()
	}
	c, err := a.containers.Get(r.Query("container"))
	if err != nil {
		return err
	}
	d := c.Definition()
	config, err := committed(d.Config, wish)
	if err != nil {
		return err
	}
	ctx := r.Context()
	if pause := !r.URL.Query().Has("pause") || r.Bool("pause"); pause && c.State().Status == containers.Running {
		if err := a.containers.Pause(ctx, c.ID); err != nil {
			return err
		}
		defer func() {
			cctx, cancel := cleanup.Context(ctx)
			defer cancel()
			if err := a.containers.Unpause(cctx, c.ID); err != nil {
				ctxlog.From(ctx).Error("container stays paused after a commit", ctxlog.ContainerID, c.ID, ctxlog.Error, err)
			}
		}()
	}
	img, err := a.images.Commit(ctx, images.CommitRequest{
		SnapshotKey: c.ID, BaseRef: d.Image.ID.String(), Config: config, Changes: r.URL.Query()["changes"], Name: name,
		Author: r.Query("author"), Comment: r.Query("comment"), CreatedBy: strings.Join(append(slices.Clone(d.Config.Entrypoint), d.Config.Cmd...), " "),
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, commitResponse{img.ID.String()})
}

// committed returns the "config" object of a new image: the container's, with what the
// request says instead.
func committed(have, wish *container.Config) (json.RawMessage, error) {
	var out v1.DockerOCIImageConfig
	raw, err := json.Marshal(have)
	if err != nil {
		return nil, fmt.Errorf("container config: %w", err)
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("container config: %w", err)
	}
	if wish == nil {
		return json.Marshal(out)
	}
	if wish.Env != nil {
		for _, e := range wish.Env {
			key, _, _ := strings.Cut(e, "=")
			out.Env = append(slices.DeleteFunc(slices.Clone(out.Env), func(o string) bool { return strings.HasPrefix(o, key+"=") }), e)
		}
		wish.Env = nil
	}
	over, err := json.Marshal(wish)
	if err != nil {
		return nil, fmt.Errorf("commit config: %w", err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(over, &fields); err != nil {
		return nil, fmt.Errorf("commit config: %w", err)
	}
	for k, v := range fields { // what the request leaves empty is not a wish
		if s := string(v); s == "null" || s == `""` || s == "[]" || s == "{}" {
			delete(fields, k)
		}
	}
	if over, err = json.Marshal(fields); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(over, &out); err != nil { // labels, ports and volumes are added by key
		return nil, fmt.Errorf("commit config: %w", err)
	}
	return json.Marshal(out)
}
