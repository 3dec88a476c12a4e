# demo · test · soak · fuzz · lint · bench · advisors · image: each installs what it needs and is missing.

.PHONY: demo test soak fuzz lint bench bench-more advisors image image-local postgres pgbouncer chromium supabase langgraph engine podman compose kubernetes cargo-fuzz

demo: postgres
	cargo build
	@cargo run --quiet -- demo

# Everything twice: with workers that log in as a superuser, and as the role of sql/roles.sql.
# The image is compiled beside the tests: each has steps that keep one core busy only.
test: postgres pgbouncer chromium supabase langgraph podman compose kubernetes
	@$(MAKE) image-local & image=$$!; cargo test --no-run; wait $$image
	cargo test
	AGENT_SYNC_TEST_ROLE=worker cargo test --test integration

# Supabase's own lints of what we install.
advisors: postgres supabase
	cargo test --test integration advisors::

# The convergence test-bed (tests/faults.rs) over many seeds; about 8 seconds each. SEEDS=200 for more, SEED=5000 to begin
# there instead of at 1000.
soak: postgres pgbouncer
	SEEDS=$(or $(SEEDS),20) cargo test --test integration -- --ignored --exact faults::soak --nocapture
	cargo test --test integration -- --ignored --exact bell::model::nor_in_one_that_is_not_so_small

# Looks for bytes that break what src/fuzzing says: each target for SECONDS, one after the other. TARGETS="token url" for some of
# them. What was found is in fuzz/artifacts. (The host's root certificates are left out: reading them would be most of the time.)
fuzz: cargo-fuzz
	@for target in $(or $(TARGETS),request token source_row url); do \
	  mkdir -p fuzz/corpus/$$target && SSL_CERT_FILE=/dev/null cargo +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target \
	    -- -dict=fuzz/json.dict -max_total_time=$(or $(SECONDS),600) -timeout=10 -print_final_stats=1 || exit 1; \
	done

lint:
	cargo fmt --check
	cargo clippy --all-targets --locked -- --deny warnings
	@if command -v cargo-deny >/dev/null; then cargo fetch --locked --quiet && cargo deny --offline check licenses bans sources; \
	else echo "cargo-deny is not installed: licenses, bans and sources were not checked"; fi

# One table: passes, edits, requests, what editors pay, and a worker at rest, each beside what the same Postgres does for the least of that
# work. In ten minutes; with QUICK=1 in two, to see that it works.
bench: postgres
	cargo bench --no-run
	for bench in passes edits requests editors rest; do cargo bench --bench $$bench -- $(if $(QUICK),--quick) || exit 1; done
	cargo bench --bench table

# What else is measured: how costs grow with the number of agents (SIZES="1000 10000"), what a bulk edit of many agents needs, what good
# clients notice of an attack, and what passing a streamed run through costs.
bench-more: postgres langgraph
	cargo bench --bench growth -- $(or $(SIZES),1000 10000 100000)
	cargo bench --bench bulk -- $(or $(AGENTS),100000)
	ulimit -n 4096 && cargo bench --bench attack
	cargo test --release --test integration -- --ignored --exact runtime::what_passing_through_costs --nocapture

# The container image, `agent-sync`, by podman or else docker. It is compiled in a container; where the image for that cannot be
# pulled, here.
ENGINE = $(shell command -v podman >/dev/null || ! docker info >/dev/null 2>&1 && echo podman || echo docker)
BUILD = $(ENGINE) build $(if $(filter podman,$(ENGINE)),--format docker) --file deploy/Dockerfile --tag agent-sync
image: engine
	@base=$$(sed -n 's/^FROM \(.*\) AS build$$/\1/p' deploy/Dockerfile); \
	if $(ENGINE) image inspect $$base >/dev/null 2>&1 || $(ENGINE) pull $$base; then $(BUILD) .; \
	else echo "$$base cannot be pulled: the binary is compiled here"; $(MAKE) image-local; fi

# The same of a static binary that is compiled here, with this machine's CA roots.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
image-local: engine
	RUSTFLAGS="$$RUSTFLAGS -C target-feature=+crt-static" cargo build --release --locked --bin agent-sync --target $(HOST)
	@mkdir -p target/image && install -m 755 target/$(HOST)/release/agent-sync target/image
	@for roots in "$$SSL_CERT_FILE" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem ""; do \
	  if test -s "$$roots"; then break; fi; done; \
	install -m 644 "$${roots:?no bundle of CA roots is in the usual places: name one by SSL_CERT_FILE}" target/image/ca-certificates.crt
	$(BUILD) --iidfile target/image.id --target local target/image

# PostgreSQL's server, psql, and curl for the lines that the demo prints.
postgres:
	@if { ls /usr/lib/postgresql/*/bin/initdb || command -v initdb; } >/dev/null 2>&1 \
	    && command -v psql >/dev/null && command -v curl >/dev/null; then :; else $(call install,postgresql curl); fi

# For the tests of a worker behind a transaction-mode pooler.
pgbouncer:
	@if test -x /usr/sbin/pgbouncer; then :; else $(call install,pgbouncer); fi

# A browser without a window and what drives it, for the tests of the admin server's page.
chromium:
	@if test -x /usr/bin/chromium && test -x /usr/bin/chromedriver; then :; else $(call install,chromium chromium-driver); fi

# Its CLI, which is run by tests/advisors.rs, and the extension that it lints functions with.
SUPABASE = supabase@3.1.0
supabase:
	@if command -v npm >/dev/null; then :; else $(call install,nodejs npm); fi
	@if ls /usr/share/postgresql/*/extension/plpgsql_check.control >/dev/null 2>&1; then :; \
	  else $(call install,postgresql-$$(ls /usr/lib/postgresql | sort -n | tail -n 1)-plpgsql-check); fi
	@if test -n "$$SUPABASE_CLI" || test -e target/$(SUPABASE); then :; else \
	  npm install --no-save --no-audit --no-fund --fetch-retries=1 --loglevel=error --prefix target/supabase $(SUPABASE) && touch target/$(SUPABASE) \
	  || { echo "npm could not install $(SUPABASE) from its registry, without which tests/advisors.rs fails. Elsewhere: SUPABASE_CLI=<path>"; exit 1; }; fi

# LangGraph's own server and its two SDKs, for tests/langgraph.rs and tests/sdk.rs. 260 MB in target/, once.
LANGGRAPH = tests/fixtures/langgraph/requirements.txt
LANGGRAPH_JS = 1.15.0
langgraph:
	@if command -v npm >/dev/null; then :; else $(call install,nodejs npm); fi
	@if test -n "$$LANGGRAPH_VENV" || python3 -c 'import venv, ensurepip' 2>/dev/null; then :; else $(call install,python3 python3-venv); fi
	@if test -n "$$LANGGRAPH_VENV" || cmp -s $(LANGGRAPH) target/langgraph/installed.txt; then :; else \
	  rm -rf target/langgraph && python3 -m venv target/langgraph \
	  && target/langgraph/bin/pip install --quiet --disable-pip-version-check --retries=1 --requirement $(LANGGRAPH) \
	  && cp $(LANGGRAPH) target/langgraph/installed.txt \
	  || { echo "pip (Python 3.11 or later) could not install $(LANGGRAPH) from its index, without which tests/langgraph.rs and tests/sdk.rs fail. Elsewhere: LANGGRAPH_VENV=<directory of a venv that has it>"; exit 1; }; fi
	@if test -n "$$LANGGRAPH_SDK_JS" || test -e target/langgraph-sdk@$(LANGGRAPH_JS); then :; else \
	  npm install --no-save --no-audit --no-fund --fetch-retries=1 --loglevel=error --prefix target/langgraph-sdk @langchain/langgraph-sdk@$(LANGGRAPH_JS) \
	  && touch target/langgraph-sdk@$(LANGGRAPH_JS) \
	  || { echo "npm could not install @langchain/langgraph-sdk@$(LANGGRAPH_JS) from its registry, without which tests/sdk.rs fails. Elsewhere: LANGGRAPH_SDK_JS=<directory with its node_modules>"; exit 1; }; fi

# What builds the image. The tests run it with podman, which takes no daemon.
engine:
	@if test $(ENGINE) = docker || command -v podman >/dev/null; then :; else $(call install,podman runc); fi
podman:
	@if command -v podman >/dev/null; then :; else $(call install,podman runc); fi

# Reads deploy/compose.yaml, for tests/deploy.rs.
compose:
	@if command -v docker-compose >/dev/null; then :; else $(call install,docker-compose); fi

# Knows Kubernetes' schemas, for tests/deploy.rs.
KUBERNETES = kubernetes-validate==1.37.0
kubernetes:
	@if python3 -c 'import venv, ensurepip' 2>/dev/null; then :; else $(call install,python3 python3-venv); fi
	@if test -e target/$(KUBERNETES); then :; else \
	  rm -rf target/kubernetes && python3 -m venv target/kubernetes \
	  && target/kubernetes/bin/pip install --quiet --disable-pip-version-check --retries=1 $(KUBERNETES) && touch target/$(KUBERNETES) \
	  || { echo "pip could not install $(KUBERNETES) from its index, without which tests/deploy.rs fails."; exit 1; }; fi

# libFuzzer is C++, and only a nightly compiler instruments for it.
cargo-fuzz:
	@if command -v c++ >/dev/null; then :; else $(call install,g++); fi
	@cargo +nightly --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal \
	  || { echo "Missing: a nightly Rust. https://rustup.rs, then: rustup toolchain install nightly"; exit 1; }
	@command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked \
	  || { echo "Missing: cargo-fuzz. cargo install cargo-fuzz"; exit 1; }

install = if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update --quiet && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $(1); \
	  else echo "Missing: $(1). Debian, Ubuntu: sudo apt-get install $(1)"; exit 1; fi
