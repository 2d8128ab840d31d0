# Strata. `make` alone prints the targets.

SHELL       := /bin/bash -euo pipefail
VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS     := -s -w -buildid= -X strata/pkg/version.Version=$(VERSION)
GO_BUILD    := CGO_ENABLED=0 go build -trimpath -ldflags='$(LDFLAGS)'
TOOL        := go tool -modfile=.ci/tools/go.mod
SAMPLE      := engined/internal/sample/hello.gz
BINARIES    := bin/engine bin/engined bin/supervisord bin/containerd-shim-strata-v2 bin/ocirun bin/strata-init
PREFIX      ?= /usr/local
# Packages whose tests need root and real kernel objects are in `test`; `check` runs -short.
T ?=
D ?= 30s

.PHONY: help
help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: $(BINARIES) ## build the static binaries into bin/

.PHONY: FORCE
FORCE:

$(SAMPLE): FORCE
	@mkdir -p bin
	@$(GO_BUILD) -o bin/.hello ./cmd/hello
	@gzip -9nc bin/.hello >bin/.hello.gz
	@cmp -s bin/.hello.gz $@ || cp bin/.hello.gz $@

# The documentation generators of the flag library are not for the binaries.
bin/engine: FORCE
	$(GO_BUILD) -tags urfave_cli_no_docs,grpcnotrace -o $@ ./cmd/engine
bin/engined: FORCE $(SAMPLE)
	$(GO_BUILD) -tags sample,urfave_cli_no_docs,grpcnotrace -o $@ ./cmd/engined
bin/supervisord: FORCE
	$(GO_BUILD) -tags urfave_cli_no_docs -o $@ ./cmd/supervisord
bin/containerd-shim-strata-v2: FORCE
	$(GO_BUILD) -tags no_grpc -o $@ ./cmd/shim
bin/ocirun: FORCE
	$(GO_BUILD) -o $@ ./cmd/ocirun
bin/strata-init: FORCE
	$(GO_BUILD) -o $@ ./cmd/init

.PHONY: run
run: build ## build, start the daemons under a private root, run a container, show what happened
	@packaging/demo.sh

.PHONY: dev
dev: build ## both daemons in the foreground under ./.dev
	@packaging/dev.sh

.PHONY: check
check: ## format, vet, boundaries, short unit tests: before every commit
	@files=$$($(TOOL) gofumpt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); [ -z "$$files" ] || { echo "not formatted; run make fmt: $$files"; exit 1; }
	go vet ./...
	cd integration && go vet ./...
	go test -short ./...

.PHONY: test
test: build ## unit and integration tests with the real binaries (root; installs what it needs)
	.ci/deps
	.ci/test

.PHONY: golden
golden: ## rewrite the golden files; review the diff
	go test ./... -run 'Golden' -update

.PHONY: fuzz
fuzz: ## make fuzz T=./pkg/stdcopy D=30s: run the fuzz targets of a package
	@for f in $$(go test $(T) -list '^Fuzz' | grep ^Fuzz); do go test $(T) -run '^$$' -fuzz "^$$f$$" -fuzztime $(D); done

.PHONY: bench
bench: build ## paired figures beside the stock stack, into bench.json
	.ci/deps
	integration/bench/bench.sh

.PHONY: crash
crash: build ## kill the processes at every failpoint, and at random; see that nothing leaks or is lost
	.ci/deps
	cd integration && STRATA_CRASH=all STRATA_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 15m ./crash

.PHONY: vm
vm: build ## the story in a Debian VM with systemd and cgroup v2
	integration/vm/vm.sh
	integration/vm/networks.sh

.PHONY: lint
lint: ## golangci-lint with .golangci.yml
	go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.12.2 run

.PHONY: fmt
fmt: ## format the tree
	$(TOOL) gofumpt -w $$(git ls-files '*.go' | grep -v '\.pb\.go$$')

.PHONY: proto
proto: ## regenerate the Go of proto/ (needs protobuf-compiler)
	.ci/proto.sh

.PHONY: install
install: build ## binaries, units and example configuration below PREFIX and /etc
	packaging/install.sh '$(PREFIX)'

.PHONY: clean
clean: ## remove what the build made
	rm -rf bin $(SAMPLE) bench.json
