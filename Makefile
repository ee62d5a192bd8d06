# The commands of this project. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
UV := $(VENV)/uv/bin/uv
COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --python-version 3.11

# Packages are kept for the next checkout, or in this one where there is no other place.
ifeq ($(shell mkdir -p "$${UV_CACHE_DIR:-$${XDG_CACHE_HOME:-$$HOME/.cache}/uv}" 2>/dev/null && echo yes),)
export UV_CACHE_DIR := $(CURDIR)/$(VENV)/cache
endif

# The requirements that services run with are resolved one by one; all others are held to the same versions.
SERVICES := notes_api scheduler backup_lambda

.PHONY: lock
lock: $(UV) ## pin all requirements anew, with hashes
	@for service in $(SERVICES); do \
		$(COMPILE) services/$$service/pyproject.toml -o services/$$service/requirements.txt; \
	done
	@$(COMPILE) services/backup_lambda/pyproject.toml --extra cli $(SERVICES:%=-c services/%/requirements.txt) \
		-o services/backup_lambda/requirements-cli.txt
	@$(COMPILE) deploy/emulator/requirements.in -o deploy/emulator/requirements.txt
	@$(COMPILE) deploy/local/requirements.in -c services/backup_lambda/requirements.txt -o deploy/local/requirements.txt
	@$(COMPILE) deploy/cdk/requirements.in -o deploy/cdk/requirements.txt
	@$(COMPILE) tests/tools/requirements.in -o tests/tools/requirements.txt
	@$(COMPILE) tests/requirements.in deploy/local/requirements.in $(SERVICES:%=services/%/pyproject.toml) --extra cli \
		$(SERVICES:%=-c services/%/requirements.txt) -c services/backup_lambda/requirements-cli.txt \
		-c deploy/local/requirements.txt -o tests/requirements.txt

$(UV): deploy/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Python 3.11 or newer is needed: set PYTHON to one, as in `make up PYTHON=python3.13`'; exit 1; }
	@$(PYTHON) -m venv $(VENV)/uv || { echo 'venv is missing: on Debian and Ubuntu, install python3-venv'; exit 1; }
	@$(VENV)/uv/bin/python -m pip install --quiet --disable-pip-version-check --retries 1 --require-hashes -r deploy/uv.txt
	@touch $@

# An environment is made anew when its requirements changed; uv says which package it could not get.
$(VENV)/%/.done: $(UV)
	@echo 'installing into $(VENV)/$*'
	@$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)/$*
	@$(UV) pip sync --quiet --compile-bytecode --python $(VENV)/$*/bin/python --require-hashes $(filter %.txt,$^)
	@touch $@

$(VENV)/dev/.done: tests/requirements.txt
$(VENV)/local/.done: deploy/local/requirements.txt
$(VENV)/emulator/.done: deploy/emulator/requirements.txt
$(VENV)/cdk/.done: deploy/cdk/requirements.txt
$(VENV)/tools/.done: tests/tools/requirements.txt
$(VENV)/notes_api/.done: services/notes_api/requirements.txt
$(VENV)/scheduler/.done: services/scheduler/requirements.txt
$(VENV)/backup_lambda/.done: services/backup_lambda/requirements-cli.txt

# Spectral and axe-core are from npm: with the Node of the tools, of exactly what the lock file has hashes of.
$(VENV)/spectral/.done: tests/tools/package.json tests/tools/package-lock.json $(VENV)/tools/.done
	@echo 'installing into $(VENV)/spectral'
	@mkdir -p $(@D) && cp tests/tools/package.json tests/tools/package-lock.json $(@D)
	@cd $(@D) && PATH="$(CURDIR)/$(VENV)/tools/bin:$$PATH" npm ci --silent --ignore-scripts --no-audit --no-fund
	@touch $@

ENVIRONMENTS := local emulator notes_api scheduler

.PHONY: up
up: $(ENVIRONMENTS:%=$(VENV)/%/.done) ## start everything on this machine, until Ctrl-C
	@exec $(VENV)/local/bin/python -m deploy.local up

.PHONY: down
down: $(VENV)/local/.done ## stop what `make up` started in another terminal
	@$(VENV)/local/bin/python -m deploy.local down

.PHONY: reset
reset: $(VENV)/local/.done ## remove .local/, with all notes and backups in it
	@$(VENV)/local/bin/python -m deploy.local reset

# With the keys of ops, who may read the bucket and nothing else of it.
.PHONY: verify
verify: $(VENV)/backup_lambda/.done ## read this machine's backups: what is missing, altered or swapped
	@set -a; . "$${HOLDFAST_HOME:-.local}/env"; PYTHONPATH=services exec $(VENV)/backup_lambda/bin/python \
		-m backup_lambda verify --bucket "$$BACKUP_BUCKET" --key "$$SIGNING_KEY" --read-data

.PHONY: cli
cli: $(VENV)/backup_lambda/.done ## install what `python -m backup_lambda` needs; the README shows its use

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14

# The same interpreter for tests of all services, and one with CDK, which brings its own Node.
TESTED := dev local emulator notes_api scheduler backup_lambda cdk tools spectral

PARTS := test-backups test-rest test-system test-faults test-notes test-browser test-template

.PHONY: test
test: $(TESTED:%=$(VENV)/%/.done) ## all the tests but Docker's, three parts at a time: they mostly wait for servers
	@$(MAKE) --no-print-directory --jobs=3 --keep-going --output-sync=target $(PARTS)

# Backups have no SQLAlchemy, hence no greenlets, and to look for these at every call doubles what coverage costs.
.PHONY: coverage
coverage: $(TESTED:%=$(VENV)/%/.done) ## the same, with the lines and branches of the services that no test reaches; twice as long
	@rm -f .coverage .coverage.*
	@$(MAKE) --no-print-directory --jobs=3 --keep-going --output-sync=target $(PARTS) \
		PYTEST='$(VENV)/dev/bin/python -m coverage run -m pytest' \
		PYTEST_BACKUPS='$(VENV)/dev/bin/python -m coverage run --concurrency=thread -m pytest'
	@$(VENV)/dev/bin/python -m coverage combine --quiet
	@$(VENV)/dev/bin/python -m coverage report

PYTEST := $(VENV)/dev/bin/python -m pytest --durations=8 --durations-min=8
PYTEST_BACKUPS := $(PYTEST)
FAULTS := tests/backup_lambda/faults
APART := tests/backup_lambda tests/notes_api tests/system tests/browser tests/cdk tests/compose

.PHONY: test-backups
test-backups:
	@$(PYTEST_BACKUPS) tests/backup_lambda --ignore=$(FAULTS)

.PHONY: test-faults
test-faults:
	@$(PYTEST_BACKUPS) $(FAULTS)

.PHONY: test-notes
test-notes:
	@$(PYTEST) tests/notes_api

.PHONY: test-system
test-system:
	@$(PYTEST) tests/system

.PHONY: test-browser
test-browser: # without Chromium its last line says that it was left out, and how to get it
	@$(PYTEST) -rs tests/browser

.PHONY: test-rest
test-rest:
	@$(PYTEST) $(APART:%=--ignore=%)

.PHONY: test-template
test-template: $(VENV)/cdk/.done
	@$(VENV)/cdk/bin/python -m pytest tests/cdk

.PHONY: test-compose
test-compose: $(VENV)/dev/.done ## compose.yaml by Docker, which `make test` does without
	@$(VENV)/dev/bin/python -m pytest tests/compose

MYPY := $(VENV)/dev/bin/python -m mypy --no-error-summary

.PHONY: lint
lint: $(VENV)/dev/.done $(VENV)/cdk/.done ## format, lint and types
	@$(VENV)/dev/bin/ruff format --check --quiet . || { echo 'run `make format`'; exit 1; }
	@$(VENV)/dev/bin/ruff check --quiet .
	@$(MYPY) services deploy/local deploy/containers deploy/*.py tests --exclude '^tests/cdk/'
	@$(MYPY) --python-executable $(VENV)/cdk/bin/python deploy/cdk tests/cdk

.PHONY: format
format: $(VENV)/dev/.done ## put the code into its form
	@$(VENV)/dev/bin/ruff format --quiet .
	@$(VENV)/dev/bin/ruff check --quiet --fix .

.PHONY: check
check: $(TESTED:%=$(VENV)/%/.done) ## what CI runs: lint, and all the tests beside it
	@$(MAKE) --no-print-directory --jobs=3 --keep-going --output-sync=target lint $(PARTS)

.PHONY: bench
bench: $(VENV)/dev/.done $(VENV)/emulator/.done $(VENV)/tools/.done ## measure backups, the notes API and the scheduler beside others; BENCH='--only scheduler'
	@$(VENV)/dev/bin/python -m tests.bench $(BENCH)

SOAK_MINUTES ?= 2

.PHONY: soak
soak: $(VENV)/dev/.done ## the scheduler while its workers and servers are killed, for SOAK_MINUTES (2): what is lost, what is doubled
	@PYTHONPATH=services:. $(VENV)/dev/bin/python -m tests.scheduler.soak $(SOAK_MINUTES)

.PHONY: package
package: $(VENV)/dev/.done $(VENV)/emulator/.done ## build the function packages, for this machine and for Lambda
	@$(VENV)/dev/bin/python -m deploy.package local --python $(VENV)/emulator/bin/python
	@$(VENV)/dev/bin/python -m deploy.package lambda

.PHONY: deploy
deploy: $(VENV)/local/.done ## deploy a stack to AWS, or run a task of it: STACK=backup SET="NAME=VALUE ..." RUN=; see docs/deploy.md
	@$(VENV)/local/bin/python -m deploy.aws $(STACK) $(SET:%=--set %) $(RUN:%=--run %)

.PHONY: smoke
smoke: $(VENV)/local/.done ## ask a deployed backup stack for a backup, and see that it is proven: STACK=holdfast-backup
	@$(VENV)/local/bin/python -m deploy.smoke $(STACK)

IMAGE_MB := 250

.PHONY: images
images: ## build the services' images with Docker, none larger than $(IMAGE_MB) MB
	@docker compose build notes_api scheduler
	@docker build --quiet --tag holdfast/backup_lambda:local services/backup_lambda
	@for image in $(SERVICES:%=holdfast/%:local); do \
		bytes=$$(docker image inspect --format '{{.Size}}' $$image); echo "$$image $$((bytes / 1000000)) MB"; \
		test $$bytes -le $(IMAGE_MB)000000 || { echo "larger than $(IMAGE_MB) MB"; exit 1; }; \
	done

AUDITED := $(SERVICES:%=services/%/requirements.txt) services/backup_lambda/requirements-cli.txt \
	deploy/local/requirements.txt deploy/cdk/requirements.txt

.PHONY: audit
audit: $(UV) ## compare what the services and deployments need with the known vulnerabilities
	@for each in $(AUDITED); do \
		$(UV) tool run --quiet --from pip-audit==2.10.1 pip-audit --require-hashes --disable-pip --requirement $$each \
			|| { echo "$$each: upgrade it with make lock"; exit 1; }; \
	done

.PHONY: template
template: $(VENV)/cdk/.done ## write the template of the AWS stack, and docs/rights.md
	@$(VENV)/cdk/bin/python -m deploy.cdk.app
	@$(VENV)/cdk/bin/python -m deploy.cdk.rights

.PHONY: contracts
contracts: $(VENV)/dev/.done ## write the OpenAPI documents
	@for service in $(SERVICES); do \
		PYTHONPATH=services $(VENV)/dev/bin/python -m $$service.openapi > tests/contract/$$service.openapi.json; \
	done
