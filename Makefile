# One command per job; people and CI run the same ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test bench check format clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

# torch stands in the same pip command as everything that needs it: left to a dependency, pip would
# take the newest build and with it gigabytes of CUDA.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headway needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" --editable ".[optimize,dev]"
	@touch $(STAMP)

install: $(STAMP) ## create .venv with everything that demo, checks and tests need

demo: install ## train, optimise, serve and measure on generated data (about 4 minutes after the install)
	$(BIN)/headway demo --out out/demo

test: install ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

# One after another: on two cores, two at once would slow each other. A part of each script; the
# whole takes hours.
bench: install ## a part of all benchmarks, figures in out/bench (under 5 minutes)
	@mkdir -p out/bench
	$(BIN)/python benchmarks/zoo.py --json out/bench/zoo.json
	$(BIN)/python benchmarks/kernels.py --quick --seconds 4 --sizes 1 64 --json out/bench/kernels.json
	$(BIN)/python benchmarks/overhead.py --quick --json out/bench/overhead.json
	$(BIN)/python benchmarks/latency.py --quick --models ncf rmc1 din dien --rivals "ONNX Runtime" --json out/bench/latency.json
	$(BIN)/python benchmarks/rewrites.py --quick --models din rmc3 --ways without --json out/bench/rewrites.json
	$(BIN)/python benchmarks/roofline.py --quick --models ncf rmc1 din --json out/bench/roofline.json

check: install ## style, types, import order, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: install ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove everything that was built
	rm -rf $(VENV) out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
