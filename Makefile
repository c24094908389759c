# tulle: `make help` lists the targets. `make test` is the whole of what CI runs.
SHELL      := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Programs, tests and the linter share compiled packages only if they are built alike.
export CGO_ENABLED := 0
export GOFLAGS += -trimpath

VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
CACHE      ?= $(or $(TULLE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tulle)
LDFLAGS    := -s -w -X github.com/tulle-mesh/tulle/internal/version.Version=$(VERSION)
GOBUILD    := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'
PACKAGES   := ./...
TULLE_FLAT ?= 45s
TULLE_TENANT_ROUNDS ?= 3

LINT_VERSION := $(shell sed -n 's/^.*golangci-lint\/v2 \(v[^ ]*\).*/\1/p' integration/tools/go.mod)
LINT       := $(CACHE)/golangci-lint-$(LINT_VERSION)/golangci-lint

.PHONY: help build images test lint format generate check unit race flat tenants conformance traefik spire e2e demo demo-cluster cluster bench soak fuzz fuzz-brief

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

build: ## build bin/tulle, bin/tulle-controller and bin/tulle-proxy
	$(GOBUILD) -o bin/ ./cmd/...

images: ## write the container images (OCI indexes for amd64 and arm64) to dist/images
	integration/images.sh '$(VERSION)'

test: lint check unit flat conformance fuzz-brief traefik e2e ## everything but soak: lint, generated files, a minute of fuzzing, unit, golden, standalone, and e2e where it can run

flat: ## the proxy's memory, goroutines and files under load, churn and misbehaving clients, for TULLE_FLAT (default 45s)
	TULLE_FLAT=$(TULLE_FLAT) go test -count=1 -v -timeout 30m -run '^TestMemoryStaysFlat$$' ./cmd/tulle-proxy

tenants: ## what a namespace notices of another that floods the proxy, in TULLE_TENANT_ROUNDS pairs of rounds (default 3, 21 to publish); two idle CPUs
	TULLE_TENANT_ROUNDS=$(TULLE_TENANT_ROUNDS) go test -count=1 -v -timeout 30m -run '^TestTenantsAreApart$$' ./cmd/tulle-proxy

conformance: ## h2spec and gRPC's interoperability cases
	cd integration/conformance && go test -count=1 .

unit: ## unit, golden and standalone tests
	go test $(PACKAGES)

race: ## the data plane's tests with Go's race detector, which takes more memory than one of them allows
	CGO_ENABLED=1 go test -race -skip '^TestIdleTCPConnectionsAreSmall$$' ./internal/proxy/...

traefik: ## stock Traefik's decoder and rule parser, and stock Traefik itself, over all that is rendered for it
	integration/traefik.sh

spire: ## SVIDs from a real SPIRE server and agents
	integration/spire.sh -v

e2e: ## the suites on a real cluster: the embedded one (Linux, root), or the one that KUBECONFIG names
	integration/e2e.sh

lint: $(LINT) ## golangci-lint as pinned in integration/tools
	'$(LINT)' run --allow-parallel-runners $(PACKAGES)

format: $(LINT) ## gofumpt and gci
	'$(LINT)' fmt

$(LINT):
	integration/cached.sh 'golangci-lint-$(LINT_VERSION)' golangci-lint integration/tools github.com/golangci/golangci-lint/v2/cmd/golangci-lint

generate: ## regenerate the protobuf code
	integration/generate.sh

check: ## fail if generated files are not what their sources say, or a module file is not tidy
	integration/check.sh

demo: ## try the mesh on this machine's loopback: no root, no Kubernetes
	$(GOBUILD) -o bin/ ./cmd/tulle
	bin/tulle demo

demo-cluster: build ## the same on an embedded Kubernetes (Linux, root)
	go run ./integration/cmd/demo

cluster: ## start an embedded Kubernetes and print its KUBECONFIG (Linux, root; ^C removes it)
	go run ./integration/cmd/cluster

bench: ## benchmarks of the packages, and the data plane beside nginx, HAProxy and Traefik: docs/performance.md
	go test -run '^$$' -bench . -benchmem $(PACKAGES)
	integration/bench.sh -write docs/performance.md

soak: spire race ## what takes too long for `make test`
	$(MAKE) flat TULLE_FLAT=10m
	$(MAKE) tenants TULLE_TENANT_ROUNDS=21
	TULLE_SOAK=1 go test -count=1 -v -run '^TestSlowIsNotHung$$' ./cmd/tulle-proxy
	TULLE_SOAK=1 integration/e2e.sh

fuzz-brief: ## the parsers of HTTP/1, and Traefik's rules, for a minute
	FUZZTIME=12s integration/fuzz.sh internal/proxy/http1 integration/traefik

fuzz: ## every fuzz target for FUZZTIME each (default 60s)
	integration/fuzz.sh
