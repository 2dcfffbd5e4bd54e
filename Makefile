# `make` alone tells what there is to make.

SHELL = /bin/sh
.DEFAULT_GOAL = help
.PHONY: help dev test lint bench bench-load yardstick fuzz monitoring-check api-lint api-check prerequisites rust

help:
	@echo 'make dev            start Fleetgate with a demo fleet on 127.0.0.1:8080; Ctrl-C stops it'
	@echo 'make test           run every test against a private PostgreSQL'
	@echo 'make lint           check formatting, lints, documentation, dependencies and shell scripts'
	@echo 'make bench          measure the parts of a decision one by one (criterion)'
	@echo 'make bench-load     measure against what the machine gives; BENCH="authz events" chooses'
	@echo 'make yardstick      measure against commit f4e3b7c, in turn; BENCH chooses as above'
	@echo 'make fuzz           fuzz each target for FUZZ_SECONDS (default 30)'
	@echo 'make monitoring-check  test the alerts with promtool (Debian package prometheus)'
	@echo 'make api-lint       lint the description of the HTTP API (Node.js)'
	@echo 'make api-check      lint the description of the HTTP API, and hold a running service to it (Node.js, Python)'
	@echo 'make prerequisites  install what is missing: a C compiler, PostgreSQL'

# A debug build: it is ready soonest, and Cargo.toml has the password hash optimized in it too.
# exec: Ctrl-C then goes to Fleetgate alone, and its exit code is the recipe's.
dev: prerequisites
	cargo build --locked
	@exec "$(TARGET)/debug/fleetgate" dev

# Everything that the tests make goes below one temporary directory. A database that a test program
# owns is removed just after that program ends, so wait for it. Others may walk through the directory
# because PostgreSQL runs as another user where the tests run as root. Many tests wait more than they compute, so
# twice as many run at a time as there are processors.
test: rust
	@./docker/install-prerequisites.sh --for-tests
	@directory=$$(mktemp -d /tmp/fleetgate-test.XXXXXX) && chmod 711 "$$directory" && \
	trap 'rm -rf "$$directory"' EXIT && trap 'exit 130' INT && trap 'exit 143' TERM HUP && \
	threads=$${RUST_TEST_THREADS:-$$(($$(nproc) * 2))} && \
	status=0 && { TMPDIR=$$directory RUST_TEST_THREADS=$$threads cargo test --locked || status=$$?; } && \
	waited=0 && while [ $$waited -lt 300 ] && ls -d "$$directory"/fleetgate-* >/dev/null 2>&1; do \
	    sleep 0.1; waited=$$((waited + 1)); \
	done && exit $$status

lint: prerequisites
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --locked check bans licenses sources; \
	else echo 'SKIPPED: cargo-deny is missing. docker/install-checkers.sh installs it.' >&2; \
	    test "$${CI:-}" != true; fi
	@if command -v shellcheck >/dev/null; then shellcheck docker/*.sh tests/api/*.sh .ci/run; \
	else echo 'SKIPPED: shellcheck is missing. docker/install-checkers.sh installs it.' >&2; \
	    test "$${CI:-}" != true; fi

# Minutes, on an otherwise idle machine. docs/PERFORMANCE.md tells what the figures mean.
bench-load: prerequisites
	cargo bench --locked --bench load -- $(BENCH)

# Both sides run `bench-load` three times each: ten minutes and more, on an otherwise idle machine.
yardstick: prerequisites
	cargo bench --locked --bench yardstick -- $(BENCH)

# For one group: cargo bench --bench micro -- topics
bench: prerequisites
	cargo bench --locked --bench micro

FUZZ_SECONDS ?= 30
FUZZ_TARGETS = authn_body authz_body event_body payload topic_filter password_hash foreign_hash device_token import_line import_file

# On stable Rust, without sanitizer: there is no unsafe code here to watch.
fuzz: rust
	@./docker/install-prerequisites.sh --for-fuzz
	@cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked
	@set -e; for target in $(FUZZ_TARGETS); do \
	    mkdir -p tests/fuzz/corpus/$$target; \
	    cargo fuzz run --fuzz-dir tests/fuzz -s none $$target \
	        tests/fuzz/corpus/$$target tests/fuzz/seeds/$$target \
	        -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096; \
	done

# Not among the prerequisites: only who changes an alert needs it.
monitoring-check:
	@command -v promtool >/dev/null || { \
	    echo 'promtool is missing. docker/install-checkers.sh installs it.' >&2; exit 1; }
	promtool check config docker/prometheus/prometheus.yml
	promtool test rules docker/prometheus/tests/*.yml

TARGET = $$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

# Not among the prerequisites either: the tools come from npm and PyPI.
api-lint: rust
	@tests/api/check.sh "$(TARGET)" lint

api-check: prerequisites
	cargo build --locked
	tests/api/check.sh "$(TARGET)"

prerequisites: rust
	@./docker/install-prerequisites.sh

# Not installed for you: which toolchain to use, and how it is kept up to date, is yours to say.
rust:
	@command -v cargo >/dev/null || { \
	    echo 'The Rust toolchain is missing. Install it as https://rustup.rs says, open a new shell,' >&2; \
	    echo 'and run this again.' >&2; exit 1; }
