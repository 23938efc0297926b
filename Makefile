# Everything a reader or a maintainer does with this book. `make help` lists it.
VENV   := .venv
PYTHON := $(VENV)/bin/python
READY  := $(VENV)/.ready
TOOLS  := PYTHONPATH=book$(if $(PYTHONPATH),:$(PYTHONPATH)) $(PYTHON) -m _tools
BASE   ?= python3
JOBS   ?= 2
export OMP_NUM_THREADS := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.DEFAULT_GOAL := help
.PHONY: help setup book execute html pdf serve check regenerate figures release bootstrap test lint unit nbval gpu mutate format lock clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## Make .venv with all that the book needs

$(READY): pyproject.toml constraints.txt
	@command -v $(BASE) >/dev/null || { echo "Python 3.10 or newer is needed: install python3."; exit 1; }
	@$(BASE) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed, this is $$($(BASE) -V). Name another one: make BASE=python3.11 …"; exit 1; }
	@$(BASE) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv is missing: apt-get install python3-venv."; exit 1; }
	@test -x $(PYTHON) || $(BASE) -m venv $(VENV)
	@$(PYTHON) book/_tools/install.py -c constraints.txt -e '.[test]'
	@touch $@

book: execute html ## Execute stale chapters, render the site, say where it is
	@echo "Open file://$(CURDIR)/_build/html/index.html, or make serve: there the live figures move"

execute: $(READY) ## Execute stale chapters; ARGS="--all", "--tier smoke", "iam/01-local-inconsistency"
	@$(TOOLS).execute --jobs $(JOBS) $(ARGS)

html: $(READY) ## Render the site from the executed chapters
	@$(TOOLS).render

pdf: $(READY) ## Set the whole book as a PDF, _build/flat-minima.pdf; needs Debian's texlive; ARGS="--vector" redraws its figures
	@$(TOOLS).pdf $(ARGS)

serve: ## Serve the rendered site on this machine only
	@$(PYTHON) -m http.server --directory _build/html --bind 127.0.0.1 8000

check: $(READY) ## Find whatever is stale or out of step
	@$(TOOLS).check

regenerate: $(READY) ## Run chapters again in _build/regenerate, report what moved; ARGS="iam/02-one-step", "--since HEAD~1"
	@$(TOOLS).regenerate --jobs $(JOBS) $(ARGS)

figures: $(READY) ## Write every figure and its data into _build/figures
	@$(TOOLS).figures

release: figures html ## Build the wheel, the site and the figures with their data into dist/
	@$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@tar -czf dist/site.tar.gz -C _build html
	@tar -czf dist/figures.tar.gz -C _build figures

bootstrap: $(READY) ## Renew the first cell of every chapter
	@$(TOOLS).bootstrap

test: $(READY) ## Lint, types, checks, tests, and every notebook's outputs
	@$(MAKE) --no-print-directory -j$(JOBS) html lint check
	@echo "The tests; beside them every notebook, told at the end: minutes"
	@$(MAKE) --no-print-directory nbval > _build/nbval.log 2>&1 & notebooks=$$!; \
	$(MAKE) --no-print-directory unit; tests=$$?; \
	wait $$notebooks; notebooks=$$?; cat _build/nbval.log; exit $$((tests | notebooks))

lint: $(READY)
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy lib book/_tools

unit: $(READY)
	@$(PYTHON) -m pytest -q -n $(JOBS) --dist loadgroup

nbval: $(READY)
	@$(PYTHON) -m pytest -q -n $(JOBS) --dist loadfile --nbval --nbval-current-env book

gpu: $(READY) ## All that waits for a GPU, resumable; ARGS="--budget 600", "--rehearse"
	@$(PYTHON) -m flatlab.gpu $(ARGS)

mutate: $(READY) ## Break the library line by line, list what no test notices; ARGS="--sample 300 --package flatlab"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutation]'
	@$(PYTHON) tests/mutate.py $(ARGS)

format: $(READY) ## Format and mend what ruff can
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

lock: $(READY) ## Pin the versions that are installed now, and their hashes
	@$(PYTHON) -m pip list --format freeze --exclude-editable --exclude pip --exclude setuptools \
	  | sed -E 's/\+[a-z0-9.]+//; s/$$/ ; python_version >= "3.11"/' > constraints.txt
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check uv
	@$(VENV)/bin/uv --quiet pip compile pyproject.toml --extra test --extra integrations -c constraints.txt --generate-hashes \
	  --python-version 3.11.9 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate -o requirements.lock

clean: ## Remove all that can be made again, except .venv
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis
