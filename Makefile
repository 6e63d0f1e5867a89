# Everything that is done with this repository. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Named after what it was made from: a changed requirement asks for another file, a changed date does not.
READY := $(VENV)/.ready-$(shell { cat setup.py; grep -E '^(requirements|dev_requirements|console_scripts) ' settings.ini; } | cksum | cut -d' ' -f1)
# The pages that show results: they are run again after the benchmarks.
SHOWN := index $(patsubst nbs/%.ipynb,%,$(wildcard nbs/report/*.ipynb))
T0 := $(shell date +%s)

PAGE ?=
B ?= all
P ?= smoke
SET ?=
D ?=
QUARTO ?=
RENDERER := $(if $(QUARTO),--renderer quarto)

.PHONY: help setup export text untext format page test test-all laws types smoke bench drills rhythm readme report site lab clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything in it (again only when settings.ini or setup.py changed)

$(READY):
	@echo "== setup: $(VENV) from settings.ini (about two minutes the first time)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@rm -f $(VENV)/.ready*
	@touch $@
	@echo "== setup: ok, $$(( $$(date +%s) - $(T0) )) s"

export: setup ## write the package from the notebooks, remove orphan modules, clean the notebooks
	@$(PY) tools/page.py export

text: setup ## mirror the notebooks as scripts in _text/, to be edited as text
	@$(PY) tools/page.py text $(PAGE)

untext: setup ## write edited scripts of _text/ back into the notebooks
	@$(PY) tools/page.py untext $(PAGE)

format: setup ## one style for pages, tools and tests (ruff format)
	@$(PY) tools/page.py format

page: setup ## make PAGE=signals/fourier ready to commit: write back, export, execute, clean
	@test -n "$(PAGE)" || { echo "which page? make page PAGE=signals/fourier" >&2; exit 2; }
	@$(PY) tools/page.py run $(PAGE)
	@$(PY) tools/page.py export

test: setup ## everything that must be green: cleanliness, lint, levels, pages, benchmarks, site, tests
	@$(PY) tools/check.py

test-all: setup ## the same with the long forms: clusters, browsers, more kills, more random cases (once a week)
	@$(PY) tools/check.py --long

laws: setup ## the laws of the house on this tree, one line each (seconds)
	@$(PY) tools/laws.py

types: setup ## check types, and take what is mended out of the baseline of known errors
	@$(VENV)/bin/basedpyright --level error

smoke: setup ## every benchmark with its smoke preset, results thrown away
	@$(PY) tools/check.py --only smoke

bench: setup ## one benchmark: B=b07_samplers P=cpu SET="seeds=3" (B=all: every one)
	@$(PY) -m spectral_diffusion.lab.cli bench $(B) --preset $(P) $(foreach s,$(SET),--set $(s))

drills: setup ## try what can go wrong and count what is lost: D="kills writers" (default: all that have no record; an hour and a half)
	@$(PY) tests/drills $(D) --full

rhythm: setup ## how the pages read: a table, a page a line
	@$(PY) tools/rhythm.py $(PAGE)

readme: setup ## write README.md from nbs/index.ipynb
	@$(PY) tools/readme.py

site: setup ## build the site into _site/ (QUARTO=1: by Quarto, which must be there; else by smalldocs)
	@$(PY) tools/site.py build $(RENDERER)

report: setup ## data, benchmarks that have no cpu result yet, ledger, pages of results, README, site
	@$(PY) -m spectral_diffusion.lab.cli data
	@$(PY) -m spectral_diffusion.lab.cli report
	@$(PY) tools/page.py run $(SHOWN)
	@$(PY) tools/readme.py
	@$(PY) tools/site.py build $(RENDERER)
	@s=$$(( $$(date +%s) - $(T0) )); echo "== report: _site/index.html, $$(( s/60 )) min $$(( s%60 )) s in all"

lab: setup ## open JupyterLab on the first hour, for this machine alone
	@$(VENV)/bin/jupyter lab --ServerApp.ip=127.0.0.1 --LabApp.default_url=/lab/tree/nbs/guide/first_hour.ipynb

clean: ## remove what can be made again (not .venv, not data, not results)
	@rm -rf _site _proc _docs build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find nbs spectral_diffusion tests tools -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
