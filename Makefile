# Two commands do all: `make demo` runs the main job, `make test` the tests. Each makes its environment in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)
PACKAGES := base operators inputs plans protos client server deployment simulations experiments cli
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test drill mutants check format environment types generate constraints clean

environment: $(VENV)/.installed

# Every file has to have the hash that constraints.txt gives it, and nothing else is installed. The exception is torch: it comes first, by
# itself and without a hash, from wherever pip is configured to look, so that a build for CPUs alone is taken where one is at hand
# (`pip config set`, PIP_INDEX_URL or PIP_FIND_LINKS say where). A CUDA build then brings its own libraries, which have no hash either.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps $(TORCH)
	sed '/^torch==/d' constraints.txt > $(VENV)/hashed.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement $(VENV)/hashed.txt
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	touch $@

demo: environment
	$(BIN)/limbeck simulate

test: environment
	# One torch thread in each of two workers and their children: more would only wait for each other. A module goes to one worker as a
	# whole, so that what its tests share is made once; the order is that of tests/conftest.py.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# Faults, with real processes: too slow for every commit.
drill: environment
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v tests/drill
	OMP_NUM_THREADS=1 $(BIN)/python -m limbeck.experiments.faults.drill

# Defences taken out one by one; prints those that no test notices. For a part of them: make mutants RUN="--area records"
mutants: environment
	$(BIN)/python tests/mutants/run.py $(RUN)

# Type checkers do not see an editable install with mapped folders; a tree of links shows them the packages.
types: environment
	@mkdir -p .types/limbeck
	@for name in $(PACKAGES); do ln -sfn ../../$$name .types/limbeck/$$name; done
	@for name in __init__.py py.typed; do ln -sfn ../../limbeck/$$name .types/limbeck/$$name; done

check: types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .types/limbeck tests
	cd .types && ../$(BIN)/lint-imports --config ../pyproject.toml
	$(BIN)/python -m limbeck.protos.generate --check

format: environment
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: environment
	$(BIN)/python -m limbeck.protos.generate

# The same versions, with the hashes of their files anew.
constraints: environment
	$(BIN)/python .ci/constraints.py

clean:
	rm -rf $(VENV) .types build dist *.egg-info
