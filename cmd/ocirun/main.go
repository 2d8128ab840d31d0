// Command ocirun is the OCI runtime; see package strata/ocirun.
package main

import (
	"context"
	"os"
	"runtime"

	"strata/ocirun"
)

func main() {
	// One thing is done after the other: more threads only cost their start.
	runtime.GOMAXPROCS(1)
	os.Exit(ocirun.Run(context.Background(), ocirun.Config{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	}))
}
