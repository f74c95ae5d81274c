"""Benchmarks: statistics with known answers, rows that survive a round trip, probes that read what is there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro

from agents.statistics import mean_over_seeds, paired_difference, seeds_and_states
from benchmarks.ablation import AblationConfig, run, training_command
from benchmarks.probes import ProbeConfig, fit_probe
from benchmarks.ranking import compare, mean_maximum_rank_violation
from benchmarks.results import print_rows, read_rows, write_rows
from benchmarks.reward_alignment import episode_returns, true_progress
from benchmarks.rollout_errors import auroc
from tests.media import picture_width
from tests.result_rows import row
from world_models.training.train import TrainConfig, plain_settings


def test_rows_round_trip_and_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(), row(method="bc", value=0.5, low=None, high=None)]
    write_rows(tmp_path / "deep" / "rows.json", rows)
    assert read_rows(tmp_path / "deep" / "rows.json") == rows
    print_rows(rows, "transfer")
    printed = capsys.readouterr().out
    assert "0.000 [0.00, 0.04]" in printed
    assert "0.500" in printed


def test_the_command_of_a_row_gives_its_settings(tmp_path: Path) -> None:
    typed = (
        "--seed 3 --dynamics residual_flow --pushed-chunks 0 --encoder-from lift --residual-flow.mixing attention "
        "--encoder.no-pretrained --encoder.backbone-arguments depth 4 out_indices 1 2 "
        "--residual-flow-optimisation.no-bf16"
    )
    settings = plain_settings(tyro.cli(TrainConfig, args=["--data", "d", "--out", "o", *typed.split()]))
    command = training_command(settings, "worlds/one")
    assert command.startswith("rla-gym train DATA --out worlds/one --")
    again = tyro.cli(TrainConfig, args=["--data", *command.split()[2:]])
    assert plain_settings(again) == settings
    assert len(command) < 100 + len(typed)


def save_training(folder: Path, settings: dict[str, object], error: float) -> str:
    """What `bench ablation` reads of a world without data: that it is one, and how it was trained."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    effort = {"seconds": 60.0, "iterations": 5.0, "training_petaflop": 0.1}
    metrics = {"encoder": {}, "residual_flow": {"token_l1_vs_persistence": error, **effort}}
    facts = {"metrics": metrics, "data": {"episodes": 20}, "hardware": "two cores", "settings": settings}
    (folder / "training.json").write_text(json.dumps(facts))
    return str(folder)


def test_an_ablation_names_what_differs_also_from_settings_of_older_files(tmp_path: Path) -> None:
    recipe = TrainConfig(Path("data"), Path("out"))
    older = plain_settings(recipe)
    del older["longest_rollout"]  # which rla-gym 0.1 did not know
    varied = replace(recipe, pushed_chunks=0, dynamics=("residual_flow",), device="cuda")
    worlds = (
        save_training(tmp_path / "recipe", older, 0.5),
        save_training(tmp_path / "varied", plain_settings(varied), 0.6),
    )
    rows = {(row.method, row.metric): row for row in run(AblationConfig(worlds, out=tmp_path / "ablation.json"))}
    assert {method for method, _ in rows} == {"recipe", "pushed_chunks 0, dynamics residual_flow"}
    error = rows["pushed_chunks 0, dynamics residual_flow", "token_l1_vs_persistence"]
    assert (error.setting, error.value, error.n, error.hardware) == ("residual_flow", 0.6, 5, "two cores")
    assert error.command == f"rla-gym train DATA --out {worlds[1]} --pushed-chunks 0 --dynamics residual_flow"
    assert rows["recipe", "training_petaflop"].unit == "1e15 FLOP"
    assert picture_width(tmp_path / "ablation.png") > 500
    with pytest.raises(ValueError, match="both 'recipe'"):
        run(AblationConfig((worlds[0], worlds[0]), out=tmp_path / "ablation.json"))


def test_an_interval_over_seeds_is_wider_than_over_states_alone() -> None:
    rng = np.random.default_rng(0)
    rates = np.array([0.2, 0.5, 0.8])
    outcomes = rng.random((3, 400)) < rates[:, None]
    mean, low, high = seeds_and_states(outcomes)
    assert mean == pytest.approx(outcomes.mean())
    assert high - low > 0.3
    _, low_states, high_states = seeds_and_states(outcomes.mean(axis=0, keepdims=True))
    assert high_states - low_states < 0.1


def test_one_seed_gives_the_paired_interval() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(200) < 0.7, rng.random(200) < 0.5
    together = seeds_and_states((first.astype(float) - second)[None])
    alone = paired_difference(first, second)
    np.testing.assert_allclose(together, alone, atol=0.02)


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((0, 3)), np.full((2, 2), np.nan)])
def test_tables_of_another_shape_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="seeds, states"):
        seeds_and_states(bad)


def test_a_probe_finds_where_the_object_is() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1200, 16, 8, generator=generator)
    place = torch.randint(16, (1200,), generator=generator)
    features[torch.arange(1200), place, 0] += 6.0
    position = torch.stack([place % 4, place // 4], dim=1).float()
    probe = fit_probe(features[:1000].half(), position[:1000], ProbeConfig(width=32, iterations=300))
    error = (probe(features[1000:]) - position[1000:]).norm(dim=1).mean()
    baseline = (position[1000:] - position.mean(dim=0)).norm(dim=1).mean()
    assert float(error) < 0.35 * float(baseline)


@pytest.mark.parametrize("seeds", range(2, 11))
def test_interval_over_few_seeds_is_students(seeds: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(seeds).normal(3.0, 1.0, seeds)
    mean, low, high = mean_over_seeds(values)
    expected = stats.t.interval(0.95, seeds - 1, loc=values.mean(), scale=stats.sem(values))
    assert (mean, low, high) == pytest.approx((values.mean(), *expected), abs=1e-3)


@pytest.mark.parametrize("values", [[1.0], [0.0] * 11, [1.0, float("nan")]])
def test_an_interval_needs_seeds(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"mean_over_seeds|finite"):
        mean_over_seeds(values)


def test_a_dream_that_orders_policies_well_has_no_violation() -> None:
    real = np.array([0.1, 0.4, 0.7, 0.9])
    same = compare(real, real**2)
    assert same["spearman"] == pytest.approx(1.0)
    assert same["mmrv"] == 0.0
    assert same["pearson"] > 0.95
    # One pair is misordered: both of it lose the difference of their real rates, the other two nothing.
    assert mean_maximum_rank_violation(real, np.array([0.1, 0.8, 0.7, 0.9])) == pytest.approx((0.3 + 0.3) / 4)
    # A dream in which all succeed orders nothing: each loses its distance to the best.
    flat = compare(real, np.ones(4))
    assert flat == {"pearson": 0.0, "spearman": 0.0, "mmrv": pytest.approx((0.8 + 0.5 + 0.2 + 0.0) / 4)}


def test_a_return_ends_with_the_first_success() -> None:
    alignment = torch.tensor([[-1.0, -2.0, -4.0], [-1.0, -2.0, -4.0]])
    success = torch.tensor([[False, True, True], [False, False, False]])
    assert episode_returns(alignment, success, bonus=10.0).tolist() == [7.0, -7.0]


def test_constant_scores_prefer_failures_half_of_the_time() -> None:
    outcome = np.array([True, False, False, True])
    assert auroc(np.zeros(4), outcome) == 0.5
    assert auroc(np.array([3.0, 1.0, 2.0, 4.0]), outcome) == 1.0
    assert np.isnan(auroc(np.zeros(2), np.ones(2, bool)))


def test_true_progress_rises_with_the_reach_and_then_with_the_object() -> None:
    cube, hand = np.array([0.0, 0.0, 0.82]), np.array([0.0, 0.0, 1.0])
    high = cube + np.array([0.0, 0.0, 0.05])
    states = [(cube, hand), (cube, cube), (high, high)]
    truth = np.array([[np.concatenate([c, h, [0.04]]) for c, h in states]])
    away, grasped, lifted = true_progress(truth, np.array([0.82]))[0]
    assert away < 0.1
    assert grasped == pytest.approx(1.0)
    assert lifted == pytest.approx(2.0)
