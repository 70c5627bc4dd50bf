# Set-up and daily commands. Everything is installed into .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP_OPTIONS ?=

.PHONY: help demo paper-nano test soak check format clean

help:
	@echo "make demo    install, run the Figure 9 sweep at nano scale (minutes), draw the figure"
	@echo "make paper-nano  run every sweep at nano scale (hours; goes on where it was), write the report"
	@echo "make test    install and run every test"
	@echo "make soak    hundreds of runs on a SLURM cluster here whose nodes die (10 minutes or more)"
	@echo "make check   ruff, mypy --strict and the house rules"
	@echo "make format  let ruff rewrite the code's layout"
	@echo "make clean   remove .venv and caches; runs/ and reports/ are kept"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) \
		--constraint constraints.txt --editable ".[test,check,tasks,dashboard]"
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python launch.py sweep=figure9
	$(BIN)/python -m analysis figure9
	@echo "open the record:  $(BIN)/spam-lab ui"

paper-nano: $(INSTALLED)
	$(BIN)/python launch.py sweep=all
	$(BIN)/python -m analysis ledger
	$(BIN)/python -m analysis report
	@echo "open reports/nano/report.html in a browser"

test: $(INSTALLED)
	@$(BIN)/python -m tests.slurm_packages
	@$(BIN)/python -m tests.browser_packages
	$(BIN)/python -m pytest -n 2 --dist loadfile

soak: $(INSTALLED)
	@$(BIN)/python -m tests.slurm_packages
	$(BIN)/python -m pytest -s tests/soak_slurm.py

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_house.py

format: $(INSTALLED)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
