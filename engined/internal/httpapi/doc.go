// Package httpapi is the Engine API's edge: it decodes a request, calls one method of
// one service, and encodes the answer. It owns routes, API versions, error bodies,
// hijacking and progress streams; it refuses to know how anything is done.
//
// One file per resource (containers.go, images.go, …) holds the handlers and a method
// that returns its routes; router.go holds the table's mechanics. Source: Docker Engine
// API 1.24 to 1.51.
package httpapi
