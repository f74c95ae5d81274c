"""Values that users give environments by mistake, and what each is equal to where it may be accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.fuzz.mutation import Places


class Refused:
    """In place of an equal value: there is none."""


Entry = tuple[str, Any, Any]
"""In words, the value, what it is equal to (None for the default) or ``Refused``."""

NAN, INF = float("nan"), float("inf")


def constructor_values(places: Places) -> dict[str, list[Entry]]:
    """For each argument of the constructors, bad values and unusual good ones."""
    world = places.root / "world"
    junk: list[Entry] = [
        ("text", "x", Refused), ("a list", [], Refused), ("a dict", {}, Refused), ("an object", object(), Refused),
        ("bytes", b"x", Refused), ("an array", np.zeros(3), Refused),
    ]  # fmt: skip
    numbers: list[Entry] = [
        ("NaN", NAN, Refused), ("infinity", INF, Refused), ("-1", -1, Refused), ("1j", 1j, Refused),
        ("'3'", "3", Refused), ("a list", [3], Refused), ("an array", np.array([3, 4]), Refused),
        ("a dict", {}, Refused), ("NaN of numpy", np.float32("nan"), Refused),
    ]  # fmt: skip
    counts: list[Entry] = [
        *numbers, ("0", 0, Refused), ("1.5", 1.5, Refused), ("True", True, Refused), ("1e30", 1e30, Refused),
        ("-1e9", -1e9, Refused),
    ]  # fmt: skip
    choice: list[Entry] = [
        *junk, ("None", None, Refused), ("0", 0, Refused), ("an empty text", "", Refused),
        ("a long text", "x" * 100_000, Refused), ("NaN", NAN, Refused),
    ]  # fmt: skip
    return {
        "num_envs": [*counts, ("numpy's 2", np.int64(2), 2), ("2.0", 2.0, 2), ("None", None, Refused)],
        "first_slot": [
            *numbers, ("1.5", 1.5, Refused), ("True", True, Refused), ("numpy's 3", np.int64(3), 3),
            ("2**70", 2**70, Refused), ("None", None, Refused),
        ],
        "chunk_length": [
            *counts, ("numpy's 4", np.int64(4), 4), ("4.0", 4.0, 4), ("beyond the world's", 9, Refused),
            ("10**9", 10**9, Refused),
        ],
        "prediction_length": [
            *counts, ("numpy's 4", np.int32(4), 4), ("beyond the world's", 9, Refused), ("10**9", 10**9, Refused),
        ],
        "max_chunks": [*counts, ("numpy's 3", np.int64(3), 3), ("3.0", 3.0, 3), ("2.5", 2.5, Refused)],
        "solver_steps": [
            *counts, ("numpy's 2", np.int64(2), 2), ("10**7", 10**7, Refused), ("10**12", 10**12, Refused),
        ],
        "success_bonus": [
            *(entry for entry in numbers if entry[0] != "-1"), ("None", None, Refused), ("1e300", 1e300, Refused),
            ("numpy's 1", np.float32(1), 1.0), ("1", 1, 1.0), ("a tensor", torch.tensor([1.0, 2.0]), Refused),
        ],
        "max_uncertainty": [
            *(entry for entry in numbers if entry[0] != "infinity"), ("True", True, 1.0),
            ("numpy's 5", np.float64(5), 5.0),
        ],
        "terminate_on_success": [
            ("text", "no", Refused), ("None", None, Refused), ("2", 2, Refused), ("NaN", NAN, Refused),
            ("a list", [], Refused), ("an array", np.array([True, False]), Refused),
            ("numpy's True", np.True_, True), ("1", 1, True), ("0.5", 0.5, Refused),
        ],
        "reward": choice,
        "initial_states": choice,
        "dynamics": choice,
        "precision": choice,
        "output": choice,
        "out_of_bounds": choice,
        "autoreset_mode": choice,
        "render_mode": [*(entry for entry in choice if entry[0] != "None"), ("human", "human", Refused)],
        "obs": [
            *choice, ("one name twice", ("rgb", "rgb"), Refused), ("an unknown one", ("features", "depth"), Refused),
            ("a list", ["features", "rgb"], ("features", "rgb")),
            ("proprioception without", "proprioception", Refused), ("a name with a space", "rgb ", Refused),
            ("whole numbers", (1, 2), Refused), ("nested", [["rgb"]], Refused),
        ],
        "device": [
            *junk, ("meta", "meta", Refused), ("cuda:99", "cuda:99", Refused), ("None", None, Refused),
            ("an empty text", "", Refused), ("-1", -1, Refused), ("NaN", NAN, Refused), ("cpu:0", "cpu:0", "cpu"),
            ("torch's", torch.device("cpu"), "cpu"), ("CPU", "CPU", Refused), ("mps", "mps", Refused),
        ],
        "task": [
            *(entry for entry in choice if entry[0] != "None"), ("lift", "lift", Refused),
            ("Stack", "Stack", Refused),
        ],
        "world": [
            ("a path", Path(world), str(world)), ("a text with a slash", f"{world}/", str(world)),
            ("an empty text", "", Refused), ("a missing folder", "worlds/lift", Refused),
            ("a missing folder by path", "./worlds/lift", Refused), ("owner/name", "owner/name", Refused),
            ("timm's hub", "hf-hub:timm/resnet18", Refused), ("a URL", "https://127.0.0.1:9/world", Refused),
            ("a file's URL", f"file://{world}", Refused), ("a file", str(world / "config.json"), Refused),
            ("the parent folder", "..", Refused), ("the root", "/", Refused), ("home", "~", Refused),
            ("a null byte", "lift\0", Refused), ("a long text", "x" * 100_000, Refused), ("bytes", b"lift", Refused),
            ("0", 0, Refused), ("a list", [], Refused), ("True", True, Refused), ("a dict", {}, Refused),
            ("a name with dots", "../lift", Refused), ("a name in capitals", "LIFT", Refused),
            ("a space", " lift", Refused), ("hf:// without a name", "hf://", Refused),
            ("hf:// of one part", "hf://x", Refused),
        ],
        "an_unknown_argument": [("1", 1, Refused)],
        "chunk_lenght": [("4", 4, Refused)],
    }  # fmt: skip


def seeds() -> list[Entry]:
    """Seeds of two slots."""
    return [
        ("-1", -1, Refused), ("1.5", 1.5, Refused), ("'0'", "0", Refused), ("NaN", NAN, Refused),
        ("a dict", {}, Refused), ("one of two", [1], Refused), ("three of two", [1, 2, 3], Refused),
        ("a negative one of two", [1, -2], Refused), ("a float among two", [1, 2.5], Refused),
        ("text among two", ["1", 2], Refused), ("1e9", 1e9, Refused), ("infinity", INF, Refused),
        ("bytes", b"ab", Refused), ("an object", object(), Refused), ("numpy's", np.int64(3), 3),
        ("numpy's small", np.uint8(3), 3), ("a tuple", (3, 4), [3, 4]), ("an array", np.array([3, 4]), [3, 4]),
        ("an array of floats", np.array([3.0, 4.5]), Refused), ("an array of rows", np.array([[3, 4]]), Refused),
        ("a whole tensor", torch.tensor([3, 4]), [3, 4]), ("an empty list", [], Refused), ("a set", {3, 4}, Refused),
    ]  # fmt: skip


def options() -> list[tuple[str, str, Any, Any]]:
    """Reset options of two slots of a video-only world with six demonstrations: the option, in words, value, equal."""
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    entries: list[tuple[str, str, Any, Any]] = [
        ("options", "text", "demo", Refused), ("options", "a list", ["demo"], Refused),
        ("options", "0.5", 0.5, Refused), ("option", "an unknown one", {"demonstration": 1}, Refused),
        ("option", "a number for a name", {1: 1}, Refused), ("t", "without demo", {"t": 3}, Refused),
    ]  # fmt: skip
    for words, value, equal in [
        ("-1", -1, Refused), ("99", 99, Refused), ("1.5", 1.5, Refused), ("True", True, Refused),
        ("NaN", NAN, Refused), ("text", "1", Refused), ("None", None, Refused), ("three", [1, 2, 3], Refused),
        ("rows", [[1], [2]], Refused), ("2**70", 2**70, Refused), ("an object", object(), Refused),
        ("numpy's", np.int64(1), 1), ("a list", [1, 2], np.array([1, 2])),
        ("a tensor", torch.tensor([1, 2]), np.array([1, 2])), ("a float tensor", torch.tensor([1.0, 2.0]), Refused),
        ("a meta tensor", torch.tensor([1, 2], device="meta"), Refused), ("a dict", {}, Refused),
        ("uint64", np.array([1, 2**63 + 5], np.uint64), Refused), ("ragged", [[1], [1, 2]], Refused),
        ("a sparse tensor", torch.tensor([1, 2]).to_sparse(), Refused),
    ]:  # fmt: skip
        entries.append(("demo", words, {"demo": value}, equal if equal is Refused else {"demo": equal}))
        entries.append(("t", words, {"demo": 0, "t": value}, equal if equal is Refused else {"demo": 0, "t": equal}))
    for words, value, equal in [
        ("floats", picture / 255, Refused), ("int64", picture.astype(np.int64), Refused),
        ("grey", picture[..., 0], Refused), ("channels first", picture.transpose(2, 0, 1), Refused),
        ("no pixels", picture[:0], Refused), ("text", "x.png", Refused), ("None", None, Refused),
        ("three pictures", np.stack([picture] * 3), Refused), ("bool", picture > 100, Refused),
        ("upside down", picture[::-1], picture[::-1].copy()),
        ("mirrored", picture[:, ::-1], picture[:, ::-1].copy()),
        ("BGR as a view", picture[..., ::-1], picture[..., ::-1].copy()),
        ("read-only", _read_only(picture), picture), ("a tensor", torch.from_numpy(picture), picture),
        ("a meta tensor", torch.from_numpy(picture).to("meta"), Refused),
        ("a sparse tensor", torch.from_numpy(picture).to_sparse(), Refused),
        ("int8", picture.astype(np.int8), Refused),
        ("an inference tensor", _inference(torch.from_numpy(picture)), picture),
        ("a list", picture.tolist(), Refused), ("an object array", picture.astype(object), Refused),
        ("a dict", {}, Refused), ("a number", 3, Refused), ("Fortran's order", np.asfortranarray(picture), picture),
        ("every other pixel", picture[::2, ::2], picture[::2, ::2].copy()),
    ]:  # fmt: skip
        entries.append(("rgb", words, {"rgb": value}, equal if equal is Refused else {"rgb": equal}))
    for words, mask, equal in [
        ("nobody", [False, False], Refused), ("one of two", [True], Refused), ("numbers", [1, 0], Refused),
        ("text", "all", Refused), ("True", True, Refused), ("floats", np.ones(2), Refused), ("a dict", {}, Refused),
        ("rows", [[True], [True]], Refused), ("a list", [True, False], np.array([True, False])),
        ("a tensor", torch.tensor([True, False]), np.array([True, False])),
        ("backwards", np.array([False, True])[::-1], np.array([True, False])),
        ("a meta tensor", torch.ones(2, dtype=torch.bool, device="meta"), Refused),
        ("an object array", np.array([True, None]), Refused),
    ]:  # fmt: skip
        entries.append(
            ("reset_mask", words, {"reset_mask": mask}, equal if equal is Refused else {"reset_mask": equal})
        )
    entries.append(("proprioception", "not wanted", {"rgb": picture, "proprioception": np.zeros(8)}, Refused))
    entries.append(("proprioception", "1e300", {"rgb": picture, "proprioception": np.full(8, 1e300)}, Refused))
    return entries


def actions() -> list[Entry]:
    """Actions of two slots, (2, 32)."""
    good = np.random.default_rng(1).uniform(-1, 1, (2, 32)).astype(np.float32)
    tensor = torch.from_numpy(good.copy())
    one_nan, one_inf = good.copy(), good.copy()
    one_nan[:, 3], one_inf[:, 0] = NAN, INF
    return [
        ("None", None, Refused), ("text", "left", Refused), ("a number", 0.5, Refused),
        ("a list", good.tolist(), good), ("an empty list", [], Refused), ("a dict", {"action": good}, Refused),
        ("a flat array", good.reshape(-1), Refused), ("of one slot", good[0], Refused),
        ("with a row more", np.concatenate([good, good[:1]]), Refused), ("by steps", good.reshape(2, 8, 4), Refused),
        ("turned round", good.T, Refused), ("int64", np.zeros((2, 32), np.int64), Refused),
        ("bool", good > 0, Refused), ("uint8", np.zeros((2, 32), np.uint8), Refused),
        ("complex", good.astype(complex), Refused), ("text of numbers", good.astype(str), Refused),
        ("objects", good.astype(object), Refused), ("NaN", one_nan, Refused), ("infinity", one_inf, Refused),
        ("NaN in a tensor", torch.from_numpy(one_nan), Refused),
        ("1e300", np.where(np.arange(32) == 0, 1e300, good.astype(float)), Refused),
        ("ragged", [good[0].tolist(), [0.5]], Refused), ("backwards", good[:, ::-1], good[:, ::-1].copy()),
        ("upside down", good[::-1], good[::-1].copy()), ("every other", np.repeat(good, 2, axis=1)[:, ::2], good),
        ("float64", good.astype(np.float64), good), ("big-endian", good.astype(">f4"), good),
        ("read-only", _read_only(good), good), ("Fortran's order", np.asfortranarray(good), good),
        ("float16", good.astype(np.float16), good.astype(np.float16).astype(np.float32)), ("a tensor", tensor, good),
        ("a float64 tensor", tensor.double(), good), ("with a gradient", tensor.clone().requires_grad_(), good),
        ("an inference tensor", _inference(tensor), good), ("a meta tensor", tensor.to("meta"), Refused),
        ("a sparse tensor", tensor.to_sparse(), Refused),
        ("a float8 tensor", tensor.to(torch.float8_e4m3fn), Refused),
        ("a bfloat16 tensor", tensor.bfloat16(), tensor.bfloat16().float().numpy()),
        ("a complex tensor", tensor.to(torch.complex64), Refused),
        ("a quantised tensor", _quantised(tensor), Refused), ("an int tensor", tensor.long(), Refused),
        ("a tensor of another shape", tensor[:, :-1], Refused), ("a tensor turned round", tensor.T, Refused),
        ("a masked array", np.ma.masked_less(good, 0), Refused), ("a matrix", np.asmatrix(good), good),
        ("structured", np.zeros((2, 32), [("a", "f4")]), Refused),
        ("dates", np.zeros((2, 32), "datetime64[s]"), Refused), ("a list of tensors", list(tensor), good),
    ]  # fmt: skip


def _read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.setflags(write=False)
    return copy


def _inference(tensor: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return tensor.clone()


def _quantised(tensor: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)
