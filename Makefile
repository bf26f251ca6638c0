# make demo, make test: all that is needed on a fresh machine with Python >= 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MARK := $(VENV)/.installed

.PHONY: setup demo test test-all lint bench docs clean

setup: $(MARK)

$(MARK): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e . --group test --group lint
	touch $(MARK)

demo: setup ## simulate micrographs of BPTI, find it in them without picking, write the report
	$(BIN)/unpicked demo --out demo-run --overwrite

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# all of unpicked.ops but its compiled loops
CHECKED := unpicked.ops.correlate,unpicked.ops.ctf,unpicked.ops.evidence,unpicked.ops.fourier,unpicked.ops.hamiltonian,unpicked.ops.lattice,unpicked.ops.least_squares,unpicked.ops.moments,unpicked.ops.project,unpicked.ops.radial,unpicked.ops.rotation,unpicked.ops.shift,unpicked.ops.solve,unpicked.ops.special,unpicked.ops.steerable,unpicked.ops.window
SHAPES := --jaxtyping-packages=$(CHECKED),unpicked.objects,beartype.beartype -k "not refused" \
	tests/contracts/test_objects.py tests/contracts/test_flat_objects.py tests/identities/test_moments.py tests/identities/test_project.py tests/identities/test_simulate.py tests/test_examples.py

test: lint ## lint, types, the annotated shapes checked at run time, and every test that is not slow
	$(BIN)/python -m pytest -n 2 $(SHAPES)
	$(BIN)/python -m pytest -n 2 --ignore=tests/test_examples.py # they have just run, with their shapes checked

test-all: lint ## the slow recovery studies too
	$(BIN)/python -m pytest -n 2 -m "slow or not slow"

bench: setup ## every figure that README and docs quote
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

docs: setup
	$(BIN)/python -m pip install --quiet --group docs
	$(BIN)/python -m sphinx -q -W -b html docs docs/_build/html

clean:
	rm -rf $(VENV) demo-run docs/_build build dist
