package buildclient

import (
	"strings"

	"google.golang.org/grpc/status"

	"strata/pkg/buildkit"
)

// Explain returns the text of an error of Run or of a control API without gRPC's own words,
// and the lines of the Dockerfile that it is about, or "".
func Explain(err error) (text, excerpt string) {
	st, ok := status.FromError(err)
	if !ok {
		return err.Error(), ""
	}
	for _, s := range buildkit.DetailsOf(err).Sources {
		excerpt += s.Excerpt()
	}
	return strings.TrimPrefix(st.Message(), "failed to solve: "), excerpt
}
