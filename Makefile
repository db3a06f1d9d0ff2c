# `make run` and `make test` need Python 3.11+ and make; everything else they install
# into .venv, at the versions of .ci/constraints.txt.

PYTHON ?= python3
PIP := .venv/bin/pip install --quiet --disable-pip-version-check -c .ci/constraints.txt

PEERS := sb3 gymnax rejax transformers
PEER_TESTS := tests/test_peers*.py tests/rlhf/pretrained/test_config_fields.py

.PHONY: run test test-x64 test-slow test-browser peers test-peers bench check clean
.DELETE_ON_ERROR:

run: .venv/run-installed  ## trains a policy on CartPole; a second time shows the result
	.venv/bin/python experiments/cartpole_ppo.py --out runs/cartpole_ppo
	@echo "Open runs/cartpole_ppo/replay.html; the learning curve is learning_curve.png beside it" >&2

# Byte code is kept, for the processes that tests start.
PYTEST := PYTHONDONTWRITEBYTECODE= .venv/bin/python -m pytest -n 2 --dist loadfile
# Without XLA's newer code generator, which takes twice as long to compile.
DEFAULT_TESTS := XLA_FLAGS=--xla_cpu_use_fusion_emitters=false $(PYTEST)

test: .venv/test-installed  ## the default tests
	$(DEFAULT_TESTS)

test-x64: .venv/test-installed  ## the default tests with 64-bit types allowed
	JAX_ENABLE_X64=1 $(DEFAULT_TESTS)

test-slow: .venv/test-installed  ## learning, many processes: minutes
	$(PYTEST) -m "slow and not gpu"

test-browser: .venv/test-installed  ## the replay page in headless Chromium
	@command -v chromium >/dev/null || { \
	  echo "the browser tests need Chromium. On Debian: apt-get install chromium" >&2; exit 1; }
	.venv/bin/python -m pytest -m browser

peers: $(PEERS:%=.peers/%/installed)  ## environments with other libraries, to compare with

test-peers: peers  ## the tests beside those libraries: minutes
	for peer in $(PEERS); do \
	  .peers/$$peer/bin/python -m pytest -m peers -k test_$$peer $(PEER_TESTS) || exit 1; done

bench: .venv/test-installed peers  ## all benchmarks of control, into experiments/results: minutes
	.venv/bin/python experiments/benchmarks/bench.py

check: .venv/test-installed  ## format, lint, types
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy

clean:
	rm -rf .venv .peers .pytest_cache

.venv/run-installed: .venv/made pyproject.toml .ci/constraints.txt
	$(PIP) -e '.[viz,log]'
	@touch $@

.venv/test-installed: .venv/made pyproject.toml .ci/constraints.txt
	$(PIP) -e '.[test,browser]'
	@touch $@ .venv/run-installed

# The peers have versions of their own, which need not be ours.
.peers/%/installed: .ci/peers/%.txt pyproject.toml .ci/constraints.txt | .venv/made
	$(PYTHON) -m venv .peers/$*
	grep -v '^gymnasium' .ci/constraints.txt > .peers/$*/constraints.txt
	.peers/$*/bin/pip install --quiet --disable-pip-version-check \
	  -c .peers/$*/constraints.txt -r .ci/peers/$*.txt -e '.[viz,lm]' pytest hypothesis
	@touch $@

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rljax needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version). Name another: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@touch $@
