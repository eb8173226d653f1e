SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

GO ?= go

# Settings that a command line may change: make fuzz FUZZTIME=5m
FUZZTIME ?= 20s
BENCH ?= .
BENCHCOUNT ?= 6
BENCHOUT ?= bench.txt
TESTTIMEOUT ?= 25m
SLOWTIMEOUT ?= 3h
# The packages that make test tests.
TESTS ?= ./...
# The mutants that make mutants runs, by name; none is all.
MUTANTS ?=
# How many parallel tests of one package run at the same time.
PARALLEL ?= 6

# The systems whose code in keepalive and dcs must at least type-check.
VET_SYSTEMS := linux darwin freebsd netbsd openbsd dragonfly windows illumos solaris aix
VET_ARCH_aix := ppc64

# Tools are built from tools/go.mod into a directory outside the checkout. Its
# name changes with their versions and with Go's, so that nothing stale is run
# and several checkouts share one build.
CACHE := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)
TOOLS_KEY := $(shell { cat tools/go.mod tools/go.sum; $(GO) env GOVERSION GOOS GOARCH; } | cksum | tr ' ' '-')
TOOLS := $(CACHE)/holdfast/tools/$(TOOLS_KEY)

GOLANGCI_LINT := $(TOOLS)/golangci-lint
GOFUMPT := $(TOOLS)/gofumpt
GOVULNCHECK := $(TOOLS)/govulncheck
BENCHSTAT := $(TOOLS)/benchstat

PKG_golangci-lint := github.com/golangci/golangci-lint/v2/cmd/golangci-lint
PKG_gofumpt := mvdan.cc/gofumpt
PKG_govulncheck := golang.org/x/vuln/cmd/govulncheck
PKG_benchstat := golang.org/x/perf/cmd/benchstat

# Prints the values that take more than a command to compute.
MAKEVALUE := $(GO) -C tools run ./makevalue

.PHONY: help
help: ## Show this list
	@$(MAKEVALUE) help $(abspath $(firstword $(MAKEFILE_LIST)))

.PHONY: check
check: fmt-check vet lint vet-systems docs-check prose-check ## Format, vet, lint, import rules, vet for ten systems, generated docs, language

.PHONY: fmt
fmt: $(GOFUMPT) ## Format all Go files
	@$(GOFUMPT) -w .

.PHONY: fmt-check
fmt-check: $(GOFUMPT)
	@unformatted=$$($(GOFUMPT) -l .); \
	if [ -n "$$unformatted" ]; then \
		echo "not formatted (run make fmt):"; echo "$$unformatted"; exit 1; \
	fi

.PHONY: vet
vet:
	$(GO) vet ./...
	$(GO) -C tools vet ./...

.PHONY: vet-systems
vet-systems:
	@$(foreach os,$(VET_SYSTEMS),echo "vet $(os)/$(or $(VET_ARCH_$(os)),amd64)"; \
		GOOS=$(os) GOARCH=$(or $(VET_ARCH_$(os)),amd64) CGO_ENABLED=0 $(GO) vet ./keepalive ./dcs/... ;)

.PHONY: docs
docs: ## Write the generated parts of README.md and docs/
	@$(GO) run ./internal/docgen

.PHONY: docs-check
docs-check:
	@$(GO) run ./internal/docgen -check

.PHONY: prose-check
prose-check:
	@$(GO) run ./internal/prose -check

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Run the linters, depguard's import rules among them
	$(GOLANGCI_LINT) config verify
	$(GOLANGCI_LINT) run ./...

.PHONY: deps
deps: ## Install the system packages that the tests need, as root
	@tools/deps.sh

# The servers under test, each from a module of its own, built once for each
# version. internal/testcluster looks for them in the same place.
SERVERS := $(CACHE)/holdfast/servers

.PHONY: test-servers
test-servers: server-etcd server-consul ## Build etcd and Consul for the tests (the first time takes minutes)

.PHONY: server-etcd
server-etcd:
	@$(call build_server,etcd,go.etcd.io/etcd/server/v3)
	@if [ "$${HOLDFAST_PROFILE:-}" = slow ] || [ "$${HOLDFAST_ETCD_VERSION:-}" = 3.5 ]; then $(call build_server,etcd35,go.etcd.io/etcd/server/v3); fi

.PHONY: server-consul
server-consul:
	@$(call build_server,consul,github.com/hashicorp/consul)

define build_server
version=$$($(MAKEVALUE) version ../testservers/$(1)/go.mod $(2)); \
out="$(SERVERS)/$(1)-$$version/$(1)"; \
if [ ! -x "$$out" ]; then \
	echo "building $(1) (the first time takes minutes)"; \
	mkdir -p "$$(dirname "$$out")"; \
	work=$$(mktemp -d "$$(dirname "$$out")/.build.XXXXXX"); trap 'rm -rf "$$work"' EXIT; \
	$(GO) -C testservers/$(1) build -trimpath -o "$$work/$(1)" $(2); \
	mv -f "$$work/$(1)" "$$out"; \
fi
endef

# How many packages run at the same time, like "-lanes 3 -clusters 2"; empty: as many as the
# machine can take.
CAPACITY ?=

# internal/testrun builds the servers while it runs the tests that need none. Tests
# always run again, because a cached result proves nothing about time.
MAKE_PROGRAM := $(MAKE)
.PHONY: test
test: export HOLDFAST_REQUIRE_SERVERS = 1
test: deps ## Run all tests with the race detector
	@work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	$(GO) build -o "$$work/testrun" ./internal/testrun; \
	"$$work/testrun" -race -parallel $(PARALLEL) -timeout $(TESTTIMEOUT) -make "$(MAKE_PROGRAM)" $(CAPACITY) $(TESTS)

.PHONY: model
model: ## Search models of the elector's rules; a rule that is off shows the shortest history that it prevents
	$(GO) test -count=1 -v -timeout 10m -run '^(TestLeadership|TestRequests|TestFailsafe)$$' ./internal/model -model.deep

.PHONY: mutants
mutants: ## Break each safety rule; its tests must fail (MUTANTS=name for one)
	@$(GO) run ./internal/mutants/cmd $(MUTANTS)

.PHONY: test-slow
test-slow: export HOLDFAST_REQUIRE_SERVERS = 1
test-slow: export HOLDFAST_PROFILE = slow
test-slow: deps test-servers ## Run the suite's slow profile: long faults, many rounds
	$(GO) test -race -count=1 -p 1 -parallel $(PARALLEL) -v -timeout $(SLOWTIMEOUT) ./conformance/... ./dcs/elector/... ./memstore/... ./raftstore/... ./etcd3/... ./consul/... ./zookeeper/... ./internal/failover/... ./examples/failover/...
	HOLDFAST_ETCD_VERSION=3.5 $(GO) test -race -count=1 -p 1 -parallel $(PARALLEL) -v -timeout $(SLOWTIMEOUT) ./etcd3/...
	$(GO) test -count=1 -v -run '^TestManyElectorsOnOneStore$$' ./dcs/elector # bounds memory
	$(GO) test -count=1 -p 1 -parallel $(PARALLEL) -v -timeout $(SLOWTIMEOUT) -run 'TestConformance/Herd' ./etcd3/... # 200 clients are too many for the race detector

# How many rounds make soak runs, and the seed that repeats a run; 0 chooses one.
SOAK ?= 100
SEED ?= 0

.PHONY: soak
soak: ## Inject faults into the disks of a raftstore cluster, and change its members, for SOAK (100) rounds each
	$(GO) test -race -count=1 -v -timeout 24h -run '^TestSoak$$|^TestSoakMembers$$|^TestMembersOfProcesses$$' ./raftstore -soak.rounds=$(SOAK) -soak.members=$(SOAK) -soak.processes=$(SOAK) -soak.seed=$(SEED)

.PHONY: bench
bench: $(BENCHSTAT) ## Run the benchmarks; OLD=file compares with an earlier run
	@packages=$$($(MAKEVALUE) packages .. Benchmark); \
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count $(BENCHCOUNT) -p 1 -timeout 1h $$packages | tee $(BENCHOUT)
	@$(BENCHSTAT) $(OLD) $(BENCHOUT)

.PHONY: fuzz
fuzz: ## Fuzz every target for FUZZTIME (20s)
	@$(MAKEVALUE) functions .. Fuzz | while read -r package target; do \
		echo "fuzz $$package $$target"; \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package </dev/null; \
	done

.PHONY: vuln
vuln: $(GOVULNCHECK) ## Look our dependencies up in Go's vulnerability database (needs the network)
	$(GOVULNCHECK) ./...

.PHONY: tools
tools: $(GOLANGCI_LINT) $(GOFUMPT) $(GOVULNCHECK) $(BENCHSTAT)

# Built in a directory of its own and then renamed, so that an interrupted run leaves
# no part of a tool and two runs at the same time do not collide.
$(TOOLS)/%:
	@echo "building $* (the first time takes minutes)"
	@mkdir -p $(TOOLS); work=$$(mktemp -d $(TOOLS)/.build.XXXXXX); trap 'rm -rf "$$work"' EXIT; \
	$(GO) -C tools build -trimpath -o "$$work/$*" $(PKG_$*); \
	mv -f "$$work/$*" $@
