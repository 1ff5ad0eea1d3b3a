# Two commands for a fresh machine with Python 3.11+: `make demo` and `make test`. Every target is one line of work.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Wheels only: a source package runs code before it is installed. Linux on ARM needs WHEELS=--prefer-binary, for faust-streaming has none there.
WHEELS ?= --only-binary :all:
INSTALL := .venv/bin/pip install --quiet --disable-pip-version-check
LOCK := .venv/maintenance/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command 'make lock'

.PHONY: demo up down check test lock audit bench bench-decide bench-engine bench-connectors bench-idle bench-life bench-neighbours bench-sinks bench-start crash-engine attack soak clean
.DEFAULT_GOAL := demo

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv && $(INSTALL) --require-hashes $(WHEELS) -r constraints.txt && $(INSTALL) --no-deps --no-build-isolation -e . && touch $@

demo: .venv/ready   ## one run, the whole way, with a computed verdict
	chat4all demo

up: .venv/ready     ## the same stack and stages, left running
	chat4all up

down: .venv/ready   ## ends what `make up` started
	chat4all down

check: .venv/ready  ## style and types, the same as in CI
	ruff format --check . && ruff check . && mypy

test: .venv/ready   ## all tests, on real servers, two files side by side
	pytest -n 2 --dist loadfile --no-loadscope-reorder

.venv/maintenance: .venv/ready maintenance.txt
	$(PYTHON) -m venv $@ && $@/bin/pip install --quiet --disable-pip-version-check --require-hashes $(WHEELS) -r maintenance.txt && touch $@

lock: .venv/maintenance  ## writes constraints.txt, maintenance.txt and stack/kafka_jars.txt; keeps what is pinned: make lock UPGRADE=--upgrade
	printf 'pip-audit\nuv\n' | $(LOCK) $(UPGRADE) -o maintenance.txt - && $(LOCK) $(UPGRADE) --all-extras -o constraints.txt pyproject.toml && python -m tools.lock_jars

audit: .venv/maintenance  ## known weaknesses of everything in constraints.txt; asks a database on the internet
	$</bin/pip-audit --require-hashes --disable-pip --progress-spinner off -r constraints.txt

bench: .venv/ready  ## whole-life speed and memory; writes benchmarks/demo.json
	chat4all bench

bench-decide: .venv/ready  ## what the stages' decisions cost, and a delivery in memory; writes benchmarks/decide.json
	python -m benchmarks.decide $(if $(PARENT),--parent $(PARENT))

bench-engine: .venv/ready  ## the engine against every other way to do its job; writes benchmarks/engine.json
	python -m benchmarks.engine $(if $(PARENT),--parent $(PARENT))

bench-connectors: .venv/ready  ## connectors against bare HTTP, simulators, webhooks, memory; writes benchmarks/connectors.json
	python -m benchmarks.connectors $(if $(LONG),--long)

bench-life: .venv/ready  ## steady loads and a full one through everything, beside PARENT=FOLDER; writes benchmarks/life.json
	python -m benchmarks.life $(if $(PARENT),--parent $(PARENT))

bench-neighbours: .venv/ready  ## one tenant beside another that sends what nobody should; writes benchmarks/neighbours.json
	python -m benchmarks.neighbours

bench-sinks: .venv/ready  ## what one write for all partitions saves in PostgreSQL and ClickHouse; prints it
	python -m benchmarks.sinks

bench-start: .venv/ready  ## chat4all up, down and demo from cache; writes benchmarks/start.json
	python -m benchmarks.start

bench-idle: .venv/ready  ## CPU and requests of a stack that nobody uses; writes benchmarks/idle.json
	python -m benchmarks.idle

crash-engine: .venv/ready  ## three workers, random faults, everything read back: make crash-engine MINUTES=10 SEED=1
	python -m tests.crash_engine --minutes $(or $(MINUTES),2) --seed $(or $(SEED),1)

attack: .venv/ready ## every way to cost a gateway more than its sender, while a good one posts; writes benchmarks/attack.json
	python -m tests.attack --seed $(or $(SEED),1) $(if $(VIEWS),--views $(VIEWS))

soak: .venv/ready   ## idle, one message a second, a burst, in turn, watched: make soak MINUTES=20
	python -m tests.soak --minutes $(or $(MINUTES),20)

clean:
	rm -rf .venv .chat4all
