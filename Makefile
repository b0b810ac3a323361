# make help lists what there is. `make demo` and `make test` do everything on a fresh machine.
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
# Extra arguments to pip, e.g. an index with CPU wheels of torch.
PIP_ARGS ?=
DEMO    ?= demo
PINREC_DATA ?= $(abspath $(wildcard ../shared/data))
export PINREC_DATA
# What `make results` runs: names of benchmarks/quality/studies.
STUDIES ?= $(basename $(notdir $(wildcard benchmarks/quality/studies/*.toml)))
# Spark needs a Java runtime; PyPI carries one for machines that have none.
JAVA    := $(shell command -v java >/dev/null 2>&1 || echo ,java)

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test check bench results load-test load-ramp load-spike soak fuzz drills audit clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## a virtual environment with everything pinned

$(VENV)/.ready: pyproject.toml client/pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and "pinrec needs Python 3.11 or 3.12, this is " + sys.version.split()[0] + ": set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q $(PIP_ARGS) -c constraints.txt -e client -e '.[serve,train,text,dev$(JAVA)]'
	touch $@

demo: setup  ## log → Spark → training → release → Triton → a table of titles
	$(BIN)/pinrec demo --out $(DEMO)

serve: setup  ## serve the demo's release until Ctrl-C
	$(BIN)/pinrec demo --out $(DEMO) --build-only
	$(BIN)/pinrec serve --releases $(DEMO)/releases --signals $(DEMO)/dataset/signals

# Two processes of pytest at a time: one alone leaves half of two cores idle, waiting for servers to start and to stop.
ASIDE = tests/signal_service tests/event_stream tests/pinrec_core

test: setup  ## all tests, the real Triton, Spark, RocksDB and Redis among them
	log=$$(mktemp); \
	$(BIN)/python -m pytest -q $(ASIDE) > $$log 2>&1 & aside=$$!; \
	trap 'kill $$aside' INT TERM; \
	$(BIN)/python -m pytest -q $(ASIDE:%=--ignore=%); others=$$?; \
	wait $$aside; status=$$?; \
	echo '$(ASIDE):'; cat $$log; rm $$log; \
	exit $$((others | status))

check: setup  ## what CI runs: lint, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	for model in model_repository/*/1/model.py; do $(BIN)/mypy $$model || exit 1; done
	$(MAKE) test

bench: setup  ## time each stage and the whole ensemble; results go to benchmarks/results
	$(BIN)/python -m benchmarks --demo $(DEMO)

results: setup  ## train and judge every study, write docs/results; days on two cores, goes on where it was interrupted
	$(BIN)/python -m benchmarks.quality run $(STUDIES) $(if $(PINREC_DATA),--data $(PINREC_DATA))
	$(BIN)/python -m benchmarks.quality report

# What the load tests have in common: the demo's release, served until the command after -- has ended.
LOAD = $(BIN)/pinrec demo --out $(DEMO) --build-only && \
  $(BIN)/pinrec serve --releases $(DEMO)/releases --signals $(DEMO)/dataset/signals -- \
  $(CURDIR)/$(BIN)/python -m load_tests --dataset $(DEMO)/dataset --server-pid parent

load-test: setup  ## load test of the demo's release: latency, refusals and failures by request type, against objectives
	$(LOAD) --html $(DEMO)/load-test.html

load-ramp: setup  ## the rate at which it is saturated, and the curve up to there
	$(LOAD) --shape ramp --html $(DEMO)/load-ramp.html

load-spike: setup  ## five times the rate for ten seconds: what is refused, and how soon it is over
	$(LOAD) --shape spike --html $(DEMO)/load-spike.html

soak: setup  ## an hour of steady load: does memory grow?
	$(LOAD) --shape soak --html $(DEMO)/soak.html

fuzz: setup  ## 10,000 malformed requests against the demo's release, beside requests whose answers are known
	$(BIN)/pinrec demo --out $(DEMO) --build-only
	$(BIN)/pinrec serve --releases $(DEMO)/releases --signals $(DEMO)/dataset/signals --realtime $(DEMO)/fuzzed -- \
	  $(CURDIR)/$(BIN)/python -m load_tests.fuzzing --dataset $(DEMO)/dataset --server-pid parent

drills: setup  ## kills, overload, swaps, stops and a soak of half an hour on a real server; RELEASES= and SIGNALS= name others
	$(BIN)/pinrec demo --out $(DEMO) --build-only
	$(BIN)/python -m benchmarks.operation --releases $(or $(RELEASES),$(DEMO)/releases) --signals $(or $(SIGNALS),$(DEMO)/dataset/signals)

audit: setup  ## known vulnerabilities of the pinned versions; an SBOM in build/sbom.json
	test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && \
	  $(VENV)/audit/bin/pip install --disable-pip-version-check -q $(PIP_ARGS) 'pip-audit>=2.9,<3' 'cyclonedx-bom>=7,<8'; }
	$(BIN)/python -m tests.audit $(VENV)/audit/bin $(VENV) build/sbom.json

clean:  ## remove the virtual environment, the demo and caches
	rm -rf $(VENV) $(DEMO) build dist *.egg-info client/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
