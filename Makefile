# Two commands matter: `make run` (try it) and `make test` (prove it). The others serve these two.
# The text after ## at a target is its line in `make help`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Two stamps: running needs 240 MB of packages, developing 390 MB more.
RUNS   := $(VENV)/.installed-to-run
STAMP  := $(VENV)/.installed

.PHONY: help run test test-fast test-pgbouncer venv lint bench bench-growth verify-growth adopt-growth soak torture golden env secrets clean

help: ## Say what each target does.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# `make run PORT=8001 DEV='--sample-data --fake-stripe'` uses another port, and has data to look at
# and packs to buy.
run: $(RUNS) ## Try it: the service with a PostgreSQL of its own, on http://127.0.0.1:8000.
	@$(BIN)/ciris-billing dev $(DEV)

# Every test: first those that can run beside others, with a cluster for each process; then those
# that measure time; then some tests of the API through PgBouncer in transaction mode.
test: venv ## Prove it: every test.
	$(BIN)/python -m tests.system_programs
	$(BIN)/python -m pytest $(PARALLEL) -m 'not alone'
	$(BIN)/python -m pytest -m alone
	BILLING_TEST_POOLER=pgbouncer $(BIN)/python -m pytest $(PARALLEL) $(POOLED)

# The tests of a file stay in one process, because they share a server. Files run in the order of
# setup.cfg.
PROCESSES ?= $(shell expr $$(nproc) + 1)
PARALLEL  := -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
POOLED    := $(addprefix tests/http/test_,smoke.py contract_charges.py contract_idempotency.py)

# What moves credits, by the wire and by the functions behind it: a first answer while one works.
FAST := tests/http/test_smoke.py \
	$(addprefix tests/http/test_contract_,checks.py charges.py credits.py batch.py idempotency.py) \
	$(addprefix tests/sql/test_functions_,accounts.py checks.py charges.py credits.py) \
	tests/sql/test_catalogue.py tests/sql/test_locks.py

test-fast: venv ## The tests of what moves credits, in a minute or so.
	$(BIN)/python -m pytest $(PARALLEL) $(FAST)

test-pgbouncer: venv ## All tests of the API, through PgBouncer.
	$(BIN)/python -m tests.system_programs
	BILLING_TEST_POOLER=pgbouncer $(BIN)/python -m pytest $(PARALLEL) tests/http

venv: $(STAMP) ## Make or update the virtual environment in .venv/.

$(RUNS): setup.cfg pyproject.toml
	@$(PYTHON) ops/install.py embedded fake-stripe
	@touch $@

$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) ops/install.py embedded fake-stripe test
	@touch $@ $(RUNS)

lint: venv ## Check style, types, SQL and Dockerfile.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/hadolint Dockerfile
	! grep -rnE --include='*.sql' '^.{101,}| $$' sql migrations bench server/adopt tests/old_database
	$(BIN)/sqlfluff lint --nocolor sql migrations bench server/adopt

# docs/performance.md says what is measured and how, and shows the last results. A run takes three
# quarters of an hour; with QUICK=--quick it takes four minutes.
bench: venv ## Measure speed beside the least that does the job; QUICK=--quick takes 4 minutes, not 45.
	$(BIN)/python -m tests.system_programs
	$(BIN)/python -m bench $(QUICK)

# Compares a new database with one of 1,000,000 accounts and 10,000,000 ledger rows: 15 minutes, 8
# GB of disk.
bench-growth: venv ## Measure an empty database beside one of 10,000,000 ledger rows: 15 minutes.
	$(BIN)/python -m tests.system_programs
	$(BIN)/python -m bench growth $(QUICK)

verify-growth: venv ## Seal and verify 10,000,000 ledger rows: 15 minutes, 12 GB of disk.
	$(BIN)/python -m bench.verify_growth

adopt-growth: venv ## Take over an old database of 1,000,000 accounts: 20 minutes, 15 GB of disk.
	$(BIN)/python -m tests.old_database.growth

# Checks and charges without pause: do memory and latency stay constant?
MINUTES ?= 10
soak: venv ## Check and charge without pause for MINUTES=10: are memory and latency flat?
	$(BIN)/python -m tests.system_programs
	$(BIN)/python -m bench soak --minutes $(MINUTES)

# The property tests for longer, then seeded faults under load. It takes an hour; see
# docs/reliability.md.
ROUNDS ?= 1000
torture: venv ## Strike a running service with faults for ROUNDS=1000, about an hour.
	HYPOTHESIS_PROFILE=torture $(BIN)/python -m pytest tests/sql/test_ledger_model.py
	$(BIN)/python -m tests.torture --rounds $(ROUNDS)

golden: venv ## Write anew what is made from others: golden_schema.sql, functions.py, manual.sql, examples/*.out, docs/dba.md.
	GOLDEN_UPDATE=1 $(BIN)/python -m pytest $(addprefix tests/sql/test_,help.py gateway_functions.py golden_schema.py walk.py)

# The version is written in setup.cfg alone. Images are tagged with it, so that an operator can go
# back to the version before.
env: ## Make .env for docker-compose.yml where none is, and write this checkout's version into it.
	@test -e .env || cp .env.example .env
	@version=$$(sed -n 's/^version = //p' setup.cfg) \
		&& env=$$(sed "s/^CIRIS_BILLING_VERSION=.*/CIRIS_BILLING_VERSION=$$version/" .env) \
		&& printf '%s\n' "$$env" > .env

secrets: ## Make the secrets for docker-compose.yml in secrets/, where none are yet.
	sh ops/make_secrets.sh

clean: ## Remove the virtual environment, what was built, and the database of `make run`.
	rm -rf $(VENV) build dist *.egg-info .data
