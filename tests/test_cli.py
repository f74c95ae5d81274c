"""The command line: help without imports, one clear line for an error that the user can fix."""

from __future__ import annotations

import importlib
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import docstring_parser  # which tyro reads help with
import pytest
import torch

from agents.policies.io import load_policy
from agents.policies.token_policy import TokenPolicy
from rewards import SuccessDetector
from rla_gym import cli
from tests.old_format import save_old_policy, save_old_world
from world_models.io import load_world


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["rla-gym", *arguments])
    monkeypatch.delenv("RLA_GYM_TRACEBACK", raising=False)
    cli.main()


def failure(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The one line that a command stops with."""
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *arguments)
    assert "Traceback" not in str(stopped.value)
    return str(stopped.value)


def test_help_lists_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "--help")
    printed = capsys.readouterr().out
    assert all(f"\n  {name}" in printed for name in cli.COMMANDS)


@pytest.mark.parametrize(("command", "names"), [("agent", cli.AGENTS), ("bench", cli.BENCHES), ("data", cli.DATA)])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_of_a_family_lists_its_members(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, names: dict, flag: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, command, flag)
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in names)


@pytest.mark.parametrize("words", [["train"], ["agent", "bc"]])
def test_help_of_a_command_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, *words, "--help")
    assert f"usage: rla-gym {' '.join(words)} [" in capsys.readouterr().out


def test_output_may_be_cut_short() -> None:
    command = [sys.executable, "-m", "rla_gym", "collect", "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait()


def test_members_of_a_family_exist() -> None:
    pytest.importorskip("matplotlib", reason='agents are not installed: pip install "rla-gym[agents]"')
    for module, config, function, *_ in (*cli.AGENTS.values(), *cli.DATA.values()):
        agent = importlib.import_module(module)
        assert callable(getattr(agent, config))
        assert callable(getattr(agent, function))
    for name, (config, *_) in cli.BENCHES.items():
        assert callable(getattr(importlib.import_module(f"benchmarks.{name.replace('-', '_')}"), config))


def test_help_has_a_line_for_every_option_of_a_config_that_lists_them() -> None:
    """One entry that the parser of docstrings does not take, such as two names before a colon, hides all of them."""
    configs = [("world_models.training.train", "TrainConfig"), ("rla_gym.ground_truth.collect", "CollectConfig")]
    configs += [(module, config) for module, config, *_ in cli.DATA.values()]
    configs += [(f"benchmarks.{name.replace('-', '_')}", config) for name, (config, *_) in cli.BENCHES.items()]
    for module, name in configs:
        config = getattr(importlib.import_module(module), name)
        documentation = inspect.getdoc(config) or ""
        if "Attributes:" in documentation:
            listed = {entry.arg_name for entry in docstring_parser.parse(documentation).params}
            assert set(vars(config).get("__annotations__", {})) <= listed, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "no command 'fly'"),
        (["agent", "dqn"], "one of bc, ppo, sb3, sac, iql, plan, blind, not 'dqn'"),
        (
            ["bench"],
            "one of fidelity, calibration, hidden-truth, interventions, latent-actions, reward-alignment, ablation, "
            "encoders, transfer, ranking, "
            "speed, training",
        ),
        (["bench", "transfer", "--methods", "iql"], "pass --data"),
        (["bench", "transfer", "--prediction-length", "9"], "prediction_length=9 must be between 1 and 8"),
        (["train", "/nothing/here", "--out", "/tmp/never"], "rla-gym collect"),
        (["evaluate", "/nothing/here"], "/nothing/here"),
        (["agent", "bc", "--world", "/nothing/here"], "no world '/nothing/here'"),
        (["play", "/nothing/here"], "no world '/nothing/here'"),
    ],
)
def test_bad_input_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    assert message in failure(monkeypatch, *arguments)


@pytest.mark.parametrize("dynamics", ["residual_flow", "regression"])
def test_a_converted_world_predicts_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proprioceptive_world: str, dynamics: str
) -> None:
    world = shutil.copytree(proprioceptive_world, tmp_path / "world")
    detector = SuccessDetector.load(world)
    detector.imagined_thresholds = {dynamics: 0.75}
    detector.metrics = {"threshold": detector.threshold, f"imagined_{dynamics}": {"threshold": 0.75}}
    detector.save(world)
    old, out = save_old_world(world, tmp_path / "old"), tmp_path / "converted"
    with pytest.raises(ValueError, match=r"rla-gym 0\.1.*rla-gym convert"):
        load_world(old)
    run(monkeypatch, "convert", str(old), "--out", str(out))

    original, converted = load_world(world, dynamics=dynamics), load_world(out, dynamics=dynamics)
    generator = torch.Generator().manual_seed(0)
    noise_shape = original.model.noise_shape
    noise = None if noise_shape is None else torch.randn(3, *noise_shape, generator=generator)
    states = original.demonstrations.features[:3, 0].float()
    actions = torch.rand(3, 8, 4, generator=generator) * 2 - 1
    for one, other in zip(
        original.model.predict(states, actions, noise), converted.model.predict(states, actions, noise), strict=True
    ):
        assert torch.equal(one, other)
    assert torch.equal(original.model.decode(states), converted.model.decode(states))
    demonstrations = original.demonstrations, converted.demonstrations
    torch.testing.assert_close(demonstrations[0].features, demonstrations[1].features, atol=0.02, rtol=0)
    torch.testing.assert_close(demonstrations[0].first_states, demonstrations[1].first_states, atol=0.02, rtol=0)
    converted_detector = SuccessDetector.load(out)
    assert torch.equal(converted_detector.probability(states), detector.probability(states))
    assert converted_detector.imagined_threshold(dynamics) == 0.75
    assert converted_detector.metrics == detector.metrics


def test_a_converted_policy_acts_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = TokenPolicy(num_tokens=16, channels=8, chunk_length=8, action_dim=4, width=16, queries=2).eval()
    policy.facts = {"method": "bc", "task": "Lift", "training": {"seed": 0}}
    old = save_old_policy(policy.save(tmp_path / "policy"), tmp_path / "old")
    with pytest.raises(ValueError, match="rla-gym convert"):
        load_policy(old)
    run(monkeypatch, "convert", str(old), "--out", str(tmp_path / "converted"))
    converted = load_policy(tmp_path / "converted")
    assert converted.facts == policy.facts
    states = torch.randn(5, 16, 8)
    assert torch.equal(converted.act(states), policy.act(states))


def test_what_cannot_be_converted_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, world: str
) -> None:
    old, out = save_old_world(Path(world), tmp_path / "old"), str(tmp_path / "out")
    policy = TokenPolicy(num_tokens=16, channels=8, chunk_length=8, action_dim=4, width=16, queries=2)
    other = tmp_path / "other"
    other.mkdir()
    for content, message in (("{", "config.json is no JSON"), ('{"a": 1}', "neither a world nor a policy")):
        (other / "config.json").write_text(content)
        assert message in failure(monkeypatch, "convert", str(other), "--out", out)
    assert "config.json does not exist" in failure(monkeypatch, "convert", str(tmp_path / "missing"), "--out", out)
    assert "present format" in failure(monkeypatch, "convert", world, "--out", out)
    saved = str(policy.save(tmp_path / "policy"))
    assert "only those of rla-gym 0.1 are converted" in failure(monkeypatch, "convert", saved, "--out", out)
    assert "exists; name a new folder" in failure(monkeypatch, "convert", str(old), "--out", str(other))
    assert not Path(out).exists()


def test_only_what_shares_its_work_is_started_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="start collect in one"):
        run(monkeypatch, "collect", "Lift")


def test_unknown_task_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("robosuite", reason='the simulator is not installed: pip install "rla-gym[robosuite]"')
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "collect", "Juggle", "--out", str(tmp_path / "data"))
    assert "Juggle" in str(stopped.value)
    assert "Lift" in str(stopped.value)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in [name for name in sys.modules if name.startswith("world_models.data.epi")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "world_models.training.train", raising=False)
    monkeypatch.delitem(sys.modules, "rewards.fit_success", raising=False)
    monkeypatch.delitem(sys.modules, "world_models.data.feature_cache", raising=False)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "train", "data", "--out", "world")
    assert 'pip install "rla-gym[train]"' in str(stopped.value)


def test_importing_rla_gym_stays_light() -> None:
    code = (
        "import sys, rla_gym; "
        "heavy = {'torch', 'robosuite', 'mujoco', 'stable_baselines3', 'timm'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
