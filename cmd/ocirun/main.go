// Command ocirun is the OCI runtime; see package strata/ocirun.
package main

import (
	"context"
	"os"

	"strata/ocirun"
)

func main() {
	os.Exit(ocirun.Run(context.Background(), ocirun.Config{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	}))
}
