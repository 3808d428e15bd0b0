# `make demo` and `make test` are all a newcomer needs; both work on a bare machine with Python 3.11-3.13.
PYTHON ?= python3
BIN := .venv/bin
.PHONY: demo test lint clean

.venv/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing longtail into .venv (about a minute the first time)" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/.installed
	$(BIN)/longtail demo

lint: .venv/.installed
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

# A browser for the tests of pages, where the system has none; asked for once, and without it they are skipped.
.venv/.chromium: .venv/.installed
	@$(BIN)/python -m tests.chromium
	@touch $@

test: lint .venv/.chromium
	$(BIN)/pytest --numprocesses auto --dist loadfile

clean:
	rm -rf .venv demo-runs .pytest_cache .mypy_cache .ruff_cache
