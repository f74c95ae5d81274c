# `make setup` prepares a fresh machine; `make demo` is the main job; `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
GL_PACKAGES := libegl1 libgl1 libosmesa6

.PHONY: setup gl demo test lint clean

setup: gl
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"

# The dream needs no OpenGL; the ground-truth simulator draws its frames with it.
gl:
	@if ldconfig -p | grep -q libEGL.so.1 && ldconfig -p | grep -q libOSMesa.so; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $(GL_PACKAGES); \
	else \
		echo "robosuite needs OpenGL; please run: sudo apt-get install -y $(GL_PACKAGES)"; \
	fi

demo:
	$(BIN)/rla-gym demo --out runs/demo

test:
	$(BIN)/python -m pytest

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
