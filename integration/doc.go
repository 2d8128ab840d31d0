// Package integration is the root of the black-box tests: they run the binaries of
// STRATA_BIN (make test sets it) and import none of them. It is a module of its own, so that
// clients used as oracles do not weigh on the product.
package integration
