//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command containerd-shim-strata-v2 is the shim of the runtime io.containerd.strata.v2.
//
//	containerd-shim-strata-v2 -namespace NS -address A -publish-binary B -id ID [-bundle P] [-debug] start|delete
//	containerd-shim-strata-v2 -v | -info
//	containerd-shim-strata-v2 -logger 1 KEY VALUE…    (run by a foreign shim, see pkg/shimio)
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"strata/pkg/version"
	"strata/shim"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", "containerd-shim-strata-v2", err)
		os.Exit(1)
	}
}

// isLogger reports whether the arguments are a logger's. containerd's shims give the pairs
// of a binary:// URI in no order (they range over a map), so the mark may be anywhere.
//
// Source: containerd 1.6 pkg/process/io.go, NewBinaryIO.
func isLogger(args []string) bool {
	for i := 0; i < len(args); i += 2 {
		if args[i] == "-logger" {
			return true
		}
	}
	return false
}

func run(ctx context.Context, args []string) error {
	if isLogger(args) {
		return shim.Logger(ctx, args)
	}
	cfg := shim.Config{TTRPCAddress: os.Getenv("TTRPC_ADDRESS")}
	flags := flag.NewFlagSet("containerd-shim-strata-v2", flag.ContinueOnError)
	flags.StringVar(&cfg.Namespace, "namespace", "", "namespace that owns the container")
	flags.StringVar(&cfg.Address, "address", "", "gRPC address of the daemon")
	flags.StringVar(&cfg.Publisher, "publish-binary", "", "binary of the daemon (not used: events go over ttrpc)")
	flags.StringVar(&cfg.ContainerID, "id", "", "id of the container")
	flags.StringVar(&cfg.Bundle, "bundle", "", "path of the bundle (default: the working directory)")
	flags.BoolVar(&cfg.Debug, "debug", false, "log at debug level")
	showVersion := flags.Bool("v", false, "print the version")
	info := flags.Bool("info", false, "read runtime options from stdin and write a RuntimeInfo")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case *showVersion:
		_, err := fmt.Printf("containerd-shim-strata-v2:\n  Version:  %s\n", version.Version)
		return err
	case *info:
		return shim.Info(ctx, os.Stdin, os.Stdout)
	case cfg.Namespace == "" || cfg.ContainerID == "":
		return fmt.Errorf("-namespace and -id are required")
	}
	switch action := flags.Arg(0); action {
	case "start":
		return shim.Start(ctx, cfg, os.Stdin, os.Stdout)
	case "delete":
		return shim.Delete(ctx, cfg, os.Stdout)
	case "":
		return shim.Serve(ctx, cfg)
	default:
		return fmt.Errorf("action %q: want start or delete", action)
	}
}
