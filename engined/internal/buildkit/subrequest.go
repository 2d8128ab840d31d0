package buildkit

import (
	"context"
	"encoding/json"
)

// subrequest answers a question about a Dockerfile instead of building it.
func (j *job) subrequest(_ context.Context, id string, _ *result) (map[string][]byte, error) {
	switch id {
	case "frontend.subrequests.describe":
		raw, err := json.Marshal([]map[string]any{{
			"Name": id, "Version": "1.0.0", "Type": "rpc", "Description": "List available subrequest types",
		}})
		return map[string][]byte{"result.json": raw, "result.txt": []byte(id + "\n"), "version": []byte("1.0.0")}, err
	}
	return nil, unimplemented("subrequest " + id)
}
