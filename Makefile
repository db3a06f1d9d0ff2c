# `make run` and `make test` need Python 3.11+ and make; everything else they install
# into .venv, at the versions of .ci/constraints.txt.

PYTHON ?= python3
PIP := .venv/bin/pip install --quiet --disable-pip-version-check -c .ci/constraints.txt

.PHONY: run test test-slow check clean
.DELETE_ON_ERROR:

run: .venv/run-installed  ## trains a policy on CartPole; a second time shows the result
	.venv/bin/python experiments/cartpole_ppo.py --out runs/cartpole_ppo
	@echo "The learning curve is runs/cartpole_ppo/learning_curve.png" >&2

test: .venv/test-installed  ## the default tests
	.venv/bin/python -m pytest -n 2

test-slow: .venv/test-installed  ## learning, many processes: minutes
	.venv/bin/python -m pytest -m "slow and not gpu"

check: .venv/test-installed  ## format, lint, types
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy

clean:
	rm -rf .venv

.venv/run-installed: .venv/made pyproject.toml .ci/constraints.txt
	$(PIP) -e '.[viz,log]'
	@touch $@

.venv/test-installed: .venv/made pyproject.toml .ci/constraints.txt
	$(PIP) -e '.[test]'
	@touch $@ .venv/run-installed

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rljax needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version). Name another: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@touch $@
