# Each target makes its own environment in .venv where there is none. PYTHON chooses the interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: help quickstart test test-oracles lint constraints clean

help:
	@echo "make quickstart    environment, install, and pretraining on the embedded synthetic cohort"
	@echo "make test          environment, install, lint, types and the whole test suite"
	@echo "make test-oracles  the same with PyTorch, MONAI and medpy, so that the tests against them run"
	@echo "make lint          ruff and pyrefly"
	@echo "make constraints   renew constraints.txt"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q --upgrade pip

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(RUN) -m pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(RUN) -m pip install -q -c constraints.txt -e '.[test,analysis]'
	@touch $@ $(VENV)/.installed

# torch by itself first: with it in place nothing else asks for another build of it.
$(VENV)/.installed-oracles: $(VENV)/.installed-test
	$(RUN) -m pip install -q 'torch==2.13.0'
	$(RUN) -m pip install -q -c constraints.txt -e '.[test,analysis,oracles]'
	@touch $@

quickstart: $(VENV)/.installed
	$(RUN) -m morphojax.main --config=configs/pretrain_sax.py

lint: $(VENV)/.installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyrefly check --python-interpreter-path $(RUN)

test: lint
	$(RUN) -m pytest -q -n 2

test-oracles: $(VENV)/.installed-oracles lint
	$(RUN) -m pytest -q -n 2

# For every supported Python at once; pins only, no download addresses.
constraints:
	uv pip compile -q pyproject.toml --extra test --extra analysis --python-version 3.11 --universal \
		--no-header --no-annotate --no-emit-index-url -o constraints.txt

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache build *.egg-info
