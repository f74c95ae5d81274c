"""A step never waits for the device, and a GPU predicts what the CPU predicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rla_gym.actions import ActionReader
from tests.dreams import A, K, Make, actions_for, rollout


class HostReads(TorchDispatchMode):
    """Records every operation whose result the host must wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2"):
            self.read.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"obs": "rgb", "reward": "goal", "dynamics": "regression"},
        {"obs": ("pooled", "last_action", "remaining_time"), "reward": "sparse"},
    ],
)
def test_a_step_reads_no_tensors_value(make: Make, mode: str, arguments: dict[str, Any]) -> None:
    env = make(4, output="torch", autoreset_mode=mode, **arguments)
    env.reset(seed=0)
    actions = torch.zeros(env.action_space.shape)
    with HostReads() as of_actions:  # on the CPU they are checked before the step begins
        ActionReader(4, K, A, torch.device("cpu"))(actions)
    for _ in range(8):
        with HostReads() as reads:
            env.step(actions)
        assert reads.read == of_actions.read


# On a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("obs", ["features", "rgb"])
def test_a_step_never_waits_for_the_gpu(make: Make, mode: str, obs: str) -> None:
    env = make(4, device="cuda", output="torch", autoreset_mode=mode, obs=obs)
    env.reset(seed=0)
    actions = torch.zeros(env.action_space.shape, device="cuda")
    env.step(actions)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(9):
            env.step(actions)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(ValueError, match="this or a recent step hold NaN"):  # noqa: PT012
        env.step(actions * torch.nan)
        torch.cuda.synchronize()
        env.step(actions)
    env.step(actions)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_predicts_what_the_cpu_predicts(make: Make) -> None:
    actions = actions_for(make(3), 3)
    gpu = make(3, device="cuda", terminate_on_success=False)
    for one, other in zip(
        rollout(gpu, actions, seed=2), rollout(make(3, terminate_on_success=False), actions, seed=2), strict=True
    ):
        np.testing.assert_allclose(one[0], other[0], rtol=0.02, atol=0.02)
