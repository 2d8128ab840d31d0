// Command hello is the program of the embedded sample image strata/hello: it says where it
// runs, and can serve the same over HTTP. It is static and needs no file in its root.
//
//	hello               say where this runs
//	hello serve [ADDR]  answer every HTTP request with it (default :80)
//	hello exit N        end with exit code N
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 0:
		describe(os.Stdout)
		return nil
	case args[0] == "serve" && len(args) <= 2:
		addr := ":80"
		if len(args) == 2 {
			addr = args[1]
		}
		return serve(addr)
	case args[0] == "exit" && len(args) == 2:
		code, err := strconv.Atoi(args[1])
		if err != nil {
			return fmt.Errorf("exit code %q: %w", args[1], err)
		}
		os.Exit(code)
	}
	return errors.New("usage: hello [serve [ADDR] | exit N]")
}

// describe writes what a process can see of its container.
func describe(w io.Writer) {
	host, _ := os.Hostname() // an empty name says as much
	fmt.Fprintf(w, "Hello from a Strata container.\n\n")
	row := func(name, value string) { fmt.Fprintf(w, "  %-12s %s\n", name, value) }
	row("hostname", host)
	row("process", fmt.Sprintf("pid %d, uid %d, gid %d", os.Getpid(), os.Getuid(), os.Getgid()))
	row("kernel", firstLine("/proc/sys/kernel/osrelease"))
	row("cgroup", firstLine("/proc/self/cgroup"))
	for _, line := range []string{"CapEff", "NoNewPrivs", "Seccomp"} {
		row(strings.ToLower(line), status(line))
	}
	links, _ := filepath.Glob("/proc/self/ns/*") // the pattern is well formed
	for _, l := range links {
		if target, err := os.Readlink(l); err == nil && !strings.Contains(l, "_for_") {
			row("namespace", target)
		}
	}
	addrs, _ := net.InterfaceAddrs() // none is an answer
	for _, a := range addrs {
		row("address", a.String())
	}
}

func firstLine(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return line
}

// status returns one line of proc_pid_status(5).
func status(key string) string {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func serve(addr string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	srv := &http.Server{
		Addr:              addr,
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Printf("%s %s %s\n", r.RemoteAddr, r.Method, r.URL.Path)
			describe(w)
		}),
	}
	ended := make(chan error, 1) // one result: serve returns it or has gone
	go func() { ended <- srv.ListenAndServe() }()
	fmt.Printf("serving on %s\n", addr)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return srv.Close()
	}
}
