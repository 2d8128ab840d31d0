package httpapi

import (
	"net/http"
	"strings"
)

// notManager is what dockerd answers on every swarm route of a node that is in no swarm.
const notManager = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again."

// absentAPI answers for what this engine does not have, as dockerd does where it is
// switched off.
type absentAPI struct{}

func (absentAPI) routes() []route {
	var out []route
	for _, row := range []string{
		"GET /swarm", "POST /swarm/leave", "POST /swarm/update", "GET /swarm/unlockkey", "POST /swarm/unlock",
		"GET /nodes", "GET /nodes/{id}", "DELETE /nodes/{id}", "POST /nodes/{id}/update",
		"GET /services", "GET /services/{id}", "POST /services/create", "DELETE /services/{id}", "POST /services/{id}/update", "GET /services/{id}/logs",
		"GET /tasks", "GET /tasks/{id}", "GET /tasks/{id}/logs",
		"GET /secrets", "POST /secrets/create", "GET /secrets/{id}", "DELETE /secrets/{id}", "POST /secrets/{id}/update",
		"GET /configs", "POST /configs/create", "GET /configs/{id}", "DELETE /configs/{id}", "POST /configs/{id}/update",
	} {
		out = append(out, absent(row, http.StatusServiceUnavailable, notManager))
	}
	for _, row := range []string{
		"POST /swarm/init", "POST /swarm/join", "GET /plugins/privileges", "POST /plugins/pull", "POST /plugins/create",
		"POST /containers/{name}/checkpoints", "GET /containers/{name}/checkpoints", "DELETE /containers/{name}/checkpoints/{id}",
	} {
		out = append(out, absent(row, http.StatusNotImplemented, "not implemented"))
	}
	return append(out, route{http.MethodGet, "/plugins", func(w http.ResponseWriter, _ *request) error {
		return writeJSON(w, http.StatusOK, []any{})
	}}, route{http.MethodGet, "/plugins/{name...}", func(_ http.ResponseWriter, r *request) error {
		return &statusError{http.StatusNotFound, "plugin \"" + strings.TrimSuffix(r.Var("name"), "/json") + "\" not found"}
	}})
}

func absent(row string, status int, text string) route {
	method, pattern, _ := strings.Cut(row, " ")
	return route{method, pattern, func(http.ResponseWriter, *request) error { return &statusError{status, text} }}
}
