"""``import rla_gym``: light, and not to be shadowed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rla_gym


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    home = Path(rla_gym.__file__).parent.parent
    code = f"import sys; sys.path.append({str(home)!r})\n{code}"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)


def test_import_is_light(tmp_path: Path) -> None:
    heavy = "('torch', 'timm', 'robosuite', 'mujoco', 'stable_baselines3', 'pyarrow')"
    done = run_python(f"import rla_gym; print([m for m in {heavy} if m in sys.modules])", tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("file", ["world_models.py", "rewards/__init__.py"])
def test_a_shadowed_package_is_named(tmp_path: Path, file: str) -> None:
    package, shadow = file.removesuffix(".py").split("/")[0], tmp_path / file
    shadow.parent.mkdir(exist_ok=True)
    shadow.write_text("")
    done = run_python("import rla_gym", tmp_path)
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith(f"ImportError: rla-gym needs its own package '{package}'")
    assert str(tmp_path) in message


@pytest.mark.parametrize("package", ["agents", "benchmarks"])
def test_what_only_the_command_line_needs_is_checked_there(tmp_path: Path, package: str) -> None:
    """TorchRL's wheel, for one, brings a package `benchmarks`: environments do without ours."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("")
    assert run_python("import rla_gym", tmp_path).returncode == 0
    done = run_python("from rla_gym.cli import main; sys.argv = ['rla-gym', 'play']; main()", tmp_path)
    assert done.returncode == 1
    assert f"rla-gym needs its own package '{package}'" in done.stderr
