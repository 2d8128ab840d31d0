package httpapi

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/websocket"

	"strata/engined/internal/containers"
	"strata/engined/internal/logs"
	"strata/pkg/ctxlog"
	"strata/pkg/stdcopy"
)

// attachWebsocket joins a websocket with the container's streams. There are no frames of
// ours in it: stdout and stderr come as they are, in binary messages from API version 1.28
// on and in text messages before. Up to 1.41 a client gets all streams, whatever it asks for.
func (a containersAPI) attachWebsocket(w http.ResponseWriter, r *request) error {
	keys, err := detachKeys(r.Query("detachKeys"))
	if err != nil {
		return err
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return invalid("attach over websocket: the request is no websocket handshake")
	}
	if err := sameOrigin(r); err != nil {
		return err
	}
	req := containers.AttachRequest{Stdin: true, Stdout: true, Stderr: true, DetachKeys: keys}
	if r.AtLeast("1.42") {
		req.Stdin, req.Stdout, req.Stderr = r.Bool("stdin"), r.Bool("stdout"), r.Bool("stderr")
	}
	wanted := req
	if !r.Bool("stream") {
		req.Stdin, req.Stdout, req.Stderr = false, false, false
	}
	at, err := a.svc.Attach(r.Context(), r.Var("name"), req)
	if err != nil {
		return err
	}
	defer at.Close()
	var failure error
	serve := websocket.Server{Handler: func(conn *websocket.Conn) { failure = a.joinWebsocket(conn, r, at, wanted) }}
	if tw, ok := w.(*trackingWriter); ok {
		tw.began = true
		w = tw.ResponseWriter // the library takes the connection over itself
	}
	serve.ServeHTTP(w, r.Request)
	return failure
}

// sameOrigin refuses pages of other origins: a browser would connect them to an engine that
// listens on TCP, for its same-origin policy does not cover websockets. Nobody reaches a
// unix socket from a browser.
func sameOrigin(r *request) error {
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && addr.Network() == "unix" {
		return nil
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	if u, err := url.Parse(origin); err != nil || !strings.EqualFold(u.Host, r.Host) {
		return &statusError{http.StatusForbidden, fmt.Sprintf("attach over websocket: the page's origin %q is not this engine", origin)}
	}
	return nil
}

// joinWebsocket copies between an open websocket and a container.
func (a containersAPI) joinWebsocket(conn *websocket.Conn, r *request, at *containers.Attachment, wanted containers.AttachRequest) error {
	if r.AtLeast("1.28") {
		conn.PayloadType = websocket.BinaryFrame
	}
	ctx := r.Context()
	if r.Bool("logs") {
		options := logs.Options{Stdout: wanted.Stdout, Stderr: wanted.Stderr, Tail: logs.All}
		if err := a.copyLogs(ctx, conn, at.Container, logRequest{Options: options}); err != nil {
			ctxlog.From(ctx).Debug("logs before an attachment broke off", ctxlog.Error, err)
		}
	}
	if !r.Bool("stream") {
		return nil
	}
	at.Attached()
	process, err := at.Conn(ctx)
	if err != nil || process == nil {
		return err
	}
	go func() { // ends when the client or the process goes away
		_, _ = io.Copy(process, conn) // however it ended
		_ = process.Close()           // a websocket has no half-close: the client is gone
	}()
	if at.Container.Definition().Config.Tty {
		_, err = io.Copy(conn, process)
	} else {
		_, err = stdcopy.Demux(conn, conn, process)
	}
	return err
}
