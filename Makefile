VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt 2>/dev/null | sha256sum | cut -c1-12)

.PHONY: install demo test test-slow test-services test-chaos lint lock bench

install: $(STAMP)

$(STAMP):
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) and sys.platform == 'linux' else 'sekd needs Linux and Python 3.11 or newer; this is ' + sys.platform + ' with Python ' + sys.version.split()[0])"
	@$(PYTHON) -c "import shutil, sys; free = shutil.disk_usage('.').free >> 30; sys.exit(0 if free >= 9 else f'sekd needs about 9 GiB of free disk to install; {free} GiB are free here')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	rm -f $(VENV)/.installed-*
	touch $@

demo: install
	$(BIN)/sekd launch quickstart --select

test: install
	$(BIN)/python -m pytest -n 2

test-slow: install
	$(BIN)/python -m pytest -m slow

# At least a hundred random kills over everything that can die; `KILLS=10 ONLY=local-sqlite SEED=7` for a quick look.
KILLS ?= 100
test-chaos: install
	$(BIN)/python tests/chaos --kills $(KILLS) $(if $(ONLY),--only "$(ONLY)") $(if $(SEED),--seed $(SEED))

# The studies on PostgreSQL, slow ones too; Debian's package is installed if no server is there.
test-services: install
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { $(AS_ROOT) apt-get update -q && $(AS_ROOT) apt-get install -q -y --no-install-recommends postgresql; }
	$(BIN)/python -m pytest -m services

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Every number that docs/results.md compares is printed by one of these.
bench: install
	$(BIN)/python -m benchmarks.step_time

# Refresh the pinned set from what pyproject.toml allows today; nothing is installed.
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install -q --dry-run --ignore-installed --report .venv-lock/report.json '.[dev]'
	$(PYTHON) -c "import json; found = json.load(open('.venv-lock/report.json'))['install']; \
	  names = sorted(p['metadata']['name'].lower() + '==' + p['metadata']['version'] for p in found); \
	  open('constraints.txt', 'w').write('\\n'.join(n for n in names if not n.startswith('sekd==')) + '\\n')"
	rm -rf .venv-lock
