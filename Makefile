# `make setup` prepares a fresh machine; `make demo` is the main job; `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
GL_PACKAGES := libegl1 libgl1 libosmesa6
ONLY_POLICY := --policy 1 --expert 0 --noisy 0 --near-miss 0 --play 0

.PHONY: setup gl demo world test lint clean

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

# How the bundled world was made, from nothing: about two and a half hours on 2 cores. Every step resumes.
world:
	$(BIN)/rla-gym collect Lift --episodes 640 --out data/lift
	$(BIN)/rla-gym train data/lift --out worlds/lift_encoder --encoder-only
	$(BIN)/rla-gym agent bc --world worlds/lift_encoder --demonstrations 3 --out runs/weak_3
	$(BIN)/rla-gym agent bc --world worlds/lift_encoder --demonstrations 8 --out runs/weak_8
	$(BIN)/rla-gym collect Lift --episodes 700 --out data/lift --policy-folder runs/weak_3 $(ONLY_POLICY)
	$(BIN)/rla-gym collect Lift --episodes 760 --out data/lift --policy-folder runs/weak_8 $(ONLY_POLICY)
	$(BIN)/rla-gym train data/lift --out worlds/lift --encoder-from worlds/lift_encoder

test:
	$(BIN)/python -m pytest

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
