# Drover. `make help` lists the targets.

GO      ?= go
VERSION ?= 0.1.0
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null)
LDFLAGS := -s -w -X github.com/drover-ml/drover/internal/version.Version=$(VERSION) -X github.com/drover-ml/drover/internal/version.Commit=$(COMMIT)
BIN     := bin/drover bin/nomad-driver-ml bin/nomad-device-gpu bin/nomad-plugin-conformance

.DEFAULT_GOAL := help
.PHONY: help build demo dev test test-go test-python e2e bench lint generate verify fuzz clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the binaries into bin/.
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/drover ./orchestrator
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/nomad-driver-ml ./task-driver
	@# NVML is looked up at run time: its symbols must not be bound at start.
	CGO_ENABLED=1 CGO_CFLAGS=-Wno-deprecated-declarations $(GO) build -trimpath -ldflags '$(LDFLAGS) -extldflags=-Wl,-z,lazy' -o bin/nomad-device-gpu ./device-plugin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/nomad-plugin-conformance ./nomadplugin/conformance/cmd/nomad-plugin-conformance

demo: build ## Take a real data set from pipeline file to served predictions.
	./examples/digits/demo.sh

dev: build ## Run the whole platform in the foreground, with its state in .drover/.
	bin/drover dev

test: lint test-go test-python ## Run every test, with the race detector.

test-go: build
	@# It ends with what was skipped, and why.
	$(GO) tool gotestsum --format pkgname-and-test-fails -- -race -timeout 14m ./...

test-python:
	cd python && PYTHONPATH=src python3 -m unittest discover -s tests
	python3 -m unittest discover -s examples/digits/tests

e2e: build ## Run the end-to-end suite alone: on the devcluster, and on Nomad if NOMAD_ADDR or a nomad binary is there.
	$(GO) test -count=1 -v -timeout 30m ./internal/e2e/...

bench: build ## Measure; docs/benchmarks.md says how and what came out.
	$(GO) run ./internal/bench

lint: ## Check format and common mistakes.
	@unformatted=$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); test -z "$$unformatted" || { echo "not formatted: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

generate: ## Generate the protobuf code anew.
	$(GO) generate ./...

verify: generate ## Fail if generated files are stale.
	git diff --exit-code

fuzz: ## Fuzz every parser for FUZZTIME (default 30s) each.
	@FUZZTIME=$${FUZZTIME:-30s}; for p in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p 2>/dev/null | grep '^Fuzz'); do \
	    echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $$FUZZTIME $$p || exit 1; done; done

clean: ## Remove what was built, and the development state.
	rm -rf bin .drover
