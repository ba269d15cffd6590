SHELL := bash
PROFILE ?= smoke
PYTEST_ARGS ?= -m "not slow"
export PROFILE DATA RUNS ONLY SET

# Modules rather than scripts: their first lines would break if the checkout were moved.
PY := .venv/bin/python
READY := .venv/.ready
STRIP := -m nbstripout --keep-id --extra-keys "metadata.papermill cell.metadata.papermill"
MINUTES = $(shell sed -n 's/^minutes: *//p' "e3sn_lib/profiles/$(PROFILE).yaml" 2>/dev/null)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup reproduce test lab say-reproduce say-test say-lab

help:
	@echo 'make setup      set up .venv with everything, and a git filter: notebooks are stored without outputs'
	@echo 'make reproduce [PROFILE=smoke|cpu|long|paper] [DATA=dir] [RUNS=dir] [ONLY=04] [SET="key=value ..."]'
	@echo '                run the study (or one notebook of it) and build reports/PROFILE/index.html;'
	@echo '                SET="track.mask_threshold=0.4" changes settings; the part "study" of the profile overrides them'
	@echo 'make test       lint, types, imports and tests; PYTEST_ARGS=... replaces -m "not slow"'
	@echo 'make lab        JupyterLab on the notebooks'
	@echo
	@echo 'Each of them sets up .venv first if there is none (PYTHON=... chooses the interpreter, 3.11 or newer).'

setup: $(READY)
	@if git rev-parse --git-dir >/dev/null 2>&1; then \
	  git config filter.nbstripout.clean '$(PY) $(STRIP)'; \
	  echo 'git stores notebooks without outputs from now on.'; \
	fi
	@echo 'Ready. Try: .venv/bin/e3sn track examples/cockatoo.mp4 --box 222,24,418,336 --out out/'

reproduce: say-reproduce $(READY)
	@set -f; set --; for setting in $$SET; do set -- "$$@" --set "$$setting"; done; \
	$(PY) -m e3sn_study reproduce --profile "$$PROFILE" \
	  $${DATA:+--data "$$DATA"} $${RUNS:+--runs "$$RUNS"} $${ONLY:+--only "$$ONLY"} "$$@"

test: say-test $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-cache
	$(PY) $(STRIP) --verify notebooks/*.ipynb || { echo 'Notebooks hold outputs. Delete them with:' \
	  '$(PY) $(STRIP) notebooks/*.ipynb' >&2; exit 1; }
	$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations=5 $(PYTEST_ARGS)

lab: say-lab $(READY)
	$(PY) -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

say-reproduce:
	@echo "Runs $(if $(value ONLY),notebooks $$ONLY,the notebooks) in the $$PROFILE profile" \
	  $(if $(value ONLY)$(value SET),,"($(if $(MINUTES),about $(MINUTES) minutes on two fast CPU cores and longer on others,no duration is known for it))") \
	  "and builds its page below reports/."

say-test:
	@echo 'Checks style, types, imports and notebooks, then runs the tests: a few minutes on two CPU cores.'

say-lab:
	@echo 'Opens JupyterLab on the notebooks; Ctrl-C twice ends it.'

$(READY): pyproject.toml
	@if ! $(PY) -m pip --version >/dev/null 2>&1; then \
	  for python in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
	    if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then break; fi; \
	    python=; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo 'No Python 3.11 or newer with the venv module was found.' \
	      'Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3' >&2; exit 1; \
	  fi; \
	  echo "Creating .venv with $$("$$python" -V)."; \
	  "$$python" -m venv .venv; \
	fi
	@if ! $(PY) -c 'import torch' 2>/dev/null; then \
	  echo 'Installing into .venv, once: several GB with the CUDA build of PyTorch, 5 to 15 minutes.' \
	    'Without a GPU the CPU build is far smaller; docs/troubleshooting.md says how to install it first.'; \
	fi
	@set -o pipefail; $(PY) -m pip install --disable-pip-version-check -e '.[study,lab,dev]' \
	  | { grep --line-buffered -v '^Requirement already satisfied' || true; }
	@touch $@
