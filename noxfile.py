"""Environments for what cannot live beside the rest: `nox -s rllib torchrl`."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "venv"


@nox.session
def oldest_timm(session: nox.Session) -> None:
    """The least version of timm that pyproject.toml takes."""
    session.install(".[train,agents]", "timm==1.0.22", "pytest", "pytest-timeout", "hypothesis")
    session.run("pytest", "tests/test_opening.py", "tests/test_world_model.py", *session.posargs)


@nox.session
def rllib(session: nox.Session) -> None:
    """Ray RLlib: its pinned gymnasium is older than the one that everything else is tested with."""
    session.install(".[rllib]", "pytest", "pytest-timeout", "hypothesis")
    session.run("pytest", "tests/test_clients.py", "tests/test_vector_env.py", *session.posargs)


@nox.session
def torchrl(session: nox.Session) -> None:
    """TorchRL: its wheel brings a package `benchmarks` of its own; from here, Python finds this project's first."""
    session.install("--editable", ".[torchrl]", "pytest", "pytest-timeout", "hypothesis")
    session.run("python", "-m", "pytest", "tests/test_clients.py", *session.posargs)
