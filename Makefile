# The index of commands: `make` lists them, every recipe is one or two commands that also run alone.
.DEFAULT_GOAL := help
SHELL  := /bin/bash
PYTHON ?= python3
GRID   ?= demo
SITE   ?= site.toml
NAME   ?= demo
PY     := .venv/bin/python

.PHONY: help setup demo corpus models plan dry-run submit status resubmit cancel merge table report check test test-slurm

##@ Start here
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## make .venv with the versions of constraints.txt

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --constraint constraints.txt torch
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

##@ Data and models
demo: setup ## generate the demo's genomes, corpus, tokens and backbone (a minute)
	$(PY) -m data_prep.demo --site "$(SITE)"
	$(PY) -m jobs.models demo --site "$(SITE)"

corpus: setup ## build a corpus and its tokens: NAME=… SOURCE="--manifest FILE --taxdump PATH …"
	$(if $(SOURCE),$(if $(filter demo,$(NAME)),$(error give NAME=… too: demo is the generated corpus)),$(if $(filter demo,$(NAME)),,$(error give SOURCE="--manifest FILE|--fragments DIR --taxdump PATH", see python -m data_prep.corpus --help)))
	$(if $(SOURCE),$(PY) -m data_prep.corpus "$(NAME)" $(SOURCE) --site "$(SITE)",$(PY) -m data_prep.demo --site "$(SITE)")
	$(if $(SOURCE),$(PY) -m data_prep.tokenize "$(NAME)" nt_v2 --site "$(SITE)")

models: setup ## make or check the backbones that GRID needs
	$(PY) -m jobs.models "$(GRID)" --site "$(SITE)"

##@ A study: GRID=demo, taxonomy_paper, taxonomy, or path/to/mine.py
plan: setup ## list the cells with their predicted time and what is missing
	$(PY) -m jobs.plan "$(GRID)" --site "$(SITE)"

dry-run: setup ## show what submit would send, send nothing
	$(PY) -m jobs.submit "$(GRID)" --site "$(SITE)" --dry-run

submit: setup $(if $(filter demo,$(GRID)),demo) ## run every cell that has no result: SLURM arrays, or here
	$(PY) -m jobs.submit "$(GRID)" --site "$(SITE)"

status: setup ## where every cell stands
	$(PY) -m jobs.status "$(GRID)" --site "$(SITE)"

resubmit: setup ## run the cells again that ended without a result
	$(PY) -m jobs.resubmit "$(GRID)" --site "$(SITE)"

cancel: setup ## cancel what is queued or running
	$(PY) -m jobs.cancel "$(GRID)" --site "$(SITE)"

##@ Results, offline
merge: setup ## put all results of GRID into one file
	$(PY) -m analysis.merge "$(GRID)" --site "$(SITE)"

table: setup ## print the results table
	$(PY) -m analysis.tables "$(GRID)" --site "$(SITE)"

report: setup ## write report.html
	$(PY) -m analysis.report "$(GRID)" --site "$(SITE)"

##@ Development
check: setup ## formatting, lint, types, import rules
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

test: setup ## unit and integration tests: no root, no cluster, no GPU
	$(PY) -m pytest tests/unit tests/integration

test-slurm: setup ## start a real SLURM on this Debian machine (root), test on it, stop it
	tests/cluster/with-cluster $(PY) -m pytest -m slurm tests/slurm
