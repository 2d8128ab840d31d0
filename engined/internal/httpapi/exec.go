package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/moby/moby/api/types/container"

	"strata/engined/internal/containers"
	"strata/engined/internal/execs"
	"strata/pkg/shimio"
)

// execAPI serves extra processes in containers.
type execAPI struct {
	svc *execs.Service
}

func (a execAPI) routes() []route {
	return []route{
		{http.MethodPost, "/containers/{name}/exec", a.create},
		{http.MethodPost, "/exec/{id}/start", a.start},
		{http.MethodPost, "/exec/{id}/resize", a.resize},
		{http.MethodGet, "/exec/{id}/json", a.inspect},
	}
}

func (a execAPI) create(w http.ResponseWriter, r *request) error {
	var body container.ExecCreateRequest
	if err := r.Decode(&body); err != nil {
		return emptyBody(err)
	}
	if _, err := detachKeys(body.DetachKeys); err != nil {
		return err
	}
	id, err := a.svc.Create(r.Var("name"), body)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, container.ExecCreateResponse{ID: id})
}

func (a execAPI) start(w http.ResponseWriter, r *request) error {
	var body container.ExecStartRequest
	if err := r.Decode(&body); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	e, err := a.svc.Get(r.Var("id"))
	if err != nil {
		return err
	}
	if st := e.Status(); st.Running || st.ExitCode != nil {
		_, err := a.svc.Start(r.Context(), e.ID, execs.StartRequest{Detach: true}) // says why not
		return err
	}
	if !e.Container.State().Status.HasTask() || e.Container.State().Status != containers.Running {
		_, err := a.svc.Start(r.Context(), e.ID, execs.StartRequest{Detach: true}) // says why not
		return err
	}
	// What began is finished even if the client goes away.
	ctx := context.WithoutCancel(r.Context())
	if body.Detach {
		if _, err := a.svc.Start(ctx, e.ID, execs.StartRequest{Detach: true, ConsoleSize: body.ConsoleSize}); err != nil {
			return startError(err)
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}
	keys, err := detachKeys(e.Request.DetachKeys)
	if err != nil {
		return err
	}
	hello := shimio.Hello{Stdin: e.Request.AttachStdin, Stdout: e.Request.AttachStdout, Stderr: e.Request.AttachStderr}
	if e.Request.Tty {
		hello.DetachKeys = keys
	}
	conn, err := hijack(w, r, e.Request.Tty)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // everything was written
	process, err := a.svc.Start(ctx, e.ID, execs.StartRequest{Hello: hello, ConsoleSize: body.ConsoleSize})
	if err != nil {
		return a.inBand(conn, e, err)
	}
	defer func() { _ = process.Close() }() // the process's side notices
	defer e.StreamsEnded()
	return containers.Splice(conn, process)
}

// inBand tells a client that reads a raw stream already why there is nothing to read.
func (a execAPI) inBand(conn io.Writer, e *execs.Exec, err error) error {
	text := "OCI runtime exec failed: " + message(err) + "\r\n"
	if !e.Request.Tty {
		n := len(text)
		text = string([]byte{2, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) + text
	}
	if _, werr := io.WriteString(conn, text); werr != nil {
		return fmt.Errorf("answer in band: %w", errors.Join(err, werr))
	}
	return nil
}

func (a execAPI) resize(w http.ResponseWriter, r *request) error {
	height, width, err := windowSize(r)
	if err != nil {
		return err
	}
	if err := a.svc.Resize(r.Context(), r.Var("id"), width, height); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (a execAPI) inspect(w http.ResponseWriter, r *request) error {
	e, err := a.svc.Get(r.Var("id"))
	if err != nil {
		return err
	}
	st := e.Settled(r.Context())
	out := container.ExecInspectResponse{
		ID: e.ID, Running: st.Running, ExitCode: st.ExitCode, OpenStdin: e.Request.AttachStdin, OpenStdout: e.Request.AttachStdout,
		OpenStderr: e.Request.AttachStderr, CanRemove: st.ExitCode != nil, ContainerID: e.Container.ID, Pid: st.PID,
		ProcessConfig: &container.ExecProcessConfig{
			Tty: e.Request.Tty, Entrypoint: e.Request.Cmd[0], Arguments: e.Request.Cmd[1:], Privileged: &e.Request.Privileged, User: e.Request.User,
		},
	}
	return writeJSON(w, http.StatusOK, out)
}
