# The two commands are `make demo` and `make test`; `make help` lists all.

export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

# Where the demo keeps its registry: `embedded` (nothing to install) or `cluster` (real Redis and ZooKeeper).
BACKEND ?= embedded
# How many schedules of faults `make sim` runs, and for how long `make soak` goes on.
SEEDS ?= 10000
MINUTES ?= 60
# How long `make fuzz` feeds each target.
SECONDS ?= 60
# More arguments for `rsf dev`.
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: demo fuzz test test-tools reliability lint fmt sim sim-balance sim-control sim-guards soak bench bench-pump bench-memory bench-balance bench-instructions bench-wire bench-hostile clean help

demo: ## start RSF and a small shop on this machine; BACKEND=cluster with real Redis and ZooKeeper
ifeq ($(BACKEND),cluster)
	deploy/install-test-tools.sh redis zookeeper
else ifneq ($(BACKEND),embedded)
	$(error BACKEND is embedded or cluster, not $(BACKEND))
endif
	cargo run --package rsf-cli --bin rsf -- dev $(if $(filter cluster,$(BACKEND)),--backend cluster) $(ARGS)

test: test-tools ## install what is missing by name, then run all tests; the last line counts them
	@tests/run.sh

test-tools: ## install redis-server, zookeeper, curl, PHP, nghttp2, gRPC's Python and Node and cargo-nextest where they are missing
	@deploy/install-test-tools.sh redis zookeeper http nghttp2 python node nextest

lint: ## check format, clippy's warnings, licences and sources of dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --package rsf-suite --test reliability -- -D warnings
	@deploy/install-test-tools.sh deny
	cargo fetch --quiet
	cargo deny --offline check --hide-inclusion-graph bans licenses sources

fmt: ## format the code
	cargo fmt --all

reliability: test-tools ## break RSF's parts under load, one case after the other; CASES=T23,T28 runs some of them
	@tests/reliability.sh $(CASES)

sim: sim-balance sim-control ## simulate balancers and control path in virtual time, a few minutes; SEED=7

sim-balance: ## compare the balancers, about a minute; SEED=7, UPDATE_DOCS=1 writes docs/balancing.md
	@cargo run --quiet --package rsf-core --features simulation --example balance

sim-control: ## break the control path with SEEDS=10000 schedules of faults (release build); SEED=7 replays one with its trace
	@cargo run --quiet --release --package rsf-simulation -- $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

sim-guards: ## take each guard of the control path away; some schedule of faults has to break (release build)
	@cargo run --quiet --release --package rsf-simulation -- --guards --seeds 1000

soak: ## go on with fresh schedules of faults for MINUTES=60 (release build)
	@cargo run --quiet --release --package rsf-simulation -- --minutes $(MINUTES)

fuzz: ## feed the wire engine at random, SECONDS=60 a target; SEED=7 begins with that one
	@RSF_FUZZ_SECONDS=$(SECONDS) $(if $(SEED),RSF_FUZZ_SEED=$(SEED)) cargo test --quiet --package rsf-wire --test random fuzz -- --nocapture --test-threads 4

bench: ## compare a governed call with bare tonic (release build, then about 3 min); ARGS=--help lists options
	cargo bench --package rsf-benches --bench rpc -- $(ARGS)

bench-memory: ## look at the memory that 100 000 pending calls take in a consumer
	cargo bench --package rsf-benches --bench rpc -- --memory $(ARGS)

bench-instructions: ## count instructions a call, client and server, with valgrind's callgrind where it is installed
	cargo bench --package rsf-benches --bench rpc -- --instructions $(ARGS)

bench-balance: ## measure the choice of an instance among 20, 100 and 10 000 (release build, then about a minute)
	cargo bench --package rsf-benches --bench balance

bench-wire: ## measure the wire engine alone against its bars: tonic, tarpc, plain TCP (release build, then about 5 min)
	cargo build --release --manifest-path benches/tarpc/Cargo.toml --target-dir $(or $(CARGO_TARGET_DIR),target)/tarpc
	cargo bench --package rsf-benches --bench rpc -- --bars $(ARGS)

bench-hostile: ## attack a server of the wire engine and look at its honest callers' p99 (release build, then about 5 min)
	cargo bench --package rsf-benches --bench rpc -- --hostile $(ARGS)

bench-pump: ## run a pump on 300 000 leases of ten services: memory, sweeps, changes (release build, then about 3 min)
	cargo bench --package rsf-pump --bench fleet

clean: ## delete everything that was built, and what failed tests left
	cargo clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "make %-19s%s\n", $$1, $$2 }'
