# Everything runs in .venv, which `make setup` builds once and again when the dependencies change.

PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
export RAY_USAGE_STATS_ENABLED := 0
# Flower's own state stays inside the working tree.
export FLWR_HOME ?= $(CURDIR)/.flwr

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help bench-sim bench-fleet bench-store bench-train bench-paper bench-plan bench-predict prove-exact prove-ram fuzz bench-join bench-serve kill-runs bench-gpu setup demo test lint lean check format protos clean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

setup: $(STAMP) ## Make .venv with fedpoet and the tools for development, at pinned versions.

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "fedpoet needs Python 3.11 or newer; name one: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP) ## Simulate a fleet of three kinds of devices; more options with ARGS="...".
	$(BIN)/fedpoet simulate $(ARGS)

# Two runs, so that a broken unit test shows before the long tests start. 5: nothing was selected.
test: $(STAMP) ## Run all tests, the slow ones last; more options with ARGS="...".
	$(BIN)/python -m pytest -n auto -m "not slow" $(ARGS)
	$(BIN)/python -m pytest -n auto -m slow $(ARGS) || [ $$? -eq 5 ]

lint: $(STAMP) ## Check style, format, types and the direction of imports.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lean: ## Prove that `python -m scheduler` needs neither torch nor flwr, in a fresh environment.
	PYTHON=$(PYTHON) tests/without_torch.sh

check: lint test ## Everything that must pass before a commit: lint, then test.

format: $(STAMP) ## Format the code and fix what can be fixed safely.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-paper: $(STAMP) ## POET and every baseline on the networks and devices of the paper, into docs/ (half an hour).
	$(BIN)/python -m benchmarks.paper $(ARGS)

bench-plan: $(STAMP) ## Energy, proven gap and seconds of planning, against the targets (hours; ARGS="--quick": minutes).
	$(BIN)/python -m benchmarks.plan $(ARGS)

bench-predict: $(STAMP) ## Predicted against measured step time on this machine (some minutes; best with nothing else running).
	$(BIN)/python -m benchmarks.predict $(ARGS)

prove-exact: $(STAMP) ## Plans against plain training, 42 combinations of 20 steps: every bit, every byte (hours; ARGS="--only mlp").
	$(BIN)/python -m benchmarks.exact $(ARGS)

prove-ram: $(STAMP) ## Plans under a hard memory limit, in which plain training dies (many minutes; ARGS="--quick": one).
	$(BIN)/python -m benchmarks.prove_ram $(ARGS)

bench-train: $(STAMP) ## Time of a training step by its plan, by torch.utils.checkpoint and plain, as ratios (half an hour).
	$(BIN)/python -m benchmarks.train $(ARGS)

bench-gpu: $(STAMP) ## On a GPU: plans, checkpoints and save_on_cpu as ratios to plain eager (ARGS="--device cpu --quick" to try it out).
	$(BIN)/python -m benchmarks.gpu $(ARGS)

bench-fleet: $(STAMP) ## A hundred thousand devices, 200 rounds of events with plans and energy, no training (a minute).
	$(BIN)/python -m benchmarks.fleet $(ARGS)

bench-store: $(STAMP) ## Throughput of the encrypted page store against the same file without encryption.
	$(BIN)/python -m benchmarks.store $(ARGS)

fuzz: $(STAMP) ## 120,000 bad inputs against the codec and the device service (minutes; ARGS="--seed 2").
	GRPC_VERBOSITY=NONE $(BIN)/python -m benchmarks.fuzz_service $(ARGS)

bench-join: $(STAMP) ## A device that waits, and what the framework adds to a round (a minute, nothing else running).
	$(BIN)/python -m benchmarks.join $(ARGS)

bench-serve: $(STAMP) ## The device service with 1,000 devices, and with models of 200 and 600 MB; Flower's SuperLink (some minutes; ARGS="--quick").
	$(BIN)/python -m benchmarks.serve $(ARGS)
	$(BIN)/python -m benchmarks.serve_flower

kill-runs: $(STAMP) ## Kill coordinators and devices at random moments in 50 runs, and compare the models (half an hour; ARGS="--runs 3").
	$(BIN)/python -m benchmarks.kill_runs $(ARGS)

bench-sim: $(STAMP) ## Simulators compared: fedpoet, Flower with Ray, pfl; the same task, ratios (a quarter of an hour, nothing else running).
	$(BIN)/python -m benchmarks.sim $(ARGS)

protos: $(STAMP) ## Generate protos/*_pb2.py, *_pb2.pyi and *_pb2_grpc.py from protos/*.proto.
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. protos/*.proto
	$(BIN)/python -m grpc_tools.protoc -I . --grpc_python_out=. protos/device.proto
	@# The generator writes no types for services.
	@for f in protos/*_pb2_grpc.py; do { echo '# mypy: ignore-errors'; cat $$f; } > $$f.new && mv $$f.new $$f; done

clean: ## Remove .venv, caches and build results (not runs/).
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .flwr
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
