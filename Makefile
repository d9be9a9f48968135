# The template's commands, the same for a person and for CI. They need Python 3.11 or newer, git and, for the image, Docker.
PYTHON ?= python3
SERVICE := {{cookiecutter.service_slug}}
VENV := build/venv
BIN := $(VENV)/bin
DEMO := build/demo/flask-microservice

.PHONY: help demo test test-kubernetes check-quick lint bench relock clean
.DEFAULT_GOAL := help

help: ## Show what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO) ## Bake a service with the defaults and serve it on http://localhost:5000 (PORT=8000 for another)
	@$(MAKE) --no-print-directory -C $(DEMO) .venv/run
	@echo "Serving $(DEMO): see http://localhost:$${PORT:-5000}/docs/    (Ctrl-C stops it; make clean removes it)"
	@$(MAKE) --no-print-directory -C $(DEMO) run

test: $(VENV)/ready build/service/ready build/generator/ready build/extensions/ready ## Run all tests; those of the image need a Docker engine (ARGS="-k slug" for some)
	@status=0; \
	if docker info >/dev/null 2>&1; then $(BIN)/python -m pytest -m docker --numprocesses 3 --dist loadfile $(ARGS) || [ $$? = 5 ] || status=1; \
	elif [ "$$CI" = true ]; then echo "No Docker engine answers, and CI has to run tests/docker: start one" >&2; exit 1; \
	else echo "No Docker engine answers: tests/docker (image, compose) is left out, all else runs" >&2; fi; \
	$(BIN)/python -m pytest -m "not docker" --numprocesses 3 $(ARGS) || status=1; exit $$status

test-kubernetes: $(VENV)/ready ## Roll a service out on the cluster of KUBECONFIG, a node of this machine: tests/kubernetes says what it needs
	$(BIN)/python -m pytest tests/kubernetes $(ARGS)

check-quick: lint build/service/ready ## Lint, and the tests that take seconds each
	$(BIN)/python -m pytest -m "not docker and not slow" --numprocesses 2 $(ARGS)

lint: $(VENV)/ready ## Style, format and types of the template's own Python
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: build/service/ready ## Measure the chassis beside bare Flask, layer by layer (with wrk also on the server)
	build/service/bin/python benchmarks/chassis.py
	build/service/bin/python benchmarks/admission.py
	build/service/bin/python benchmarks/client.py
	build/service/bin/python benchmarks/database.py
	rm -rf build/bench
	$(BIN)/cookiecutter --no-input --default-config --output-dir build/bench .
	build/service/bin/python benchmarks/memory.py build/bench/flask-microservice
	$(BIN)/cookiecutter --no-input --default-config --output-dir build/bench . service_slug=events database=postgresql messaging=rabbitmq
	build/service/bin/python benchmarks/messaging.py build/bench/events

relock: $(VENV)/ready ## Fit all requirements files to the manifests (ARGS=--upgrade takes the newest versions)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/relock $(ARGS)

clean: ## Remove what these commands made
	rm -rf build .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(DEMO): build/demo/venv/ready
	@echo "Baking a service into $(DEMO)"; \
	told=$$(build/demo/venv/bin/cookiecutter --no-input --default-config --output-dir build/demo .) || { echo "$$told"; exit 1; }

# cookiecutter and what comes with it, in the versions that the tests ran with.
build/demo/venv/ready: requirements-dev.txt
	$(call environment,build/demo/venv)
	@sed -n 's/^\([a-z].*\) \\$$/\1/p' requirements-dev.txt >build/demo/versions.txt
	@echo "Installing cookiecutter into build/demo/venv"
	@build/demo/venv/bin/python -m pip install $(QUIET) --constraint build/demo/versions.txt cookiecutter
	@touch $@

$(VENV)/ready: requirements-dev.txt
	$(call environment,$(VENV))
	$(BIN)/python -m pip install $(QUIET) --require-hashes --requirement requirements-dev.txt
	@touch $@

build/service/ready: $(VENV)/ready $(SERVICE)/requirements-dev.txt
	$(call locked,build/service,--requirement "$(SERVICE)/requirements-dev.txt")

# What a service's `make client` installs.
build/generator/ready: $(VENV)/ready $(SERVICE)/scripts/contracts/requirements.txt
	$(call locked,build/generator,--requirement "$(SERVICE)/scripts/contracts/requirements.txt")

# The service's with extensions of Flask, for tests/habits.
build/extensions/ready: $(VENV)/ready $(SERVICE)/requirements-dev.txt tests/habits/requirements.txt
	$(call locked,build/extensions,--requirement "$(SERVICE)/requirements-dev.txt" --requirement tests/habits/requirements.txt)

define locked
$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(1)
$(BIN)/uv pip install --quiet --python $(1)/bin/python --require-hashes $(2)
@touch $(1)/ready
endef

QUIET := --quiet --disable-pip-version-check

define environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
{ echo "$(PYTHON) is missing or older than 3.11; name a newer one, as in: make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; exit 1; }
@$(PYTHON) -m venv --clear $(1) || { echo "Install Python's venv module (Debian: apt install python3-venv)" >&2; exit 1; }
endef
