"""Worlds of installed packages, by entry points: found by name like a bundled one, and without running code."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from world_models.io import world_folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path, as ``site-packages`` is one."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def install(site: Path, package: str, value: str, name: str = "other_world") -> None:
    """Write what an installer writes of a package that brings a world."""
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[rla_gym.worlds]\n{name} = {value}\n")
    (site / package).mkdir()
    (site / package / "__init__.py").write_text("raise AssertionError('opening a world ran its code')\n")
    importlib.invalidate_caches()


def test_a_packages_world_is_opened_by_its_name(site: Path, world: str) -> None:
    install(site, "other_worlds", "other_worlds.inside")
    shutil.copytree(world, site / "other_worlds" / "inside")
    assert world_folder("other_world") == site / "other_worlds" / "inside"
    envs = gym.make_vec("RLAWM-v0", num_envs=2, world="other_world")
    assert envs.reset(seed=0)[0].shape == (2, 16, 8)
    envs.close()
    assert "other_worlds" not in sys.modules
    with pytest.raises(FileNotFoundError, match=r"no world 'missing'. .* installed packages \(.*other_world.*\)"):
        world_folder("missing")


def test_a_package_itself_may_be_the_folder(site: Path, world: str) -> None:
    install(site, "other_worlds", "other_worlds")
    shutil.copytree(world, site / "other_worlds", dirs_exist_ok=True)
    assert world_folder("other_world") == site / "other_worlds"


def test_a_bundled_name_stays_the_bundled_world(site: Path, world: str) -> None:
    install(site, "other_worlds", "other_worlds", name="lift")
    shutil.copytree(world, site / "other_worlds", dirs_exist_ok=True)
    assert "other_worlds" not in world_folder("lift").parts


def test_two_packages_of_one_name_are_refused(site: Path) -> None:
    install(site, "other_worlds", "other_worlds")
    install(site, "further_worlds", "further_worlds")
    with pytest.raises(ValueError, match="further_worlds and other_worlds both bring a world 'other_world'"):
        world_folder("other_world")


@pytest.mark.parametrize("value", ["other_worlds", "other_worlds.inside", "not_installed", "other_worlds:folder"])
def test_a_package_without_the_folder_is_named(site: Path, value: str) -> None:
    install(site, "other_worlds", value)
    with pytest.raises(FileNotFoundError, match=f"package other_worlds names '{value}' as the folder of its world"):
        world_folder("other_world")
