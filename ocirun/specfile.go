package ocirun

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// specFile is config.json with the seccomp section left as it is: parsing it is most
// of the work, and needless if its filter is in the cache.
type specFile struct {
	specs.Spec
	Linux *linuxSection `json:"linux"`
}

type linuxSection struct {
	specs.Linux
	Seccomp json.RawMessage `json:"seccomp"`
}

// loadSpec reads the spec of a bundle. Its Linux.Seccomp is nil; the section comes
// back as it stands in the file.
func loadSpec(bundle string) (*specs.Spec, []byte, error) {
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("JSON specification file config.json not found")
	}
	if err != nil {
		return nil, nil, err
	}
	var f specFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, nil, fmt.Errorf("parse config.json: %w", err)
	}
	s := f.Spec
	var profile []byte
	if f.Linux != nil {
		s.Linux = &f.Linux.Linux
		if p := f.Linux.Seccomp; len(p) > 0 && string(p) != "null" {
			profile = p
		}
	}
	return &s, profile, nil
}
