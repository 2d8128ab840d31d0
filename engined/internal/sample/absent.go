//go:build !sample

package sample

// program is empty: this binary was not built by `make build`.
var program []byte
