module strata/integration

go 1.26.0

require (
	github.com/creack/pty v1.1.24
	github.com/opencontainers/runtime-spec v1.3.0
	golang.org/x/net v0.60.0
	golang.org/x/sys v0.49.0
)
