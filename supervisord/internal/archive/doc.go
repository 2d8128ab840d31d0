// Package archive reads and writes images as tar streams: OCI layouts, docker-archives
// (what `docker save` wrote for ten years), and, when writing, both in one.
//
// It owns the two formats and trusts neither: names never become paths, sizes are bounded,
// and what an archive says about its content is checked by digest. It knows the content
// store, but no image store: names are only reported. Start reading at [Import].
//
// Source: OCI image-spec v1.1 image-layout.md; docker image specification v1.2 ("Combined
// Image JSON + Filesystem Changeset Format").
package archive
