"""Opening what strangers made: nothing runs, is written or fetched; damage is one line that names file and fix."""

from __future__ import annotations

import json
import random
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from agents.policies.blind import BlindPolicy
from agents.policies.io import load_policy
from agents.policies.planner import Planner
from agents.policies.token_policy import TokenPolicy
from agents.ppo_checkpoint import load_checkpoint, save_checkpoint
from rewards import SuccessDetector
from rla_gym import RLAWMVectorEnv
from tests.old_format import save_old_world
from world_models.conversion import convert_world
from world_models.hub import hub_world
from world_models.io import load_encoder, load_world
from world_models.training.checkpoint import Progress, StageCheckpoint
from world_models.training.weight_average import WeightAverage
from world_models.world_names import BUNDLED_WORLDS, remembered_world, world_folder

SIZES = {"num_tokens": 16, "channels": 8, "chunk_length": 2, "action_dim": 4}
PLANNING = {
    "method": "cem", "temperature": 0.2, "std": 0.2, "reward": "progress", "success_bonus": 1.0, "gamma": 0.9,
    "dynamics": "residual_flow",
}  # fmt: skip
HUGE = 10**9


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.fixture
def copy(world: str, tmp_path: Path) -> Path:
    """A world that a test may damage."""
    return Path(shutil.copytree(world, tmp_path / "copy"))


def edit_json(path: Path, place: str, value: Any) -> None:
    content = part = json.loads(path.read_text())
    *parents, last = place.split(".")
    for name in parents:
        part = part[name]
    part[last] = value
    path.write_text(json.dumps(content))


def edit_tensors(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata)


def check_refused(open_it: Callable[[], object], *parts: str) -> None:
    """Opening must be refused soon, by one line that has these parts."""
    began = time.monotonic()
    with pytest.raises((ValueError, OSError)) as caught:
        open_it()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1200
    for part in parts:
        assert part in message, message
    assert time.monotonic() - began < 10


def make_policy(kind: str, folder: Path, **facts: Any) -> Path:
    token = TokenPolicy(**SIZES, width=16, queries=2)
    if kind == "token":
        policy: Any = token
    elif kind == "blind":
        policy = BlindPolicy(**SIZES, num_chunks=3)
    else:
        policy = Planner(**token.sizes, candidates=4, iterations=1, elites=2, planned=1, horizon=1, seed=0)
        facts = {"planning": PLANNING, **facts}
    policy.facts = {"method": kind, "world": "lift", "task": "Lift", **facts}
    return policy.save(folder)


# ---- what a world's config may ask timm for


@pytest.mark.parametrize("loader", [load_world, load_encoder])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint_path", "BAD"),
        ("cache_dir", "BAD"),
        ("pretrained", True),
        ("pretrained_cfg", {"url": "http://localhost/x"}),
        ("pretrained_cfg_overlay", {"url": ["http://localhost/x", "usercustomize.py"], "custom_load": True}),
        ("pretrained_strict", False),
        ("features_only", True),
        ("norm_layer", "LayerNorm"),
        ("depth", HUGE),
        ("depth", 1.5),
        ("depth", True),
        ("embed_dim", HUGE),
        ("patch_size", [8, 8]),
        ("out_indices", [HUGE]),
    ],
)
def test_a_config_gives_timm_sizes_alone(
    copy: Path, tmp_path: Path, loader: Callable[[Path], object], name: str, value: Any
) -> None:
    value = str(tmp_path / "outside") if value == "BAD" else value
    before = sorted(tmp_path.rglob("*"))
    edit_json(copy / "config.json", f"encoder.backbone_arguments.{name}", value)
    check_refused(lambda: loader(copy), str(copy / "config.json"), name, "train the world anew")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "backbone", ["hf-hub:owner/name", "local-dir:/tmp", "hf_hub:owner/name", "../vit", "nothing", "", "vit_tiny\n", 3]
)
def test_a_config_names_an_architecture_of_timm(copy: Path, backbone: Any) -> None:
    edit_json(copy / "config.json", "encoder.backbone", backbone)
    check_refused(lambda: load_world(copy), str(copy / "config.json"), "train the world anew")


def test_a_config_that_says_pretrained_or_names_a_checkpoint_loads_neither(copy: Path) -> None:
    edit_json(copy / "config.json", "encoder.pretrained", True)
    edit_json(copy / "config.json", "encoder.checkpoint", "/nowhere/weights.bin")
    assert load_world(copy).model.num_tokens == 16


# ---- names


def test_a_name_is_the_bundled_world_and_a_path_a_folder(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy.rename(tmp_path / "lift")
    monkeypatch.chdir(tmp_path)
    assert world_folder("lift") == BUNDLED_WORLDS / "lift"
    assert world_folder("./lift").resolve() == tmp_path / "lift"
    for name in ("worlds/lift", "./nothing", "owner/name", str(tmp_path)):
        check_refused(lambda name=name: world_folder(name), name, "rla-gym train")  # type: ignore[misc]
    (tmp_path / "lift").rename(tmp_path / "mine")
    check_refused(lambda: world_folder("mine"), "./mine is one")


@pytest.mark.parametrize("name", ["", "  ", "hf://", "hf://name", "hf://a/b/c", "hf://a/../b", "hf://a/b@", "li\0ft"])
def test_names_of_no_world_are_refused(name: str) -> None:
    check_refused(lambda: world_folder(name), "hf://owner/name")


def test_the_hub_is_asked_only_by_an_explicit_name_and_once(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub

    asked = []

    def snapshot(repo: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool = False) -> str:
        if local_files_only and not any(not local for *_, local in asked):
            raise huggingface_hub.errors.LocalEntryNotFoundError("not there")
        asked.append((repo, revision, allow_patterns, local_files_only))
        return str(copy)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    check_refused(lambda: remembered_world("hf://owner/name", source="config.json"), "config.json", "--world hf://")
    assert not asked
    assert hub_world("hf://owner/name@v1") == copy
    repo, revision, patterns, _ = asked[0]
    assert (repo, revision) == ("owner/name", "v1")
    assert not any(set("*?[") & set(pattern) for pattern in patterns)
    assert "fetching the world owner/name (revision v1)" in capsys.readouterr().err
    assert hub_world("hf://owner/name@v1") == copy
    assert not capsys.readouterr().err
    assert remembered_world("hf://owner/name", source="config.json") == "hf://owner/name"


def test_a_policy_reaches_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    policy = load_policy(make_policy("token", tmp_path / "policy", world="hf://owner/name"))
    check_refused(lambda: policy.world, str(tmp_path / "policy" / "config.json"), "--world hf://owner/name")
    assert load_policy(make_policy("token", tmp_path / "other", world="owner/name")).world == "owner/name"
    for world in ("", 3, "hf://owner"):
        folder = make_policy("token", tmp_path / "other", world=world)
        if world == "hf://owner":
            check_refused(lambda: load_policy(folder).world, "config.json", "hf://owner/name")  # noqa: B023
        else:
            check_refused(lambda: load_policy(folder), "config.json", "world")  # noqa: B023


# ---- damaged files of every kind

WORLD_FILES = ["config.json", "model.safetensors", "demonstrations.safetensors", "success.json", "success.safetensors"]


def open_world(folder: Path) -> None:
    load_world(folder)
    SuccessDetector.load(folder)


@pytest.mark.parametrize("name", WORLD_FILES)
def test_damaged_files_of_a_world_are_named(copy: Path, name: str) -> None:
    path = copy / name
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:5], b"\xff" * 64, b"\0" * 64):
        path.write_bytes(content)
        check_refused(lambda: open_world(copy), str(path), "anew")
    path.unlink()
    path.mkdir()
    check_refused(lambda: open_world(copy), name)


@pytest.mark.parametrize("name", [name for name in WORLD_FILES if name.endswith(".json")])
def test_json_that_is_no_config_is_named(copy: Path, name: str) -> None:
    path = copy / name
    twice = path.read_text().rstrip().removesuffix("}") + ', "metrics": {}, "metrics": {}}'
    for text in ("[]", "3", "null", '{"format": 6}', "{}", "[" * 5000, '{"a":' * 50 + "1" + "}" * 50, twice):
        path.write_text(text)
        check_refused(lambda: open_world(copy), str(path), "anew")


@pytest.mark.parametrize("name", [name for name in WORLD_FILES if name.endswith(".safetensors")])
def test_tensors_that_do_not_fit_are_named(copy: Path, name: str) -> None:
    path = copy / name
    whole = path.read_bytes()
    floats = next(key for key, tensor in load_file(path).items() if tensor.dtype == torch.float32 and tensor.numel())
    edits: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
        "NaN": lambda tensors: tensors[floats].view(-1)[:1].fill_(torch.nan),
        "infinity": lambda tensors: tensors[floats].view(-1)[-1:].fill_(-torch.inf),
        "missing": lambda tensors: tensors.pop(floats),
        "shape": lambda tensors: tensors.update({floats: tensors[floats][None].clone()}),
        "dtype": lambda tensors: tensors.update({floats: tensors[floats].double()}),
        "float8": lambda tensors: tensors.update({floats: tensors[floats].to(torch.float8_e4m3fn)}),
        "complex": lambda tensors: tensors.update({floats: tensors[floats].to(torch.complex64)}),
    }
    for edit in edits.values():
        path.write_bytes(whole)
        edit_tensors(path, edit)
        check_refused(lambda: open_world(copy), str(path), floats, "anew")


@pytest.mark.parametrize(
    ("file", "place"),
    [
        *(("config.json", place) for place in (
            "chunk_length", "prediction_length", "fps", "frame_size", "proprioception", "encoder.image_size",
            "encoder.channels", "rgb_decoder.width", "dynamics.residual_flow.width",
            "dynamics.residual_flow.base_depth",
            "dynamics.residual_flow.flow_depth", "dynamics.residual_flow.solver_steps",
            "dynamics.residual_flow.latents", "dynamics.residual_flow.latent_dim", "dynamics.regression.depth",
        )),
        *(("success.json", place) for place in ("num_tokens", "channels", "num_queries", "threshold")),
    ],
)  # fmt: skip
def test_numbers_of_a_world_have_types_and_bounds(copy: Path, file: str, place: str) -> None:
    name, whole = place.split(".")[-1], (copy / file).read_text()
    for value in (HUGE, 10**400, -1, True, "3", [3]):
        (copy / file).write_text(whole)
        edit_json(copy / file, place, value)
        check_refused(lambda: open_world(copy), str(copy / file), name, "anew")


def test_a_detector_of_other_states_is_refused_when_the_environment_is_made(copy: Path) -> None:
    SuccessDetector(16, 9).save(copy)
    check_refused(lambda: RLAWMVectorEnv(1, world=str(copy)), str(copy / "success.json"), "16 tokens of 9 channels")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "starts.safetensors", "success.json"])
def test_damaged_worlds_of_an_old_format_are_named_and_leave_nothing(world: str, tmp_path: Path, name: str) -> None:
    old = save_old_world(Path(world), tmp_path / "old")
    whole = (old / name).read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"{}", b"[]", b'{"format": 5, "encoder": 3}'):
        (old / name).write_bytes(content)
        check_refused(lambda: convert_world(old, tmp_path / "new"), str(old) if content != b"{}" else "")
        assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("kind", ["token", "blind", "planner"])
def test_damaged_policies_are_named(tmp_path: Path, kind: str) -> None:
    folder = make_policy(kind, tmp_path / "policy")
    config, weights = folder / "config.json", folder / "policy.safetensors"
    text, content = config.read_text(), weights.read_bytes()
    for name in json.loads(text).keys() & load_policy(folder).sizes.keys():
        for value in (HUGE**3, 0.5, True, "3", None):
            config.write_text(text)
            edit_json(config, name, value)
            check_refused(lambda: load_policy(folder), str(config), name, "anew")
    for name, values in {"kind": ("x", 3, None), "format": (99, "2", True), "task": (3,), "method": ([],)}.items():
        for value in values:
            config.write_text(text)
            edit_json(config, name, value)
            check_refused(lambda: load_policy(folder), "config.json", "anew")
    config.write_text(text)
    for bad in (b"", content[:20], content[:-4], b"\xff" * 64):
        weights.write_bytes(bad)
        check_refused(lambda: load_policy(folder), str(weights), "anew")
    weights.write_bytes(content)
    edit_tensors(weights, lambda tensors: next(iter(tensors.values())).fill_(torch.nan))
    check_refused(lambda: load_policy(folder), str(weights), "NaN", "anew")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("elites", 5), ("elites", 1), ("planned", 2), ("horizon", 1000), ("planning", None), ("planning.gamma", 2.0),
        ("planning.std", 0), ("planning.temperature", "x"), ("planning.method", "x"), ("planning.dynamics", "x"),
        ("planning.reward", "x"), ("planning.success_bonus", 1e300),
    ],
)  # fmt: skip
def test_settings_of_a_planner_are_checked(tmp_path: Path, name: str, value: Any) -> None:
    folder = make_policy("planner", tmp_path / "policy")
    if name == "horizon":
        edit_json(folder / "config.json", "candidates", 4096)
    edit_json(folder / "config.json", name, value)
    check_refused(lambda: load_policy(folder), str(folder / "config.json"), name.split(".")[-1], "anew")


# ---- files of a training that goes on


def stage(folder: Path) -> tuple[StageCheckpoint, torch.nn.Module, WeightAverage, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    return StageCheckpoint(folder / "x.safetensors", "x", {"seed": 1}), module, WeightAverage(module), optimiser


def test_damaged_stages_are_named(tmp_path: Path) -> None:
    checkpoint, module, average, optimiser = stage(tmp_path)
    checkpoint.save(Progress(3, 1.5, {"loss": float("nan"), "error": 0.5}), module, average, optimiser)
    path = tmp_path / "x.safetensors"
    whole, ending = path.read_bytes(), "delete it to train this stage anew"

    def restore() -> Progress:
        again, *parts = stage(tmp_path)
        return again.restore(*parts)

    progress = restore()
    assert (progress.iteration, progress.seconds, progress.metrics["error"]) == (3, 1.5, 0.5)
    assert np.isnan(progress.metrics["loss"])
    for content in (b"", whole[:20], whole[:-3], b"\xff" * 80):
        path.write_bytes(content)
        check_refused(restore, str(path), ending)
    for name in load_file_of(whole, path):
        for edit in (
            lambda tensors, name=name: tensors.pop(name),
            lambda tensors, name=name: tensors.update({name: torch.full_like(tensors[name], torch.nan)}),
            lambda tensors, name=name: tensors.update({name: tensors[name].double()}),
            lambda tensors, name=name: tensors.update({name: tensors[name][None].clone()}),
            lambda tensors, name=name: tensors.update({f"{name}.x": tensors[name].clone()}),
        ):
            path.write_bytes(whole)
            edit_tensors(path, edit)
            check_refused(restore, str(path), ending)
    for state in ("{", "[]", "{}", '{"iteration": -1, "seconds": 0, "metrics": {}}', '{"iteration": "3"}'):
        path.write_bytes(whole)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        save_file(load_file(path), path, {**metadata, "state": state})
        check_refused(restore, str(path), ending)
    save_file(load_file(path), path)
    check_refused(restore, str(path), ending)


def load_file_of(content: bytes, path: Path) -> list[str]:
    path.write_bytes(content)
    return list(load_file(path))


def test_damaged_checkpoints_of_ppo_are_named(tmp_path: Path) -> None:
    _, module, _, optimiser = stage(tmp_path)
    path, parts = tmp_path / "checkpoint.safetensors", {"policy": module, "optimiser": optimiser}
    history = [{"iteration": 1, "loss": float("nan")}]
    save_checkpoint(path, parts, {"seed": 1}, {"iteration": 1, "seconds": 2.0, "history": history})
    whole, metadata = path.read_bytes(), None
    with safe_open(path, "pt") as file:
        metadata = file.metadata()

    def load() -> dict[str, Any]:
        return load_checkpoint(path, parts, {"seed": 1})

    assert load()["seconds"] == 2.0
    for content in (b"", whole[:20], whole[:-3]):
        path.write_bytes(content)
        check_refused(load, str(path), "--overwrite")
    for name in load_file_of(whole, path):
        path.write_bytes(whole)
        edit_tensors(path, lambda tensors, name=name: tensors.pop(name))  # type: ignore[misc]
        check_refused(load, str(path), "--overwrite")
    for state in ("[]", "{}", metadata["state"].replace('"iteration": 1, "seconds"', '"iteration": 9, "seconds"')):
        path.write_bytes(whole)
        save_file(load_file(path), path, {"state": state})
        check_refused(load, str(path), "--overwrite")


# ---- opening leaves everything as it was


def test_opening_consumes_no_random_numbers(world: str, tmp_path: Path) -> None:
    policies = [make_policy(kind, tmp_path / kind) for kind in ("token", "blind", "planner")]
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    before = torch.get_rng_state().clone(), np.random.get_state(), random.getstate()
    load_world(world)
    load_world(world, dynamics="regression")
    load_encoder(world)
    SuccessDetector.load(world)
    for folder in policies:
        load_policy(folder)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(np.random.get_state(), before[1], strict=True))
    assert random.getstate() == before[2]


def test_opening_does_not_depend_on_the_default_dtype(world: str, tmp_path: Path) -> None:
    folder = make_policy("token", tmp_path / "policy")

    def results() -> list[torch.Tensor]:
        loaded, detector = load_world(world), SuccessDetector.load(world)
        model, states = loaded.model, loaded.demonstrations.features[:2, 0].float()
        noise = torch.ones(2, *(model.noise_shape or ()), dtype=torch.float32)
        frames = torch.arange(2 * 32 * 32 * 3).view(2, 32, 32, 3).to(torch.uint8)
        predicted = model.predict(states, torch.zeros(2, 8, 4, dtype=torch.float32), noise)
        return [
            *predicted, model.decode(states), model.encode(frames), detector.probability(states),
            load_policy(folder).act(states),
        ]  # fmt: skip

    expected = results()
    torch.set_default_dtype(torch.float64)
    try:
        found = results()
    finally:
        torch.set_default_dtype(torch.float32)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
