// Package sample holds the image that the engine carries in its own binary, so that a first
// container needs neither a registry nor a network. `make build` compiles cmd/hello, which
// is all the image consists of, and builds with the tag "sample"; other builds have no
// sample image and say so.
package sample
