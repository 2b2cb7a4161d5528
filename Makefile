# Two commands do everything on a machine with Python ≥ 3.11 and make: `make demo` and `make test`.
# PYTHON=python3.12 chooses the interpreter, VENV= the folder of the environment, RUN= words for pytest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help environment demo test browser lint format clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.spineseg-ready
SCANS ?= data/simulated/csi2014
PYTEST ?= -n 2

help:
	@echo "make demo    environment, simulated CSI 2014 scans, YOLOv8-seg and a 3D U-Net trained, scored and compared (20 minutes)"
	@echo "make test    environment, the whole test suite"
	@echo "make browser Debian's Chromium, in which the HTML report is tested (needs root; without it these tests are skipped)"
	@echo "make lint    ruff and mypy"
	@echo "make format  ruff, rewriting files"
	@echo "make clean   removes the environment and caches; data and runs stay"

environment: $(READY)

# Made again only when what should be in it changed.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) here; make PYTHON=<python 3.11 or newer>" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $$($(PYTHON) --version) is too old: spineseg needs 3.11 or newer; make PYTHON=<such a python>" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { \
	  echo "error: $(PYTHON) -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/python -m spineseg.simulate layout=csi2014 size=small output=$(SCANS)
	$(BIN)/python -m spineseg.train +experiment=yolo_csi +preset=quick data.source.root=$(SCANS)
	$(BIN)/python -m spineseg.train +experiment=unet_csi +preset=quick data.source.root=$(SCANS) trainer.max_epochs=10
	$(BIN)/python -m spineseg.report 'runs=[csi2014/yolo_csi,csi2014/unet_csi]' output=runs/demo
	@echo "the comparison: runs/demo/report.html; the runs: runs/csi2014/{yolo_csi,unet_csi}/latest (results.json, panels/, log.csv)"

test: $(READY)
	@if [ -z "$${SPINESEG_REAL_CT:-}" ] && [ -d ../shared/real_ct ]; then \
	  export SPINESEG_REAL_CT="$$(cd ../shared/real_ct && pwd)"; fi; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST) $(RUN)

browser:
	@command -v chromium >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends chromium; }

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
