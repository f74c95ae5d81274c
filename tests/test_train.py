"""Training of all stages on a small dataset: caches, resuming after a kill, refusing what does not fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.conftest import tiny_config
from tests.synthetic_dataset import write_moving_square
from world_models.data.demonstrations import Demonstrations
from world_models.data.episodes import EpisodeDataset
from world_models.data.feature_cache import Windows, cache_features, cache_frames, episode_offsets, readings
from world_models.distillation import DistillationConfig
from world_models.features import FeatureEncoder
from world_models.optimisation import OptimisationConfig, optimise
from world_models.state import StateEncoder
from world_models.train import TrainConfig, train
from world_models.world_model import load_encoder, load_world


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return write_moving_square(tmp_path_factory.mktemp("data"))


def tiny_training(data: Path, out: Path, iterations: int = 12) -> TrainConfig:
    config = tiny_config()
    assert config.rla is not None
    assert config.flow is not None
    assert config.regression is not None
    schedule = OptimisationConfig(iterations, batch_size=8, warmup=2, validate_every=5, bf16=False)
    return TrainConfig(
        data, out, demonstrations=4, device="cpu", threads=1, encoder=config.encoder,
        distillation=DistillationConfig(optimisation=schedule), rla=config.rla, flow=config.flow,
        regression=config.regression, rgb_decoder=config.rgb_decoder, rla_optimisation=schedule,
        flow_optimisation=schedule, regression_optimisation=schedule, rgb_optimisation=schedule,
        error_optimisation=schedule, pushed_chunks=1,
    )  # fmt: skip


def test_training_goes_on_from_a_world_and_leaves_stages_of_no_iterations_alone(
    dataset: EpisodeDataset, tmp_path: Path
) -> None:
    config = replace(tiny_training(dataset.root, tmp_path / "first", 3), baseline=False)
    first = train(config)
    none = OptimisationConfig(0)
    later = replace(
        config, out=tmp_path / "later", start_from=str(tmp_path / "first"),
        rla_optimisation=none, rgb_optimisation=none, error_optimisation=none,
        flow_optimisation=replace(config.flow_optimisation, iterations=5),
    )  # fmt: skip
    metrics = train(later)
    assert metrics["rla"] == first["rla"]
    assert metrics["flow"]["iterations"] == 3 + 5
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "later"))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"flow"}
    with pytest.raises(ValueError, match="other sizes"):
        train(replace(later, out=tmp_path / "wider", flow=replace(config.flow, width=32)))
    for name, value, mend in (
        ("task", "Stack", "--task Lift"), ("proprioception", False, "train anew"), ("baseline", True, "--no-baseline"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=mend):
            train(replace(later, out=tmp_path / "refused", **{name: value}))
    assert not (tmp_path / "refused").exists()
    # What is taught about errors changes no dream.
    taught = replace(
        later, out=tmp_path / "taught", flow_optimisation=none,
        error_optimisation=replace(config.error_optimisation, iterations=5),
    )  # fmt: skip
    assert -1 <= train(taught)["flow_errors"]["error_correlation"] <= 1
    after = load_file(tmp_path / "taught" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[2].split("_")[0] for name in changed} == {"error"}
    assert "flow.stage1.error_out.weight" in changed


def test_a_world_may_do_without_the_baseline(dataset: EpisodeDataset, tmp_path: Path) -> None:
    metrics = train(replace(tiny_training(dataset.root, tmp_path, 2), baseline=False))
    assert "regression" not in metrics
    assert load_world(tmp_path).model.noise_shape is not None
    with pytest.raises(ValueError, match="regression"):
        load_world(tmp_path, dynamics="regression")


def test_train_writes_a_world_that_loads_and_a_second_run_changes_nothing(
    dataset: EpisodeDataset, tmp_path: Path
) -> None:
    config = tiny_training(dataset.root, tmp_path / "world")
    metrics = train(config)
    assert {"encoder", "rla", "flow", "regression", "rgb_decoder"} <= set(metrics)
    for dynamics in ("flow", "regression"):
        world = load_world(tmp_path / "world", dynamics=dynamics)
        assert len(world.demonstrations) == 4
        assert world.model.config.instruction == "move the square"
        assert world.model.num_tokens == 17
        assert not torch.equal(world.model.foreteller.error_calibration, torch.ones(2))
    card = (tmp_path / "world" / "README.md").read_text()
    assert "20 episodes" in card
    assert "| flow | 12 |" in card
    events = list((tmp_path / "world" / "stages" / "tensorboard").rglob("events.*"))
    assert {event.parent.name for event in events} >= {"encoder", "rla", "flow", "regression", "rgb_decoder", "dream"}
    before = load_file(tmp_path / "world" / "model.safetensors")
    assert train(config) == metrics
    after = load_file(tmp_path / "world" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(ValueError, match="other settings"):
        train(replace(config, rla_optimisation=replace(config.rla_optimisation, learning_rate=1.0)))


def test_demonstrations_are_successes_of_the_training_split(dataset: EpisodeDataset, tmp_path: Path) -> None:
    train(tiny_training(dataset.root, tmp_path, iterations=2))
    world = load_world(tmp_path)
    chosen = [i for i in dataset.split("train") if dataset.successes[i]][:4]
    for row, index in enumerate(chosen):
        np.testing.assert_allclose(world.demonstrations.actions[row].numpy(), dataset.episode(int(index)).actions)


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
    monkeypatch.setattr("world_models.optimisation.has_bfloat16", lambda device: has)
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


def test_training_survives_kill_minus_nine(dataset: EpisodeDataset, tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from dataclasses import replace; from tests.test_train import tiny_training; "
        "from world_models.train import train; "
        f"config = tiny_training(Path({str(dataset.root)!r}), Path({str(tmp_path)!r}), 40); "
        "fast = replace(config.rla_optimisation, checkpoint_seconds=0.0); "
        "train(replace(config, rla_optimisation=fast))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "stages" / "rla.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.is_file() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.is_file()
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True)
    assert json.loads((tmp_path / "training.json").read_text())["metrics"]["rla"]["iterations"] == 40
    load_world(tmp_path)


def test_cache_is_keyed_by_data_and_encoder(dataset: EpisodeDataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = StateEncoder(FeatureEncoder(tiny_config().encoder), proprioception=2)
    features = cache_features(dataset, encoder, tmp_path)
    assert features.shape == (dataset.num_frames, 17, 8)
    assert features.dtype == np.float16
    frames = cache_frames(dataset, tmp_path)
    np.testing.assert_allclose(
        features[3:5], encoder(torch.from_numpy(frames[3:5]), readings(dataset, 0)[3:5]).numpy(), atol=5e-3, rtol=5e-3
    )
    files = set(tmp_path.glob("features-*"))
    with torch.no_grad():
        encoder.visual.mean.add_(1)
    shifted = cache_features(dataset, encoder, tmp_path)
    assert len(set(tmp_path.glob("features-*")) - files) == 1
    assert abs(float(shifted.astype(np.float32).mean() - features.astype(np.float32).mean())) > 0.5


def test_an_interrupted_cache_goes_on(dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.array(cache_frames(dataset, tmp_path / "whole"))
    decode, calls = EpisodeDataset.frames, []

    def failing(self: EpisodeDataset, index: int) -> np.ndarray:
        calls.append(index)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return decode(self, index)

    monkeypatch.setattr(EpisodeDataset, "frames", failing)
    with pytest.raises(KeyboardInterrupt):
        cache_frames(dataset, tmp_path / "broken")
    assert not list((tmp_path / "broken").glob("*.npy"))
    assert np.array_equal(cache_frames(dataset, tmp_path / "broken"), whole)


def test_a_grown_dataset_decodes_and_encodes_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = StateEncoder(FeatureEncoder(tiny_config().encoder), proprioception=2)
    first = write_moving_square(tmp_path / "first", episodes=3)
    grown = write_moving_square(tmp_path / "grown", episodes=5)
    assert grown.fingerprints()[2] == first.fingerprint()
    whole = np.array(cache_features(grown, encoder, tmp_path / "whole"))
    cache_features(first, encoder, tmp_path / "cache")

    decode, decoded = EpisodeDataset.frames, []

    def watched(self: EpisodeDataset, index: int) -> np.ndarray:
        decoded.append(index)
        return decode(self, index)

    monkeypatch.setattr(EpisodeDataset, "frames", watched)
    np.testing.assert_array_equal(cache_features(grown, encoder, tmp_path / "cache"), whole)
    assert decoded == [3, 4]


def test_windows_stay_inside_their_episode(dataset: EpisodeDataset) -> None:
    offsets = episode_offsets(dataset.lengths)
    # Each frame's feature is its own number, so a sample tells where it came from.
    features = torch.arange(dataset.num_frames).view(-1, 1, 1).float().half().expand(-1, 16, 8)
    actions = torch.arange(dataset.num_frames).view(-1, 1).float().expand(-1, 4)
    windows = Windows.over(features, actions, offsets, dataset.split("train"))
    states, later, chunk, lengths = windows.sample(512, 8, torch.Generator().manual_seed(0))
    first, last = states[:, 0, 0].long(), later[:, 0, 0].long()
    assert torch.equal(last - first, lengths)
    assert lengths.min() >= 1
    assert lengths.max() == 8
    episode = np.searchsorted(offsets, first.numpy(), side="right") - 1
    assert np.array_equal(episode, np.searchsorted(offsets, last.numpy(), side="right") - 1)
    assert set(episode) <= set(dataset.split("train"))
    for row in range(20):
        n = int(lengths[row])
        assert torch.equal(chunk[row, :n, 0].long(), torch.arange(int(first[row]), int(first[row]) + n))
        assert chunk[row, n:].eq(0).all()
    for share in (0.0, 0.5):
        windows = Windows.over(features, actions, offsets, dataset.split("train"), first_share=share)
        begins = windows.sample(512, 8, torch.Generator().manual_seed(0))[0][:, 0, 0].long().numpy()
        among_all = 1 / (offsets[1] - offsets[0] - 1)
        assert np.isin(begins, offsets).mean() == pytest.approx(share + (1 - share) * among_all, abs=0.06)


def test_windows_are_drawn_from_many_starts_by_their_chances() -> None:
    many = 2**24 + 8  # more than torch.multinomial takes: 233 hours at 20 frames a second
    weights = torch.zeros(many)
    weights[[5, many - 2, many - 1]] = torch.tensor([0.25, 0.25, 0.5])
    remaining = torch.ones(many, dtype=torch.int64)
    remaining[many - 1] = 3
    windows = Windows(torch.zeros(1), torch.zeros(1), torch.arange(many), remaining, weights)
    drawn = windows.draw(4000, torch.Generator().manual_seed(0))
    rows, counts = drawn.unique(return_counts=True)
    assert rows.tolist() == [5, many - 2, many - 1]
    np.testing.assert_allclose(counts / 4000, [0.25, 0.25, 0.5], atol=0.03)
    assert windows.draw(9, torch.Generator(), span=3).unique().tolist() == [many - 1]


def test_runs_of_chunks_are_whole(dataset: EpisodeDataset) -> None:
    offsets = episode_offsets(dataset.lengths)
    features = torch.arange(dataset.num_frames).view(-1, 1, 1).float().half().expand(-1, 16, 8)
    actions = torch.arange(dataset.num_frames).view(-1, 1).float().expand(-1, 4)
    windows = Windows.over(features, actions, offsets, dataset.split("train"))
    states, run, later = windows.sample_sequence(64, 4, 3, torch.Generator().manual_seed(0))
    assert run.shape == (64, 3, 4, 4)
    first = states[:, 0, 0].long()
    assert torch.equal(run[..., 0].flatten(1).long(), first[:, None] + torch.arange(12))
    assert torch.equal(later[:, :, 0, 0].long(), first[:, None] + torch.tensor([4, 8, 12]))
    assert bool((first % 24 + 12 < 24).all())
    with pytest.raises(ValueError, match="no episode has 40 frames"):
        windows.sample_sequence(1, 8, 5, torch.Generator())


def test_a_world_can_do_without_proprioception(dataset: EpisodeDataset, tmp_path: Path) -> None:
    train(replace(tiny_training(dataset.root, tmp_path, iterations=2), proprioception=False, pushed_chunks=0))
    assert load_world(tmp_path).model.num_tokens == 16


def test_data_without_success_is_refused_before_work_starts(tmp_path: Path) -> None:
    write_moving_square(tmp_path / "data", episodes=1)
    with pytest.raises(FileNotFoundError, match="rla-gym collect"):
        train(tiny_training(tmp_path / "nothing", tmp_path / "world"))
    with pytest.raises(ValueError, match="validation split"):
        train(tiny_training(tmp_path / "data", tmp_path / "world"))
    with pytest.raises(ValueError, match=r"first_frame_share=1.5 must be between 0 and 1"):
        train(replace(tiny_training(tmp_path / "data", tmp_path / "world"), first_frame_share=1.5))
    assert not (tmp_path / "world").exists()


def test_an_encoder_can_stand_alone_and_serve_a_second_world(dataset: EpisodeDataset, tmp_path: Path) -> None:
    first = tiny_training(dataset.root, tmp_path / "first", iterations=2)
    train(replace(first, encoder_only=True))
    encoder = load_encoder(tmp_path / "first")
    assert len(Demonstrations.load(tmp_path / "first" / "starts.safetensors")) == 4
    with pytest.raises(ValueError, match="does not hold the flow dynamics"):
        load_world(tmp_path / "first")
    grown = write_moving_square(tmp_path / "grown", episodes=22)
    train(replace(first, data=grown.root, out=tmp_path / "second", encoder_from=str(tmp_path / "first")))
    assert load_world(tmp_path / "second").model.encoder.fingerprint() == encoder.fingerprint()
    assert not (tmp_path / "second" / "stages" / "encoder.safetensors").exists()
