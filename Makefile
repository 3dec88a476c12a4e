# demo · test · soak · lint · bench: each installs what it needs and is missing.

.PHONY: demo test soak lint bench postgres pgbouncer

demo: postgres
	cargo run --quiet -- demo

test: postgres pgbouncer
	cargo test

# The convergence test-bed (tests/faults.rs) over many seeds; about 8 seconds each. SEEDS=200 for more, SEED=5000 to begin
# there instead of at 1000.
soak: postgres pgbouncer
	SEEDS=$(or $(SEEDS),20) cargo test --test integration -- --ignored --exact faults::soak --nocapture

lint:
	cargo fmt --check
	cargo clippy --all-targets --locked -- --deny warnings
	@if command -v cargo-deny >/dev/null; then cargo fetch --locked --quiet && cargo deny --offline check licenses bans sources; \
	else echo "cargo-deny is not installed: licenses, bans and sources were not checked"; fi

# How the startup pass compares with pure SQL (AGENTS=100000 for more), what a bulk edit of many agents needs, and what good
# clients notice of an attack.
bench: postgres
	cargo bench --bench passes -- $(or $(AGENTS),10000)
	cargo bench --bench bulk -- $(or $(AGENTS),100000)
	ulimit -n 4096 && cargo bench --bench attack

# PostgreSQL's server, psql, and curl for the lines that the demo prints.
postgres:
	@if { ls /usr/lib/postgresql/*/bin/initdb || command -v initdb; } >/dev/null 2>&1 \
	    && command -v psql >/dev/null && command -v curl >/dev/null; then :; else $(call install,postgresql curl); fi

# For the tests of a worker behind a transaction-mode pooler.
pgbouncer:
	@if test -x /usr/sbin/pgbouncer; then :; else $(call install,pgbouncer); fi

install = if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update --quiet && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $(1); \
	  else echo "Missing: $(1). Debian, Ubuntu: sudo apt-get install $(1)"; exit 1; fi
