# Everything a newcomer needs: `make demo`, then `make test`. See README.md.
#
# The set-up is repeatable: a stamp is written only when every package is in. A .venv without it is half
# finished, and nobody can tell which of its files are missing: it is made anew, from the cache of packages.

PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
RUNTIME_STAMP := $(VENV)/.runtime-installed
DEV_STAMP := $(VENV)/.dev-installed
AZURITE := azurite@3.35.0
INSTALL = $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode

# Ray starts one Python process after another: without bytecode each of them compiles every module again.
unexport PYTHONDONTWRITEBYTECODE
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help setup setup-dev demo test test-side-by-side test-all check format bench requirements grpc-messages clean
help:
	@echo "make demo      set up .venv and run the main job: data, training, scores, service, report"
	@echo "make test      set up what tests need besides, and run them (about half an hour on 2 cores)"
	@echo "make test-side-by-side  the same as two processes beside each other, one for each core"
	@echo "make test-all  the same with the long proofs"
	@echo "make check     lint, formatting, types, import contracts"
	@echo "make bench     the quick benchmarks (meant for 15 minutes), into benchmarks/results/latest/"
	@echo "make clean     remove .venv and everything generated"

$(RUNTIME_STAMP): requirements-setup.txt requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found; install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -f $@ || rm -rf $(VENV)
	@$(BIN)/python -c 'import pip' 2>/dev/null || { echo "Making $(VENV) with $(PYTHON)"; rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	@rm -f $(RUNTIME_STAMP) $(DEV_STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-setup.txt
	$(INSTALL) --require-hashes -r requirements.txt
	$(INSTALL) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV_STAMP): $(RUNTIME_STAMP) requirements-dev.txt
	$(INSTALL) --require-hashes -r requirements-dev.txt
	@# Azure's emulator is a program for node. Where that is missing, its tests are skipped and say so.
	@command -v npm >/dev/null || { echo "no npm here: tests against Azurite will be skipped"; touch $@; exit 0; }; \
		npm install --silent --no-audit --no-fund --prefix $(VENV)/azurite $(AZURITE) || echo "Azurite could not be installed: its tests will be skipped"
	@# The page of the service is tested in a browser, which only root can install.
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; \
	} >/dev/null 2>&1 || echo "no Chromium here: tests of the page in a browser will be skipped"
	@touch $@

setup: $(RUNTIME_STAMP)
setup-dev: $(DEV_STAMP)

demo: setup
	$(BIN)/appliance demo

test: setup-dev
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --omit='tests/*' --fail-under=85
	@# A line of a test that never runs proves nothing.
	$(BIN)/python -m coverage report --include='tests/*' --skip-covered --precision=2 --fail-under=100

# The same as two processes, what needs clusters beside the rest: quicker where nothing else keeps two cores busy.
test-side-by-side: setup-dev
	$(BIN)/python -m coverage erase
	@rest=$$(mktemp); \
	$(BIN)/python -m coverage run -m pytest --part=rest >$$rest 2>&1 & beside=$$!; \
	$(BIN)/python -m coverage run -m pytest --part=clusters; status=$$?; \
	wait $$beside || status=$$?; cat $$rest; rm -f $$rest; exit $$status
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --omit='tests/*' --fail-under=85
	$(BIN)/python -m coverage report --include='tests/*' --skip-covered --precision=2 --fail-under=100

test-all: setup-dev
	$(BIN)/python -m pytest --run-slow

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup-dev
	$(BIN)/python -m benchmarks.all --quick

# Pins come from pyproject.toml; the resulting files name no registry.
COMPILE = $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet
requirements: setup
	$(COMPILE) -o requirements.txt
	$(COMPILE) --extra test --extra bench --extra export --extra gpu-jpeg --extra lance --extra video -o requirements-dev.txt

# The messages of the Open Inference Protocol over gRPC; the generator is needed for nothing else.
grpc-messages: setup
	$(BIN)/uv run --no-project --with grpcio-tools==1.81.1 python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. \
		serve_app/inference_protocol/grpc_messages.proto

clean:
	rm -rf $(VENV) .cache demo build runs *.egg-info .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
