"""Policy folders: loaded without running code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from agents.policies.base import CONFIG_FILE, FORMAT, WEIGHTS_FILE, Policy, check_sizes
from agents.policies.blind import BlindPolicy
from agents.policies.planner import Planner
from agents.policies.token_policy import TokenPolicy
from world_models.files import read_json, read_tensors
from world_models.layers.structure import module_with_weights

FIX = "train the policy anew, or fetch it again"
"""What is left to do about a damaged policy."""
KINDS: dict[str, type[Policy]] = {policy.kind: policy for policy in (TokenPolicy, BlindPolicy, Planner)}
"""Kinds of policies by their names in ``config.json``."""


def load_policy(folder: str | Path, device: str | torch.device = "cpu") -> Policy:
    """Load a policy folder, in evaluation mode. Reads JSON and safetensors only; no code in the folder is run.

    Example:
        >>> policy = load_policy("runs/bc")                                  # doctest: +SKIP
        >>> policy.act(torch.zeros(1, 64, 192), torch.tensor([0])).shape     # doctest: +SKIP
        torch.Size([1, 32])

    Raises:
        FileNotFoundError: the folder lacks ``config.json`` or ``policy.safetensors``.
        OSError: one of them cannot be read.
        ValueError: one of them is damaged, or the two do not fit together.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is no policy folder: it has no {name}; give the --out of `rla-gym agent bc` or `agent ppo`"
            )
    path = folder / CONFIG_FILE
    config: dict[str, Any] = read_json(path, fix=FIX)
    version, kind = config.pop("format", None), config.pop("kind", None)
    if version is None:
        raise ValueError(
            f"{path} is of a policy of another rla-gym; convert one of 0.1 by `rla-gym convert {folder} --out NEW`"
        )
    if version != FORMAT or type(version) is not int:
        raise ValueError(
            f"{path} is of format {str(version)[:40]}, this rla-gym reads format {FORMAT}; {FIX}, or install the "
            "rla-gym that it was made with"
        )
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"{path} must name a kind among {', '.join(KINDS)}, not {str(kind)[:60]!r}; {FIX}")
    policy_class = KINDS[kind]
    sizes = {name: config.pop(name, None) for name in policy_class.SIZES}
    try:
        check_sizes(sizes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {FIX}") from error
    policy = module_with_weights(
        lambda: policy_class(**sizes),
        read_tensors(folder / WEIGHTS_FILE, fix=FIX),
        source=f"{folder / WEIGHTS_FILE} does not fit {CONFIG_FILE}",
        fix=FIX,
    )
    policy.facts, policy.source = config, str(path)
    try:
        policy.check_facts()
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {FIX}") from error
    return policy.to(device).eval()


def load_clone(folder: str | Path, device: str | torch.device = "cpu") -> TokenPolicy:
    """A policy folder that training can start from, as :func:`load_policy` loads it.

    Raises:
        ValueError: it is a policy that cannot learn; else as :func:`load_policy`.
    """
    clone = load_policy(folder, device)
    if not isinstance(clone, TokenPolicy):
        raise ValueError(f"{folder} is a {clone.kind!r} policy, which cannot learn; make one by `rla-gym agent bc`")
    return clone
