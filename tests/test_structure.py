"""The house rules that tools can check: import directions, circles, lengths of functions."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("world_models", "rewards", "rla_gym", "agents", "benchmarks")
LONGEST = 80
"""Lines of a function, its docstring included; a longer one says why in a comment ``long:`` on its first line."""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The project's source files and settings, to plant faults in."""
    for package in (*PACKAGES, "tests"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=lambda folder, names: {
                name for name in names if not name.endswith(".py") and not (Path(folder) / name).is_dir()
            },
        )  # fmt: skip
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """The command of `make lint`, in a folder."""
    command = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([command, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


def test_the_import_contracts_hold_and_a_planted_violation_of_each_breaks_them(copied: Path) -> None:
    assert lint_imports(copied).returncode == 0, lint_imports(copied).stdout
    for file, line, broken in (
        ("world_models/files.py", "from agents.bc import train_bc", "packages import to the left alone"),
        ("rewards/success.py", "import tests.dreams", "packages import to the left alone"),
        ("world_models/encoders/features.py", "from world_models.training.train import train", "rooms of world_models"),
        ("agents/policies/base.py", "from agents.policies.io import load_policy", "no circle of files"),
        (
            "rla_gym/slots.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rla_gym.dream import Dream",
            "no circle of files",
        ),
    ):
        path = copied / file
        before = path.read_text()
        path.write_text(f"{before}\n{line}\n")
        done = lint_imports(copied)
        path.write_text(before)
        assert done.returncode == 1, line
        assert broken in done.stdout.split("Broken contracts")[1], done.stdout


def test_no_function_is_long_without_a_reason() -> None:
    long = []
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        source = path.read_text()
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST and "# long:" not in lines[node.lineno - 1]:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {length} lines")
    assert not long, "\n".join(long)
