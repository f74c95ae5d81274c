"""The command line: help without imports, one clear line for what a user can mend."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from rla_gym import cli


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["rla-gym", *arguments])
    monkeypatch.delenv("RLA_GYM_TRACEBACK", raising=False)
    cli.main()


def test_help_lists_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "--help")
    printed = capsys.readouterr().out
    assert all(f"\n  {name}" in printed for name in cli.COMMANDS)


@pytest.mark.parametrize(("command", "names"), [("agent", cli.AGENTS), ("bench", cli.BENCHES)])
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
    for module, config, function, *_ in cli.AGENTS.values():
        agent = importlib.import_module(module)
        assert callable(getattr(agent, config))
        assert callable(getattr(agent, function))
    for name, (config, *_) in cli.BENCHES.items():
        assert callable(getattr(importlib.import_module(f"benchmarks.{name.replace('-', '_')}"), config))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "no command 'fly'"),
        (["agent", "dqn"], "one of bc, ppo, sb3, sac, iql, plan, blind, not 'dqn'"),
        (
            ["bench"],
            "one of fidelity, interventions, latent-actions, reward-alignment, ablation, encoders, transfer, ranking, "
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
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *arguments)
    assert message in str(stopped.value)
    assert "Traceback" not in str(stopped.value)


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
    monkeypatch.delitem(sys.modules, "world_models.train", raising=False)
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
