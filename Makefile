# Each target makes its own environment in .venv where there is none. PYTHON chooses the interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
# Where ORACLES is set, the tests run with the libraries that they compare against: make test ORACLES=1
TEST_INSTALLED := $(VENV)/$(if $(ORACLES),.installed-oracles,.installed-test)

.PHONY: help quickstart demo study test test-slow lint constraints clean

help:
	@echo "make quickstart           environment, install, and pretraining on the embedded synthetic cohort"
	@echo "make demo                 the same, then segmentation with and without that pretraining, and a report of both"
	@echo "make study                environment, install, and a small study on the synthetic cohort with its report"
	@echo "make test                 environment, install, lint, types and the test suite"
	@echo "make test ORACLES=1       the same, and installs PyTorch, MONAI and medpy for the tests that compare with them"
	@echo "make test-slow            the heaviest tests, which make test leaves out; takes ORACLES=1 too"
	@echo "make lint                 ruff and pyrefly"
	@echo "make constraints          renew constraints.txt"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(RUN) -m pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(RUN) -m pip install -q -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.installed

# torch alone first: once it is installed, no other package pulls in another build of it.
$(VENV)/.installed-oracles: $(VENV)/.installed-test
	$(RUN) -m pip install -q 'torch==2.13.0'
	$(RUN) -m pip install -q -c constraints.txt -e '.[test,oracles]'
	@touch $@

quickstart: $(VENV)/.installed
	$(RUN) -m morphojax.main --config=configs/pretrain_sax.py

# Each training goes on where it was stopped, and a finished one returns at once.
demo: quickstart
	$(RUN) -m morphojax train --config=segment_sax --config.init_from=runs/pretrain_sax
	$(RUN) -m morphojax train --config=segment_sax --config.workdir=runs/segment_sax_scratch
	$(RUN) -m morphojax evaluate --run=runs/segment_sax
	$(RUN) -m morphojax evaluate --run=runs/segment_sax_scratch
	$(RUN) -m morphojax report runs/segment_sax runs/segment_sax_scratch --output=runs/demo.html

study: $(VENV)/.installed
	$(RUN) -m analysis.study --config=configs/study_synthetic.py --workers=2

lint: $(VENV)/.installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyrefly check --python-interpreter-path $(RUN)

# By file: a module's fixtures are then made by one worker, once.
test: $(TEST_INSTALLED) lint
	$(RUN) -m pytest -q -n 2 --dist loadfile

test-slow: $(TEST_INSTALLED)
	$(RUN) -m pytest -q -m slow

# One file for every supported Python: pinned versions, no download addresses.
constraints:
	uv pip compile -q pyproject.toml --extra test --python-version 3.11 --universal \
		--no-header --no-annotate --no-emit-index-url -o constraints.txt

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache build *.egg-info
