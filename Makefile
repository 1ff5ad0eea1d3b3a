# For a fresh machine with Python 3.11+: `make demo` and `make test`. `make help` lists all targets. The recipe of every target is one line.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Wheels only: installing a source package runs its code. Linux on ARM needs WHEELS=--prefer-binary: faust-streaming has no wheel there.
WHEELS ?= --only-binary :all:
INSTALL := .venv/bin/pip install --quiet --disable-pip-version-check
SINK_TESTS := postgres_faults fact_faults fact_migration sink_kills bad_input check erase reports stores_agree
LOCK := .venv/maintenance/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command 'make lock'

.PHONY: help demo up down check test test-receipts test-sinks lock audit bench bench-decide bench-engine bench-connectors bench-life bench-neighbours bench-sinks bench-receipts
.PHONY: bench-start bench-idle crash-engine attack soak clean
.DEFAULT_GOAL := demo

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv && $(INSTALL) --require-hashes $(WHEELS) -r constraints.txt && $(INSTALL) --no-deps --no-build-isolation -e . && touch $@

help:  ## list the targets
	@awk -F ':.*## *' '/^[a-z-]+:.*## /{printf "%-17s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: .venv/ready  ## run a load through the whole product and judge it (the default)
	chat4all demo

up: .venv/ready  ## start the same stack and leave it running
	chat4all up

down: .venv/ready  ## stop what `make up` started
	chat4all down

check: .venv/ready  ## check style and types, as CI does
	ruff format --check . && ruff check . && mypy

test: .venv/ready  ## run all tests on real servers, three files at a time
	pytest -n 3 --dist loadfile --no-loadscope-reorder

test-receipts: .venv/ready  ## hold random receipts against a reference, at length: make test-receipts RUNS=100 SEED=1
	python -m tests.support.receipt_runs --runs $(or $(RUNS),100) --seed $(or $(SEED),1)

test-sinks: .venv/ready  ## let both stores and their servers fail, at length, and check that they agree (100,000 messages)
	CHAT4ALL_LONG=1 pytest --timeout 7200 $(SINK_TESTS:%=tests/integration/test_%.py)

.venv/maintenance: .venv/ready maintenance.txt
	$(PYTHON) -m venv $@ && $@/bin/pip install --quiet --disable-pip-version-check --require-hashes $(WHEELS) -r maintenance.txt && touch $@

lock: .venv/maintenance  ## write constraints.txt, maintenance.txt and stack/kafka_jars.txt; pinned versions stay: make lock UPGRADE=--upgrade
	printf 'pip-audit\nuv\n' | $(LOCK) $(UPGRADE) -o maintenance.txt - && $(LOCK) $(UPGRADE) --all-extras -o constraints.txt pyproject.toml && python -m tools.lock_jars

audit: .venv/maintenance  ## look up known vulnerabilities of constraints.txt in a public database (needs internet)
	$</bin/pip-audit --require-hashes --disable-pip --progress-spinner off -r constraints.txt

bench: .venv/ready  ## measure speed and memory of the whole product; writes benchmarks/demo.json
	chat4all bench

bench-decide: .venv/ready  ## measure the stages' decisions and the memory of a delivery; writes benchmarks/decide.json
	python -m benchmarks.decide $(if $(PARENT),--parent $(PARENT))

bench-engine: .venv/ready  ## compare the engine with other ways to do its job; writes benchmarks/engine.json
	python -m benchmarks.engine $(if $(PARENT),--parent $(PARENT))

bench-connectors: .venv/ready  ## measure connectors, simulators and webhooks; writes benchmarks/connectors.json; longer: LONG=1
	python -m benchmarks.connectors $(if $(LONG),--long)

bench-life: .venv/ready  ## measure steady and full loads, end to end; writes benchmarks/life.json; compare: PARENT=FOLDER
	python -m benchmarks.life $(if $(PARENT),--parent $(PARENT))

bench-neighbours: .venv/ready  ## measure a tenant beside another one that floods the system; writes benchmarks/neighbours.json
	python -m benchmarks.neighbours

bench-receipts: .venv/ready  ## measure receipts from the provider's request to the view; writes benchmarks/receipts.json
	python -m benchmarks.receipts

bench-sinks: .venv/ready  ## measure how fast both stores are written and answer; writes benchmarks/sinks.json
	python -m benchmarks.sinks

bench-start: .venv/ready  ## measure chat4all up, down and demo from cache; writes benchmarks/start.json
	python -m benchmarks.start

bench-idle: .venv/ready  ## measure CPU and requests of an idle stack; writes benchmarks/idle.json
	python -m benchmarks.idle

crash-engine: .venv/ready  ## crash three workers at random and check every record: make crash-engine MINUTES=10 SEED=1
	python -m tests.crash_engine --minutes $(or $(MINUTES),2) --seed $(or $(SEED),1)

attack: .venv/ready  ## try to exhaust the gateway while a good client posts; writes benchmarks/attack.json
	python -m tests.attack --seed $(or $(SEED),1) $(if $(VIEWS),--views $(VIEWS))

soak: .venv/ready  ## alternate idle, slow and full load, and watch the stack: make soak MINUTES=20
	python -m tests.soak --minutes $(or $(MINUTES),20)

clean:  ## delete .venv and .chat4all
	rm -rf .venv .chat4all
