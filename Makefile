# Verbs for people; CI calls the same. `make` alone lists them.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PYTEST_ARGS ?=
DEMO_ARGS ?=
JOBS ?= 12  # workers of pytest: tests wait for processes far more often than they compute

# Tests start some thousand processes. Without bytecode on the disk, each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test lint unit test-web test-python test-exclusive e2e shuffled coverage texts web bench bench-opening bench-cuts bench-gate bench-release bench-peers soak chaos rollout-demo handovers hostile clean images browser uvicorn-versions old-version fuzz
.DEFAULT_GOAL := help

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: .venv/.ready node_modules/.ready src/headcount/static/client.js src/headcount/static/dashboard/index.html examples/shop/static/.ready ## set everything up: Python, Node packages, browser code

demo: setup ## a small shop with visitors, two versions and the admin view; options in DEMO_ARGS="--port 9000"
	@trap : INT; $(BIN)/headcount demo $(DEMO_ARGS) || test $$? -eq 130  # Ctrl-C is how it ends

test: setup .venv/.tests-compiled tests/e2e/nuxt_client/dist/sse.html ## everything that must pass: ruff, mypy, tsc, vitest, pytest, browser tests
	@$(BIN)/python tests/run_parts.py lint test-web test-python :: e2e test-exclusive

lint: setup ## ruff, vulture, deptry, import-linter, mypy --strict, tsc
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/vulture
	$(BIN)/deptry src
	$(BIN)/lint-imports
	$(BIN)/mypy
	npm run check

unit: test-web test-python test-exclusive ## all tests but those in a browser

test-web: setup
	npm run test

test-python: setup .venv/.tests-compiled
	$(BIN)/pytest --ignore=tests/e2e -m "not exclusive" -n $(JOBS) $(PYTEST_ARGS)

test-exclusive: setup
	$(BIN)/pytest tests/server -m exclusive -n 2 $(PYTEST_ARGS)

e2e: setup tests/e2e/nuxt_client/dist/sse.html ## tests in Chromium, Firefox and WebKit, which are fetched where that is possible
	cd tests && ../$(BIN)/python -m e2e.engines
	$(BIN)/pytest tests/e2e -n 4 $(PYTEST_ARGS)

shuffled: setup ## all tests but exclusive ones and those in a browser, in random order and with random hashes
	PYTHONHASHSEED=random $(BIN)/pytest --ignore=tests/e2e -p randomly -m "not exclusive" -n $(JOBS) $(PYTEST_ARGS)

uvicorn-versions: setup ## take streams over from every minor version of uvicorn, and serve a Unix socket; `make test` tries a few
	$(BIN)/pytest tests/server/test_uvicorn_versions.py tests/server/test_unix_sockets.py --all-versions $(PYTEST_ARGS)

old-version: setup ## count exactly in a fleet whose old nodes run the git revision REV; needs its history
	$(BIN)/pytest tests/server/old_version.py --old-version=$(REV) $(PYTEST_ARGS)

fuzz: setup ## feed a million random inputs to all that reads what peers send (10 minutes); `make test` feeds a few
	cd tests && ../$(BIN)/python -m fuzz.run

coverage: setup ## branch coverage of the Python tests and the servers that they start; UPDATE=1 keeps it as the last
	rm -rf .cache/coverage && mkdir -p .cache/coverage
	-$(BIN)/coverage run -m pytest --ignore=tests/e2e -m "not exclusive" -n $(JOBS) -q $(PYTEST_ARGS)
	$(BIN)/python tests/coverage_report.py $(if $(UPDATE),--update)

texts: setup ## write tests/texts/texts.md: every text that users see
	cd tests && ../$(BIN)/python -m texts.collect

images: setup ## take the pictures of the dashboard for docs/images anew
	cd tests && ../$(BIN)/python -m e2e.images

web: node_modules/.ready ## build the browser code
	npm run build

chaos: setup ## minutes of faults upon a fleet of real processes and a real Redis
	LEAVING_ROUNDS=20 CHAOS_SECONDS=$${CHAOS_SECONDS:-300} CHAOS_PAGES=$${CHAOS_PAGES:-4000} CHAOS_SEED=$${CHAOS_SEED:-$$(date +%s)} \
		ROLLOUTS=20 STOPPED_SECONDS=60 $(BIN)/pytest -s --timeout=180 tests/server/test_chaos.py \
		tests/server/test_gate_chaos.py tests/server/test_leaving.py \
		tests/server/test_fleet.py::test_a_node_stopped_and_continued $(PYTEST_ARGS)

rollout-demo: setup ## a rolling deploy with 500 pages and six tabs, in which everything goes wrong; `make test` has it in short
	ROLLOUT_PAGES=500 ROLLOUT_PAUSE=5 ROLLOUT_GRACE=120 $(BIN)/pytest -s tests/e2e/test_rolling_deploy.py --timeout=900 $(PYTEST_ARGS)

handovers: setup ## close and crash the tab that leads two hundred times, in Chromium (4 minutes); `make test` does it six times
	HANDOVERS=100 $(BIN)/pytest -s tests/e2e/test_shared.py -k no_figure_shows --timeout=900 $(PYTEST_ARGS)

hostile: setup ## a deploy among hostile visitors for a minute, on each kind of server; `make test` takes 12 seconds
	HOSTILE_SECONDS=$${HOSTILE_SECONDS:-60} $(BIN)/pytest -s tests/server/test_hostile_visitors.py $(PYTEST_ARGS)

bench: setup ## measure memory, CPU, bytes and latency against their targets (25 minutes)
	@status=0; for part in suite dashboard; do $(BIN)/python bench/$$part.py || status=1; done; exit $$status

bench-opening: setup ## measure what a stream costs the process to open, update and close; AGAINST=../old/src compares in turns
	$(BIN)/python bench/opening_cost.py $(AGAINST)

bench-cuts: setup ## count pages behind a proxy that ends every stream after 10 to 60 s (11 minutes)
	$(BIN)/python bench/cuts.py

bench-gate: setup ## measure when gates open after the last outdated page of 20 rollouts (5 minutes)
	$(BIN)/python bench/gate_delay.py

bench-release: setup ## measure how soon 10,000 pages hear of a release, and how evenly stages ask them (3 minutes)
	$(BIN)/python bench/release_reach.py

bench-peers: setup ## measure the same load on nuxt-skew-protection and python-socketio (11 minutes)
	$(BIN)/python bench/compare.py

soak: setup ## 20 minutes of churn with 19,000 connections: memory flat, figures exact
	$(BIN)/python bench/soak.py

clean: ## remove everything that was built or installed
	rm -rf .venv node_modules src/headcount/static/*.js src/headcount/static/dashboard examples/shop/static \
		web/client/dist tests/e2e/nuxt_client/dist dist bench/results

.venv/.ready: pyproject.toml uv.lock .ci/uv.txt
	@test -n "$(PYTHON)" || { echo "Headcount needs Python 3.11 or newer; install it, or run make PYTHON=/path/to/python3."; exit 1; }
	@echo "Installing Python packages into .venv (a few minutes) …"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --require-hashes --requirement .ci/uv.txt
	VIRTUAL_ENV= $(BIN)/python -m uv sync --locked --quiet --compile-bytecode $(if $(CI),--group proxies)
	@touch $@

# pytest compiles tests in a way of its own. Once, here: its workers would all do so, each for itself. What changes later
# is little, and is compiled when it is needed.
.venv/.tests-compiled: .venv/.ready
	@echo "Compiling the tests (20 s) …"
	$(BIN)/pytest --collect-only -qq >/dev/null || true  # the tests themselves say what is wrong
	@touch $@

node_modules/.ready: package.json package-lock.json $(wildcard web/*/package.json examples/shop/web/package.json tests/e2e/*/package.json)
	@command -v npm >/dev/null || { echo "Headcount's browser code needs Node 20 or newer; install it from https://nodejs.org."; exit 1; }
	@echo "Installing Node packages into node_modules (a minute) …"
	npm ci --ignore-scripts --no-fund --no-audit
	@touch $@

src/headcount/static/client.js: node_modules/.ready $(wildcard web/client/src/*.ts web/client/*.json web/client/scripts/*.js)
	npm run build --workspace headcount-client
	@touch $@

src/headcount/static/dashboard/index.html: src/headcount/static/client.js $(wildcard web/dashboard/*.* web/dashboard/src/*.*)
	npm run build --workspace headcount-dashboard
	@touch $@

examples/shop/static/.ready: src/headcount/static/client.js $(wildcard examples/shop/web/*.* examples/shop/web/src/*.* examples/shop/web/src/*/*.*)
	npm run build --workspace headcount-shop
	@touch $@

tests/e2e/nuxt_client/dist/sse.html: node_modules/.ready $(wildcard tests/e2e/nuxt_client/src/* tests/e2e/nuxt_client/stubs/* tests/e2e/nuxt_client/build.mjs)
	npm run build --workspace headcount-nuxt-compat
	@touch $@
