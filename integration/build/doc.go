// Package build holds the black-box tests of image builds: "engine build" and the stock
// docker client's classic builder against a private Strata.
package build
