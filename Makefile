# The whole developer interface; `make` lists it. Each target first makes the virtual environments it needs, from the
# lock files in requirements/: Python >= 3.11 and make are all that must be there.

PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$each; break; }; done)
UV_VERSION := 0.13.9
VENV := .venv
MINISTACK_VENV := .venv-ministack
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MINISTACK_READY := $(MINISTACK_VENV)/.ready
PIP_ARGS := install --quiet --disable-pip-version-check
PIP_INSTALL := -m pip $(PIP_ARGS)
UV_COMPILE := .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header
ARGS ?=
QUICK ?=
SEEDS ?= 1000
SECONDS ?= 60
# Debian keeps nginx where only root's PATH looks.
export PATH := $(PATH):/usr/sbin
export S3NSYNC_MINISTACK ?= $(CURDIR)/$(MINISTACK_VENV)/bin/ministack

.DEFAULT_GOAL := help
.PHONY: help demo dev check test pythons interop crash-points image-test terraform-test terraform-apply-test pipeline-test pipeline-image-test bench bench-listing soak mutants fuzz ci fix docs lambda lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-21s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) $(MINISTACK_READY) ## the whole product on this machine, in a minute: make demo ARGS=--json
	@$(BIN)/s3nsync demo $(ARGS)

dev: $(READY) $(MINISTACK_READY) ## the same, kept running to play with
	@$(BIN)/s3nsync dev $(ARGS)

check: $(READY) ## style, types, layers, generated pages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/generate_docs.py --check

test: $(READY) $(MINISTACK_READY) .venv-moto/.ready ## every test but interop: make test ARGS='-k routes'
	@command -v nginx >/dev/null || $(MAKE) --no-print-directory .install-nginx || \
		{ test -z "$$CI" && echo 'note: going on without the tests against nginx' >&2; }
	$(BIN)/pytest -n 2 --dist loadfile -m 'not interop and not image' $$(command -v nginx >/dev/null || \
		echo --ignore=tests/contract/test_http_nginx.py) $(ARGS)

interop: $(READY) ## clients that are not ours (rclone, Akamai's kit) against our emulator
	@command -v rclone >/dev/null || $(MAKE) --no-print-directory .install-rclone
	S3NSYNC_INTEROP=1 $(BIN)/pytest -m interop tests/interop $(ARGS)

crash-points: $(READY) $(MINISTACK_READY) ## kill -9 at every named moment, patience outlasted, large numbers: half an hour
	S3NSYNC_CRASH_POINTS=all $(BIN)/pytest -n 2 --dist loadfile tests/e2e/test_crash_points.py \
		tests/e2e/test_tcp_faults.py tests/e2e/test_fault_menu.py $(ARGS)

image-test: $(READY) $(MINISTACK_READY) .venv-hadolint/.ready ## the image, built and run for real: as root, on Debian
	@for each in buildah debootstrap docker-registry; do \
		command -v $$each >/dev/null || $(MAKE) --no-print-directory .install-$$each || exit 1; done
	PATH="$(CURDIR)/.venv-hadolint/bin:$$PATH" S3NSYNC_IMAGE=1 $(BIN)/pytest -m image tests/image -s $(ARGS)

terraform-test: $(READY) ## the Terraform sources, without an AWS: format, validity, mock tests, scan
	@command -v terraform >/dev/null || { echo 'terraform 1.11 or later is missing: see developer.hashicorp.com' >&2; exit 1; }
	@$(MAKE) --no-print-directory .venv-checkov/.ready
	cd tests && ../$(BIN)/python -m terraform.static --checkov ../.venv-checkov/bin/checkov

terraform-apply-test: .venv-moto/.ready ## the Terraform root, applied to a stand-in for AWS: some five minutes
	cd tests && ../.venv-moto/bin/python -m terraform.apply

pipeline-test: $(READY) $(MINISTACK_READY) .venv-moto/.ready ## what Terraform deploys, at work: some five minutes
	cd tests && ../$(BIN)/python -m terraform.pipeline

pipeline-image-test: $(READY) $(MINISTACK_READY) .venv-moto/.ready ## the same from the image that Terraform builds: as root, on Debian
	@for each in buildah debootstrap docker-registry; do \
		command -v $$each >/dev/null || $(MAKE) --no-print-directory .install-$$each || exit 1; done
	cd tests && ../$(BIN)/python -m terraform.builder

bench: $(READY) .venv-bench/.ready ## against rclone, boto3 and others: twenty minutes; make bench QUICK=1 shows only that it runs
	@for each in nginx rclone wrk; do \
		command -v $$each >/dev/null || $(MAKE) --no-print-directory .install-$$each || exit 1; done
	$(BIN)/python -m bench.run $(if $(QUICK),--quick) $(ARGS)

bench-listing: $(READY) ## verify beside rclone check, a million keys a side: two minutes; QUICK=1 shows that it runs
	@command -v rclone >/dev/null || $(MAKE) --no-print-directory .install-rclone
	$(BIN)/python -m bench.listing $(if $(QUICK),--quick) $(ARGS)

soak: $(READY) ## hostile schedules on the real engine and worker in a simulated world: make soak SEEDS=10000
	@$(BIN)/python tests/sim/soak.py --seeds $(SEEDS) $(ARGS)

fuzz: $(READY) ## random answers at the HTTP client, judged by a second reader: make fuzz SECONDS=600
	@PYTHONPATH=tests $(BIN)/python tests/fuzz/answers.py --seconds $(SECONDS) $(ARGS)

mutants: $(READY) ## plant bugs in a copy of the source, and see the simulation find each of them
	@$(BIN)/python tests/sim/mutants.py --seeds 2500 $(ARGS)

pythons: ## the tests without ministack on every other supported Python that is found
	@set -e; for version in 3.11 3.12 3.13; do \
		for each in python$$version $$HOME/.pyenv/versions/$$version.*/bin/python; do \
			$$each -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')" 2>/dev/null && break; \
			each=; \
		done; \
		if test -z "$$each"; then echo "note: there is no Python $$version here"; \
		elif test "$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')" != $$version; then \
			echo "--- Python $$version"; \
			$(MAKE) --no-print-directory .portable VENV=.venv-$$version PYTHON=$$each; \
		fi; \
	done

.PHONY: .portable
.portable: $(READY)
	$(BIN)/pytest -q -n 2 --dist loadfile tests/unit tests/engine tests/worker tests/fuzz \
		tests/contract/test_http_hostile.py tests/contract/test_http_parsing.py tests/contract/test_http_proxy.py \
		tests/contract/test_netstorage_client.py $(ARGS)

ci: ## what must be green, each step with its time: check to bench, and terraform-test if it is there
	@set -e; for step in check test pythons interop 'demo ARGS=--json' 'bench QUICK=1' \
		$$(command -v terraform >/dev/null && echo terraform-test); do \
		started=$$(date +%s); echo "--- make $$step"; \
		$(MAKE) --no-print-directory $$step; \
		echo "--- make $$step: $$(( $$(date +%s) - started )) s"; \
	done

fix: $(READY) ## mend what ruff can mend, and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(READY) ## write docs/configuration.md, docs/cli.md and the tables of terraform/README.md anew
	$(BIN)/python tools/generate_docs.py
	$(BIN)/python tests/terraform/tables.py

lambda: | .python ## the Lambda's zip, into build/
	@mkdir -p build
	$(PYTHON) src/s3nsync/lambda_zip.py build/s3nsync-lambda.zip

lock: .venv-lock/bin/uv ## refresh the pinned requirements: make lock ARGS=--upgrade
	$(UV_COMPILE) $(ARGS) --extra fast pyproject.toml -o requirements/runtime.txt
	$(UV_COMPILE) $(ARGS) --all-extras --group build --group test --group check pyproject.toml \
		-c requirements/runtime.txt -o requirements/dev.txt
	@set -e; for each in requirements/*.in; do $(UV_COMPILE) $(ARGS) $$each -o $${each%.in}.txt; done

clean: ## remove everything that make made
	rm -rf $(VENV) .venv-* build dist .cache .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis

# --- environments ----------------------------------------------------------------------------------------------
# A new lock makes a new environment, so that nothing lingers; a new pyproject.toml only installs ourselves again.

.PHONY: .python

.python:
	@test -n '$(PYTHON)' && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "s3nsync needs Python 3.11 or later; '$(or $(PYTHON),python3)' is older, or is not there;" \
		"name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.locked: requirements/dev.txt | .python
	@echo 'making the environment $(VENV): a minute or two, once' >&2
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python $(PIP_INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@

$(READY): $(VENV)/.locked pyproject.toml
	$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# What the bench's clients run on, ours and the others: the Python that PYTHON= names, or an optimised one that is found.
.PHONY: .always

.cache/bench-python: .always | .python
	@mkdir -p $(@D)
	@$(PYTHON) bench/interpreter.py $@ $(if $(filter command environment,$(firstword $(origin PYTHON))),--named $(PYTHON))

.venv-bench/.ready: requirements/bench.txt requirements/runtime.txt .cache/bench-python | $(READY)
	$$(cat .cache/bench-python) -m venv --clear --without-pip .venv-bench
	$(BIN)/python -m pip --python .venv-bench/bin/python $(PIP_ARGS) --require-hashes -r requirements/bench.txt \
		-r requirements/runtime.txt
	@touch $@

# Tools that pin what we need in other versions live in environments of their own, each named after its lock.
.venv-%/.ready: requirements/%.txt | .python
	$(PYTHON) -m venv --clear .venv-$*
	.venv-$*/bin/python $(PIP_INSTALL) --require-hashes -r $<
	@touch $@

.venv-lock/bin/uv: | .python
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python $(PIP_INSTALL) uv==$(UV_VERSION)

# RUNLEVEL=1 keeps Debian from starting what it installs as a service.
.install-%:
	@if test "$$(id -u)" = 0; then as_root=env; elif sudo -n true 2>/dev/null; then as_root='sudo env'; fi; \
	if test -n "$$as_root" && command -v apt-get >/dev/null; then \
		$$as_root apt-get update -q && \
		$$as_root RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $*; \
	else echo '$* is missing, and cannot be installed from here: get it with your package manager' >&2; exit 1; fi
