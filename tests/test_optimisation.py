"""The training loop of a stage: schedules, resuming, what is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from world_models.training.optimisation import FINE_TUNING, OptimisationConfig, optimise


def _regression_problem(folder: Path, iterations: int, loss_hook=lambda: None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = nn.Linear(3, 1)

    def draw(generator: torch.Generator, samples: int) -> torch.Tensor:
        return torch.randn(samples, 3, generator=generator)

    def loss(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        loss_hook()
        return (module(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()

    config = OptimisationConfig(
        iterations, batch_size=16, warmup=2, bf16=False, checkpoint_seconds=0.0, learning_rate=0.05
    )
    optimise("line", module, draw, loss, config, folder, key={"seed": 0})
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("has", [False, True])
def test_bfloat16_is_for_those_who_have_it(has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("world_models.training.optimisation.has_bfloat16", lambda device: has)
    module, seen = nn.Linear(3, 1), set()

    def loss(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        output = module(inputs)
        seen.add(output.dtype)
        return output.float().square().mean()

    optimise(
        "line", module, lambda generator, samples: torch.ones(samples, 3), loss, OptimisationConfig(2), tmp_path,
        key={"seed": 0},
    )  # fmt: skip
    assert seen == {torch.bfloat16 if has else torch.float32}


def test_seeds_micro_batches_and_iterations_draw_different_samples(tmp_path: Path) -> None:
    drawn: list[float] = []

    def draw(generator: torch.Generator, samples: int) -> torch.Tensor:
        drawn.append(float(torch.rand((), generator=generator)))
        return torch.rand(samples, 3, generator=generator)

    module = nn.Linear(3, 1)
    for seed in (0, 1, 2):
        optimise(
            "line", module, draw, lambda inputs, generator: module(inputs).square().mean(),
            OptimisationConfig(2, batch_size=8, micro_batches=4, bf16=False), tmp_path / str(seed), key={"seed": seed},
        )  # fmt: skip
    assert len(drawn) == len(set(drawn)) == 3 * 2 * 4


def test_an_interrupted_stage_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    straight = _regression_problem(tmp_path / "straight", 60)
    calls = 0

    def interrupt() -> None:
        nonlocal calls
        calls += 1
        if calls == 35:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _regression_problem(tmp_path / "broken", 60, interrupt)
    resumed = _regression_problem(tmp_path / "broken", 60)
    assert calls == 35
    for name, tensor in straight.items():
        torch.testing.assert_close(resumed[name], tensor, atol=0, rtol=0)
    assert float((straight["weight"] - 1).abs().max()) < 0.2


def test_weights_that_were_trained_before_learn_more_slowly(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].load_state_dict(module[0].state_dict())
    before = module[0].weight.detach().clone()

    def loss(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        # The same gradients for both.
        return sum((part(inputs) - 5.0).square().mean() for part in module)  # type: ignore[return-value, misc]

    config = OptimisationConfig(3, batch_size=4, warmup=1, bf16=False, learning_rate=0.01, ema_decay=0.0)
    optimise(
        "two", module, lambda generator, samples: torch.ones(samples, 2), loss, config, tmp_path, key={"seed": 0},
        fine_tuned=module[1],
    )  # fmt: skip
    moved = [(part.weight.detach() - before).abs().mean() for part in module]
    assert float(moved[1] / moved[0]) == pytest.approx(FINE_TUNING, rel=0.05)


def test_the_average_of_weights_is_handed_on_and_closer_than_the_last_ones(tmp_path: Path) -> None:
    """Noisy targets at a rate that hardly falls: single weights go on shaking about what their average finds."""
    errors = {}
    for decay in (0.0, 0.98):
        torch.manual_seed(0)
        module = nn.Linear(8, 8)

        def loss(inputs: torch.Tensor, generator: torch.Generator, module: nn.Linear = module) -> torch.Tensor:
            noise = 3 * torch.randn(inputs.shape, generator=generator)
            return (module(inputs) - inputs - noise).square().mean()

        config = OptimisationConfig(400, batch_size=8, warmup=400, bf16=False, learning_rate=0.05, ema_decay=decay)
        optimise(
            "noisy", module, lambda generator, samples: torch.randn(samples, 8, generator=generator), loss, config,
            tmp_path / str(decay), key={"seed": 0},
        )  # fmt: skip
        errors[decay] = float((module.weight.detach() - torch.eye(8)).abs().mean())
    assert errors[0.98] < 0.75 * errors[0.0]
