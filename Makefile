PYTHON ?= python3
VENV := .venv
VENV_MIN := .venv-min
VENV_LATEST := .venv-latest

.PHONY: help demo docs test test-slow test-real test-min test-latest test-browser test-serve style

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/installed  ## analyse the included conversation with and without memory
	$(VENV)/bin/python examples/quickstart/demo.py

docs: $(VENV)/installed  ## build the documentation site; warnings are errors
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e ".[test,docs]"
	$(VENV)/bin/python examples/documentation/build.py

test: $(VENV)/installed  ## check style and types, and run the tests
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/python tests/check_types.py
	$(VENV)/bin/python -m pytest -n 2 --dist loadgroup -m "not slow and not real"

test-slow: $(VENV)/installed  ## run the slow tests: separate environments, examples, compilation
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e ".[test,docs,release]"
	$(VENV)/bin/python -m pytest -n 2 --dist loadgroup -m slow

test-real: $(VENV)/installed  ## run the tests that need human voices or released files, in the folder TITANS_MAL_DATA
	$(VENV)/bin/python -m pytest -m real

# Old libraries emit deprecation warnings about newer dependencies, which must not be errors.
test-min: $(VENV_MIN)/installed  ## run the tests on the lowest versions that setup.cfg allows
	$(VENV_MIN)/bin/python -m pytest -n 2 --dist loadgroup -m "not slow and not real" -W default

# Newer libraries deprecate calls that the supported versions need.
test-latest: $(VENV_LATEST)/installed  ## run the tests on the newest versions, even if setup.cfg does not allow them yet
	$(VENV_LATEST)/bin/python -m pip install --quiet --upgrade --no-deps accelerate datasets peft transformers
	$(VENV_LATEST)/bin/python -m pytest -n 2 --dist loadgroup -m "not slow and not real" -W default

# Uses Debian's Chromium, so that Playwright does not download its own.
test-browser: $(VENV)/installed  ## run the Space in a headless browser; installs Chromium if it is missing
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e ".[test,space,browser]"
	command -v chromium || command -v google-chrome || (apt-get update -q && apt-get install -q -y chromium)
	$(VENV)/bin/python -m pytest tests/hub_cards/test_space.py

test-serve: $(VENV)/installed  ## run the server with Redis; installs Redis if it is missing
	command -v redis-server || (apt-get update -q && apt-get install -q -y redis-server)
	$(VENV)/bin/python -m pytest tests/titans_mal/server

style: $(VENV)/installed  ## format the code and fix what ruff can fix
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# Install torch first, so that no later command replaces it by a larger build.
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e ".[test]"
	touch $@

$(VENV_LATEST)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV_LATEST)
	$(VENV_LATEST)/bin/python -m pip install --quiet torch
	$(VENV_LATEST)/bin/python -m pip install --quiet --upgrade -e ".[test]"
	touch $@

$(VENV_MIN)/installed: setup.cfg pyproject.toml tests/constraints-min.txt
	$(PYTHON) -m venv $(VENV_MIN)
	$(VENV_MIN)/bin/python -m pip install --quiet -c tests/constraints-min.txt torch
	$(VENV_MIN)/bin/python -m pip install --quiet -c tests/constraints-min.txt -e ".[test]"
	touch $@
