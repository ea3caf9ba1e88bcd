# Needs only python3 (3.11 to 3.13); everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
FROM := setup.py pyproject.toml rlreward/__init__.py

.PHONY: quickstart test lint claims bench bench-offline clean

quickstart: .venv/.base
	$(BIN)/rlreward train --config=configs/quickstart.py:mini --workdir=runs/quickstart
	$(BIN)/rlreward report runs/quickstart

test: .venv/.test
	$(BIN)/python -m pytest -n 2

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

claims: .venv/.test
	$(BIN)/python -m pytest -n 2 -m "claims or slow"

bench: .venv/.base
	$(BIN)/python benchmarks/run.py

bench-offline: .venv/.base
	$(BIN)/python benchmarks/run_offline.py

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache

# Stamps: pip runs again only when the requirements change.
.venv/.base: $(FROM)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	  sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  f"{sys.executable} is Python {v[0]}.{v[1]}; use: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/.test: .venv/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@
