"""Policy folders of rla-gym 0.1 act the same once they are converted, under today's names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import agents.policies.conversion
from agents.bc import BCConfig
from agents.policies.base import Policy
from agents.policies.blind import BlindPolicy
from agents.policies.conversion import DROPPED_SETTINGS, convert_policy
from agents.policies.io import load_policy
from agents.policies.planner import Planner
from agents.policies.token_policy import TokenPolicy
from agents.ppo import PPOConfig
from agents.settings import json_settings

SIZES = {"num_tokens": 16, "channels": 8, "chunk_length": 2, "action_dim": 4}
PLANNING = {
    "method": "cem", "temperature": 0.2, "std": 0.2, "reward": "progress", "success_bonus": 1.0, "gamma": 0.9,
}  # fmt: skip
OLD_CLONING = {"demonstrations": 10, "steps": 60, "batch_size": 64, "loss": "mse", "first_loss": 0.4}
CLONING = {"demonstrations": 10, "gradient_steps": 60, "batch_size": 64, "first_loss": 0.4}


def save_as_before(policy: Policy, folder: Path) -> Path:
    """A folder as rla-gym 0.1 wrote it: without a format, and with that version's names of weights."""
    policy.save(folder)
    names = (
        (r"\btrunk\.embed\.(project|norm)\.", r"trunk.\1."),
        (r"\btrunk\.embed\.position$", "trunk.position"),
        (r"\btrunk\.pool\.queries$", "trunk.queries"),
    )
    weights = {}
    for name, tensor in load_file(folder / "policy.safetensors").items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        weights[name] = tensor
    save_file(weights, folder / "policy.safetensors")
    config = json.loads((folder / "config.json").read_text())
    del config["format"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def token_policy(**facts: Any) -> TokenPolicy:
    torch.manual_seed(0)
    policy = TokenPolicy(**SIZES, width=32, queries=2)
    policy.facts = {"method": "bc", "world": "lift", "task": "Lift", **facts}
    return policy


def converted(policy: Policy, folder: Path) -> Policy:
    convert_policy(save_as_before(policy, folder / "old"), folder / "new")
    assert sorted(path.name for path in folder.iterdir()) == ["new", "old"]  # nothing temporary
    return load_policy(folder / "new")


def test_a_clone_acts_as_before(tmp_path: Path) -> None:
    policy = token_policy(training=OLD_CLONING)
    features = torch.randn(5, 16, 8)
    before = policy.act(features)
    again = converted(policy, tmp_path)
    assert torch.equal(again.act(features), before)
    assert (again.method, again.world, again.task) == ("bc", "lift", "Lift")
    assert again.facts["training"] == CLONING
    with pytest.raises(ValueError, match="rla-gym convert"):
        load_policy(tmp_path / "old")


def test_a_planner_keeps_the_weights_of_the_policy_that_it_varies(tmp_path: Path) -> None:
    policy = token_policy()
    planner = Planner(**policy.sizes, candidates=4, iterations=1, elites=2, planned=1, horizon=1, seed=0)
    planner.policy.load_state_dict(policy.state_dict())
    planner.facts = {
        "method": "cem", "world": "lift", "planning": {**PLANNING, "dynamics": "flow"},
        "training": {"policy": OLD_CLONING},
    }  # fmt: skip
    again = converted(planner, tmp_path)
    assert isinstance(again, Planner)
    features = torch.randn(3, 16, 8)
    assert torch.equal(again.policy.act(features), policy.act(features))
    assert again.facts["planning"] == {**PLANNING, "dynamics": "residual_flow"}
    assert again.facts["training"] == {"policy": CLONING}


def test_a_blind_policy_keeps_its_table(tmp_path: Path) -> None:
    policy = BlindPolicy(**SIZES, num_chunks=3)
    policy.actions.uniform_(-1, 1)
    again = converted(policy, tmp_path)
    assert isinstance(again, BlindPolicy)
    assert torch.equal(again.actions, policy.actions)


OLD_PPO = {
    "steps": 4, "num_envs": 16, "starts": "mixed", "dynamics": "flow", "uncertainty_penalty": 0.0,
    "max_uncertainty": None, "clone": OLD_CLONING, "decisions": 384, "kept": "last iterate",
}  # fmt: skip
PPO = {
    "num_steps": 4, "num_envs": 16, "initial_states": "mixed", "dynamics": "residual_flow", "clone": CLONING,
    "env_steps": 384, "kept": "last iterate",
}  # fmt: skip
OLD_SAC = {"num_envs": 16, "starts": "first", "gradient_steps": 8, "warmup_decisions": 32, "decisions": 64}
SAC = {"num_envs": 16, "initial_states": "first", "gradient_steps": 8, "warmup_env_steps": 32, "env_steps": 64}


@pytest.mark.parametrize(("old", "new"), [(OLD_CLONING, CLONING), (OLD_PPO, PPO), (OLD_SAC, SAC)])
def test_settings_have_todays_names(old: dict[str, Any], new: dict[str, Any], tmp_path: Path) -> None:
    assert converted(token_policy(training=old), tmp_path).facts["training"] == new


def test_todays_names_are_those_of_the_settings() -> None:
    """Each name that conversion gives must be a setting of its algorithm, and none that it drops."""
    sb3_sac = pytest.importorskip("agents.sb3_sac", exc_type=ImportError)
    results = {"first_loss", "clone", "kept", "env_steps"}  # which are facts of a training and no settings
    for config, facts in ((BCConfig(), CLONING), (PPOConfig(), PPO), (sb3_sac.SB3SACConfig(), SAC)):
        settings = json_settings(config).keys() | results
        assert facts.keys() <= settings
        assert not DROPPED_SETTINGS & settings


def test_what_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    present = token_policy().save(tmp_path / "present")
    with pytest.raises(ValueError, match="is a policy of format 2"):
        convert_policy(present, tmp_path / "new")
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        convert_policy(tmp_path / "nothing", tmp_path / "new")
    old = save_as_before(token_policy(), tmp_path / "old")
    with pytest.raises(FileExistsError, match="--out"):
        convert_policy(old, present)


def test_an_interrupted_conversion_leaves_no_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    old = save_as_before(token_policy(), tmp_path / "old")
    with monkeypatch.context() as patch:
        patch.setattr(agents.policies.conversion, "save_json", killed)
        with pytest.raises(KeyboardInterrupt):
            convert_policy(old, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    convert_policy(old, tmp_path / "new")
    assert load_policy(tmp_path / "new").method == "bc"
