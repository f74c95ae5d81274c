"""A world says which of its dynamics predict where none are asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rla_gym.vector_env import RLAWMVectorEnv
from world_models.io import default_dynamics, load_model, read_config, save_model


@pytest.fixture
def folder(world: str, tmp_path: Path) -> Path:
    shutil.copytree(world, tmp_path / "world")
    return tmp_path / "world"


def with_default(folder: Path, name: str | None) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "default_dynamics": name}))


def test_an_environment_takes_the_worlds_default_unless_asked(folder: Path) -> None:
    with_default(folder, "regression")
    assert default_dynamics(folder) == "regression"
    assert load_model(folder).name == "regression"
    assert default_dynamics(folder, "residual_flow") == load_model(folder, "residual_flow").name == "residual_flow"
    usual, asked, other = (RLAWMVectorEnv(2, world=folder, **more) for more in
                           ({}, {"dynamics": "regression"}, {"dynamics": "residual_flow"}))  # fmt: skip
    for env in (usual, asked, other):
        env.reset(seed=0)
    actions = usual.action_space.sample()
    states = [env.step(actions)[0] for env in (usual, asked, other)]
    assert (states[0] == states[1]).all()
    assert not (states[0] == states[2]).all()
    for env in (usual, asked, other):
        env.close()


def test_a_world_that_does_not_say_takes_its_first(folder: Path) -> None:
    for name in (None, "absent"):
        with_default(folder, None)
        if name == "absent":  # as worlds of earlier versions are
            config = json.loads((folder / "config.json").read_text())
            del config["default_dynamics"]
            (folder / "config.json").write_text(json.dumps(config))
        assert default_dynamics(folder) == next(iter(read_config(folder).dynamics))


def test_the_default_survives_an_update_of_one_of_the_dynamics(folder: Path) -> None:
    with_default(folder, "regression")
    save_model(folder, load_model(folder, "residual_flow"))
    assert default_dynamics(folder) == "regression"


@pytest.mark.parametrize("name", ["score_sampler", "magic", 3])
def test_a_default_that_the_world_lacks_is_refused_with_its_file(folder: Path, name: object) -> None:
    with_default(folder, name)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"config\.json: default_dynamics"):
        load_model(folder)
