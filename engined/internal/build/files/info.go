package files

import (
	"io/fs"
	"time"
)

// fileInfo shows an item to archive/tar.
type fileInfo struct{ it *Item }

func (f fileInfo) Name() string       { return f.it.Base }
func (f fileInfo) Size() int64        { return f.it.Size }
func (f fileInfo) Mode() fs.FileMode  { return f.it.Mode }
func (f fileInfo) ModTime() time.Time { return f.it.ModTime.Truncate(time.Second) }
func (f fileInfo) IsDir() bool        { return f.it.Mode.IsDir() }
func (f fileInfo) Sys() any           { return nil }
