# make demo and make test do everything on a machine with Python 3.11 or newer; make help lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEMO   := outputs/demo
DATA   ?= data
SIZE   ?= hours
# off leaves the tutorial of the site as it is written, without what its cells print.
NOTEBOOK ?= force

.DEFAULT_GOAL := help
.PHONY: help setup demo test docs lint check figures figures-gpu bench particles wheel clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(READY) ## make .venv and install mfrun with everything it needs

# pip would compile the 20000 files of PyTorch and the others on one core, their tests too. Templates do not compile.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("mfrun needs Python 3.11 or newer: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -q -j 0 -x '/tests?/' $(VENV)/lib mfrun >/dev/null 2>&1 || true
	@touch $@

demo: $(READY) ## a small sweep on two Gaussians with n = infinity, and its picture
	rm -rf $(DEMO)
	$(BIN)/mfrun sweep dataset=gaussians depth=5 'widths=[25,50,100,200,inf]' steps=5000 replicates=4 dir=$(DEMO)
	$(BIN)/mfrun compare $(DEMO)
	@echo; echo "The learning curves:"; $(BIN)/mfrun plot $(DEMO) --title 'Isotropic Gaussians, 5 layers'

test: $(READY) ## the tests, on all cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

docs: $(READY) ## the documentation site, into outputs/docs; runs the tutorial, and a warning is an error
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -b html -W --keep-going -q -D nb_execution_mode=$(NOTEBOOK) \
		-d outputs/docs/.doctrees docs outputs/docs
	@echo outputs/docs/index.html

lint: $(READY) ## style, types, and what may import what
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test ## lint and test

figures: $(READY) ## the runs and pictures of the README and docs/figures.md (SIZE=minutes, hours or full; DATA=folder, CIFAR=file.npz)
	PATH="$(CURDIR)/$(BIN):$$PATH" MFRUN_DATA="$(DATA)" CIFAR="$(CIFAR)" sh scripts/figures.sh $(SIZE)

figures-gpu: $(READY) ## every figure of the paper in full, for docs/figures.md (many hours; DATA=folder)
	PATH="$(CURDIR)/$(BIN):$$PATH" MFRUN_DATA="$(DATA)" sh scripts/figures.sh gpu

bench: $(READY) ## steps against JAX, plain PyTorch and the matrix products; whole runs (DATA=folder of MNIST, CIFAR-10)
	$(BIN)/python scripts/bench.py --out outputs/bench.csv
	$(BIN)/python scripts/bench_limit.py
	$(BIN)/python scripts/bench_cnn.py --out outputs/bench_cnn.csv
	$(BIN)/python scripts/bench_runs.py --root $(DATA) --out outputs/bench_runs.csv

particles: $(READY) ## error of the limit against the number of particles (DATA=folder of MNIST)
	$(BIN)/python scripts/particles.py --root $(DATA)

wheel: $(READY) ## build a wheel into dist/
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist .

clean: ## remove .venv and what the tools left behind
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
