# Every target does its own set-up, in any order, in a virtual environment of its own (.venv); nothing outside this folder
# changes. What that needs from the machine is in README.md.

PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && exit; done; echo python3.11)

BIN := .venv/bin
RUST := Cargo.toml Cargo.lock $(shell find rust -type f)
# The compiled module lies among the Python sources. Without it, what the stamp says is no longer true.
LOST := $(if $(wildcard src/tieline/_engine.*),,lost)

.DEFAULT_GOAL := test
.DELETE_ON_ERROR:
.PHONY: demo test test-all fuzz lint instructions bench build lock clean lost

demo: build
	$(BIN)/tieline demo

test: build .venv/autobahn/requirements
	$(BIN)/python -m pytest --numprocesses=logical --dist=loadfile $(PYTEST)
	cargo test --release --locked --package tieline-engine
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml tieline._engine

# Everything that can be asked of a change: lint, and the tests with many more examples for each property.
test-all: PYTEST += --hypothesis-profile=thorough
test-all: export AUTOBAHN = all
test-all: lint test fuzz instructions

# Random scripts for the targets in fuzz/, for some seconds; FUZZ_RUNS and FUZZ_SEED are for more, and for others.
fuzz:
	cargo test --release --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz

lint: .venv/requirements
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright
	cargo fmt --check
	cargo clippy --release --locked --workspace --all-targets -- --deny warnings

# What a message costs, in instructions, against benchmarks/instructions.json. Says so where it cannot be compared.
instructions: build
	$(BIN)/python -m benchmarks.instructions

bench: build
	$(BIN)/python -m benchmarks $(ROW) $(if $(ROW),,--write)

# The install is editable: an edited Python file is in use at once, and only what is written here builds anew.
build: .venv/engine

.venv/engine: .venv/requirements pyproject.toml $(RUST) $(LOST)
	env -u CONDA_PREFIX VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/maturin develop --release --locked
	touch $@

.venv/requirements: requirements/test.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --requirement $<
	touch $@

# A foreign test suite that cannot share an environment with the rest.
.venv/autobahn/requirements: .venv/requirements requirements/autobahn.txt
	$(PYTHON) -m venv --clear .venv/autobahn
	.venv/autobahn/bin/python -m pip install --quiet --requirement requirements/autobahn.txt
	touch $@

# Newer versions of everything in requirements/test.txt. Look at the difference before committing it.
lock:
	$(PYTHON) -m venv --clear .venv/lock
	.venv/lock/bin/python -m pip install --quiet pip-tools
	CUSTOM_COMPILE_COMMAND="make lock" .venv/lock/bin/pip-compile --quiet --upgrade --strip-extras --annotation-style=line \
		--no-emit-options --no-emit-index-url --no-emit-find-links --output-file=requirements/test.txt requirements/test.in

clean:
	rm -rf .venv target src/tieline/_engine.*
