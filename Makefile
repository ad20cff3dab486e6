# make book | make pdf | make zip | make test | make bench | make notebooks | make lock
# Every target sets up .venv from requirements.lock first; a second call finds it ready.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
SHELL := /bin/bash
export PYTHONUNBUFFERED := 1

.PHONY: env book pdf zip test bench notebooks lock clean
.DELETE_ON_ERROR:

env: $(READY)

# pip only brings uv, from the hashes of the lock file. uv then installs all the rest and removes what
# the lock file does not name, such as an editable installation under an earlier name. It compiles what
# it installs: PyTorch's import takes twice as long from source, and dozens of processes here import it.
$(READY): requirements.lock pyproject.toml Makefile
	@echo "== setting up .venv from requirements.lock (about 5 GB; one to five minutes)"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("make: %s is Python %d.%d; 3.11 or newer is needed: make PYTHON=python3.11 ..." % (("$(PYTHON)",) + v))'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "make: the venv module does not work here; on Debian and Ubuntu: apt install python3-venv"; rm -rf .venv; exit 1; }
	@sed -n '/^uv==/,/^    # via/p' requirements.lock > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	$(BIN)/uv pip sync --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $@

book: $(READY)
	$(BIN)/python book/build.py

# The book as one file, printed by Chromium.
pdf: $(READY)
	$(BIN)/python book/pdf.py

# The notebooks, and the data that they read.
zip: $(READY)
	$(BIN)/python book/bundle.py

test: $(READY)
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4

bench: $(READY)
	$(BIN)/python -m lbp.bench

# Runs every notebook with its committed parameters, in place, and refreshes what the README shows.
notebooks: $(READY)
	$(BIN)/python book/refresh.py

lock: $(READY)
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --no-header --quiet --output-file requirements.lock
	$(BIN)/python book/environment.py

clean:
	rm -rf _build .venv .mypy_cache .ruff_cache .pytest_cache
