package sample

import (
	"archive/tar"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestLayoutNamesEveryBlobByItsDigest(t *testing.T) {
	r, err := layout([]byte("#!program"))
	if err != nil {
		t.Fatal(err)
	}
	blobs := 0
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if hex, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok {
			blobs++
			if digest.FromBytes(data).Encoded() != hex {
				t.Errorf("%s holds %s", h.Name, digest.FromBytes(data))
			}
		}
	}
	if blobs != 3 {
		t.Errorf("blobs = %d, want layer, configuration and manifest", blobs)
	}
}
