"""PPO inside the dream, from a cloned policy and anchored to it; read from top to bottom.

A dream counts as successes what are none in reality, above all grasps that miss, and an optimiser exploits that. So the
policy starts as the behaviour clone, the value function learns first, every update is stopped at a small KL, and a
penalty on the KL to the clone bounds all updates together. The policy that is kept is the exponential average of the
iterates, at a fixed iteration: nothing is selected by success, in the dream or in the simulator.

Everything stays on the device: dream, buffer, networks. Each iteration reads its numbers back once, and once per
minibatch to know when to stop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import torch
from torch import Tensor, nn

import rla_gym  # noqa: F401  registers the environments
from agents.bc import BCConfig, train_bc
from agents.dream_training import DreamTrainingConfig, env_arguments, training_facts
from agents.env_shards import EnvShards
from agents.player import Player
from agents.policies.gaussian import gaussian_kl, gaussian_log_prob
from agents.policies.io import load_clone
from agents.policies.token_policy import TokenPolicy
from agents.ppo_checkpoint import load_checkpoint, save_checkpoint
from agents.ppo_log import PPOLog, summary
from agents.ppo_networks import PPONetworks
from agents.rollout_buffer import RolloutBuffer, generalised_advantages
from agents.settings import check_at_least_one, check_positive, check_unit_interval, json_settings
from rla_gym.tasks import dream_id, episode_chunks, simulator_id
from world_models.config import WorldConfig
from world_models.devices import has_bfloat16
from world_models.disk_space import check_writable
from world_models.distributed.processes import Processes, launched
from world_models.io import read_config, world_folder
from world_models.seeding import hashed_seed

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass
class PPOConfig(DreamTrainingConfig):
    """Settings of `train_ppo`; defaults are the published method's except where a reason is given."""

    policy: Path | None = None
    """Cloned policy to start from and to be anchored to; None clones one first, into ``<out>/bc``."""
    out: Path = Path("runs/ppo")
    """Policy folder to write, with ``checkpoint.safetensors`` and ``tensorboard/`` in it."""
    train_in: Literal["dream", "simulator"] = "dream"
    """Where experience comes from. ``simulator`` is what a dream spares: true success, in the standard placement; take
    few ``num_envs``, each is a process."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the dream computes in; ``auto`` takes bfloat16 where the processor or GPU has instructions for it."""
    demonstrations: int = 10
    """Demonstrations to clone where no policy is given."""
    prediction_length: int | None = None
    """Actions after which the dream predicts a state; None takes the world's."""
    solver_steps: int | None = None
    """Solver steps of the flow; None takes the world's."""

    num_envs: int = 64
    """Dreams side by side; `torchrun -m rla_gym agent ppo` shares them out to several processes or GPUs."""
    num_steps: int = 4
    """Chunks per dream and iteration."""
    iterations: int = 300
    """Iterations in all, warm-up included."""
    seconds: float | None = None
    """Seconds of training after which no iteration begins; None for no limit."""
    warmup_iterations: int = 10
    """First iterations, in which only the value function learns: an untrained one would first ruin the clone."""
    epochs: int = 4
    """Passes over an iteration's samples."""
    minibatches: int = 4
    """Minibatches per pass."""
    gamma: float = 0.9
    """Discount per chunk."""
    gae_lambda: float = 0.95
    """Of generalised advantage estimation."""
    clip: float = 0.2
    """PPO's clipping of the probability ratio."""
    target_kl: float = 0.06
    """Policy updates of an iteration stop at this KL from its start (published: 0.1)."""
    kl_coefficient: float = 0.02
    """Weight of KL(policy || clone), summed over the chunk's actions, in the loss; advantages have unit variance."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    learning_rate: float = 5e-5
    """Of the policy (Adam; published: 1e-4, but one such step moves a network of this size by 0.1 nats or more)."""
    value_learning_rate: float = 5e-4
    """Of the value function, which starts at zero (Adam)."""
    max_grad_norm: float = 0.5
    """Gradient clipping, for policy and value function each."""
    average_decay: float = 0.95
    """Decay per iteration of the averaged policy that is kept; 0 keeps the last iterate."""

    checkpoint_every: int = 20
    """Iterations between checkpoints. Dreams start anew at each, so that a resumed run repeats an uninterrupted one."""
    keep_policies: bool = False
    """Also keep the averaged policy of every checkpoint, in ``<out>/policies/<iteration>``."""
    resume: bool = False
    """Go on from the checkpoint in ``out``, if there is one."""
    overwrite: bool = False
    """Start anew although ``out`` holds a checkpoint."""


def train_ppo(config: PPOConfig) -> Path:
    """Fine-tune a cloned policy in the dream; returns the policy folder ``config.out``.

    Interrupted at any time, the run goes on with ``resume=True`` from its last checkpoint and, on the same hardware,
    ends in the same policy as if it had not been interrupted, unless ``seconds`` ends it.

    Raises:
        ValueError: a setting is out of range, ``out`` holds another run, or the policy is not a cloned one.
        FileNotFoundError: no such policy or world.
        ImportError: the simulator that is to be trained in is missing; ``pip install "rla-gym[robosuite]"``.
    """
    # ---- check, before any work starts
    _check(config)
    processes = launched(config.device)
    if processes.count > 1 and config.train_in == "simulator":
        raise ValueError("train_in='simulator' starts processes of its own: launch one")
    check_writable(config.out)
    shards, device = EnvShards(config.num_envs, processes), processes.device
    checkpoint = config.out / CHECKPOINT_FILE
    if checkpoint.exists() and not (config.resume or config.overwrite):
        raise ValueError(f"{config.out} holds a run already: pass --resume, --overwrite or another --out")
    resuming = checkpoint.exists() and config.resume

    # ---- networks, environments, storage
    clone = _clone(config, processes, reuse=resuming)
    config = _resolved(config, read_config(world_folder(clone.world)), device)
    networks = PPONetworks(clone, config.learning_rate, config.value_learning_rate, config.seed)
    spent, history = 0.0, []
    if resuming:
        state = load_checkpoint(checkpoint, networks.parts(), json_settings(config))
        spent, history = state["seconds"], state["history"]
    player = Player(_make_envs(config, clone, shards), shards, dreams=config.train_in == "dream")
    buffer = RolloutBuffer.zeros(
        config.num_steps, len(shards.local), (clone.num_tokens, clone.channels), clone.action_size, device
    )
    generator = torch.Generator(device)
    first = len(history)
    log = PPOLog(config.out / "tensorboard", history, config.iterations, main=processes.main, progress=config.progress)
    try:
        for iteration in range(first, config.iterations):
            if config.seconds is not None and spent >= config.seconds:
                break
            # Keyed by the iteration, so that nothing else has to be restored on resuming.
            generator.manual_seed(hashed_seed(config.seed, iteration, 0))
            began = time.perf_counter()
            if iteration == first or iteration % config.checkpoint_every == 0:
                player.reset(hashed_seed(config.seed, iteration, 1))

            # ---- rollout, advantages, update
            finished_returns = player.rollout(networks.policy, buffer, generator)
            rollout_seconds = time.perf_counter() - began
            batch = _batch(buffer, networks, shards, config)
            learns = iteration >= config.warmup_iterations
            losses, updates = _update(networks, batch, shards, config, generator, learns=learns)
            if learns:
                networks.average(config.average_decay, iteration - config.warmup_iterations + 1)

            # ---- log
            scalars = _measure(networks, buffer, batch, losses, finished_returns, shards)
            elapsed = time.perf_counter() - began
            scalars["charts/env_steps_per_second"] = len(batch.all_returns) / elapsed
            if device.type == "cpu":  # a GPU is still at work when the host goes on
                scalars["charts/rollout_share"] = rollout_seconds / elapsed
            scalars["losses/updates"] = updates
            log.add(iteration, scalars)

            # ---- checkpoint
            spent += time.perf_counter() - began
            if config.seconds is not None:  # all processes stop at the same iteration
                spent = float(processes.average(torch.tensor(spent, dtype=torch.float64, device=device)))
            last = iteration + 1 == config.iterations or (config.seconds is not None and spent >= config.seconds)
            if processes.main and ((iteration + 1) % config.checkpoint_every == 0 or last):
                _save(config, networks, {"iteration": iteration + 1, "seconds": spent, "history": history})
    finally:
        log.close()
        player.close()
    return _keep(config, networks, history, spent, write=processes.main)


def _clone(config: PPOConfig, processes: Processes, *, reuse: bool) -> TokenPolicy:
    """The policy to start from and to be anchored to; where none is given the main process clones one.

    Args:
        config: of the run.
        processes: those that train together.
        reuse: take the clone that the run made before, if it did.
    """
    folder = config.policy or config.out / "bc"
    made = reuse and (folder / "config.json").is_file()
    if config.policy is None and not made and processes.main:
        train_bc(
            BCConfig(
                world=config.world or "lift",
                out=folder,
                demonstrations=config.demonstrations,
                seed=config.seed,
                device=config.device,
                progress=config.progress,
            )
        )
    processes.wait()
    return load_clone(folder, processes.device).requires_grad_(False)


def _resolved(config: PPOConfig, world: WorldConfig, device: torch.device) -> PPOConfig:
    """The config with what it leaves to the world and to the device."""
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if config.train_in == "dream" and has_bfloat16(device) else "float32"
    chunks = config.max_chunks or episode_chunks(world.task, world.max_chunks)
    return replace(config, max_chunks=chunks, precision=precision)


def _make_envs(config: PPOConfig, clone: TokenPolicy, shards: EnvShards) -> Any:
    """This process's dreams, or the simulators with the same spaces.

    Raises:
        ValueError: they do not fit the clone.
    """
    arguments = env_arguments(config, clone)
    if config.train_in == "dream":
        env = dream_id(clone.task)
        for name in ("dynamics", "precision", "initial_states", "prediction_length", "solver_steps"):
            arguments[name] = getattr(config, name)
        arguments["first_slot"] = shards.local.start
    else:
        env = simulator_id(clone.task)
        arguments["vectorization"] = "async"
    envs = gym.make_vec(
        env, num_envs=len(shards.local), device=str(shards.processes.device), output="torch", **arguments
    )
    clone.check_fits(
        envs.single_observation_space.shape,
        envs.single_action_space.shape,
        f"clone a policy from world {config.world_of(clone)!r} first: `rla-gym agent bc`",
    )
    return envs


@dataclass(frozen=True)
class Batch:
    """An iteration's samples, as the update reads them: N = T * B of this process, M of all processes.

    Attributes:
        features: (N, L, C).
        actions: flat chunks (N, K*A).
        log_probs: of the actions, under the policy that drew them, (N,).
        returns: targets of the value function, (N,).
        clone_mean: mean actions of the clone, (N, K*A).
        old_mean, old_log_std: of the policy that drew the actions, (N, K*A) and (K*A,).
        all_advantages, all_returns, all_values: of all processes, (M,).
    """

    features: Tensor
    actions: Tensor
    log_probs: Tensor
    returns: Tensor
    clone_mean: Tensor
    old_mean: Tensor
    old_log_std: Tensor
    all_advantages: Tensor
    all_returns: Tensor
    all_values: Tensor


@torch.no_grad()
def _batch(buffer: RolloutBuffer, networks: PPONetworks, shards: EnvShards, config: PPOConfig) -> Batch:
    """The samples of a full buffer with their advantages and what the losses compare with."""
    features, shape = buffer.features.flatten(0, 1), buffer.rewards.shape
    values = networks.critic(features).view(shape)
    next_values = networks.critic(buffer.next_features.flatten(0, 1)).view(shape)
    advantages = generalised_advantages(
        buffer.rewards, values, next_values, buffer.terminations, buffer.ends,
        gamma=config.gamma, gae_lambda=config.gae_lambda,
    )  # fmt: skip
    returns = advantages + values
    return Batch(
        features=features,
        actions=buffer.actions.flatten(0, 1),
        log_probs=buffer.log_probs.flatten(),
        returns=returns.flatten(),
        clone_mean=networks.clone(features),
        old_mean=networks.policy(features),
        old_log_std=networks.policy.log_std.clone(),
        all_advantages=shards.concatenate(advantages),
        all_returns=shards.concatenate(returns),
        all_values=shards.concatenate(values),
    )


def _update(
    networks: PPONetworks,
    batch: Batch,
    shards: EnvShards,
    config: PPOConfig,
    generator: torch.Generator,
    *,
    learns: bool,
) -> tuple[dict[str, Tensor], int]:
    """Some passes over the samples; returns mean losses of this process's share, and the number of policy updates.

    Args:
        networks: trained in place.
        batch: the iteration's samples.
        shards: which of them are this process's.
        config: of the losses.
        generator: draws the minibatches, the same in all processes.
        learns: whether the policy is updated, too, as long as its KL from the iteration's start is small.
    """
    processes = shards.processes
    value_losses, policy_losses, clip_fractions = [], [], []
    for minibatch in _minibatches(len(batch.all_returns), config, generator):
        size = len(minibatch)  # losses are sums over this process's share by the size of the whole
        rows, mask = shards.locate(minibatch)
        value_loss = (networks.critic(batch.features[rows]) - batch.returns[rows]).square().sum() / size
        _step(networks.value_optimizer, value_loss, networks.critic, config.max_grad_norm, processes)
        value_losses.append(value_loss.detach())
        if not learns:
            continue
        mean, log_std = networks.policy(batch.features[rows]), networks.policy.log_std
        kl = gaussian_kl(batch.old_mean[rows], batch.old_log_std, mean, log_std).sum() / size
        if processes.sum(kl.detach()).item() > config.target_kl:
            learns = False
            continue
        ratio = (gaussian_log_prob(batch.actions[rows], mean, log_std) - batch.log_probs[rows]).exp()
        advantage = batch.all_advantages[minibatch]
        advantage = ((advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8))[mask]
        surrogate = torch.min(advantage * ratio, advantage * ratio.clamp(1.0 - config.clip, 1.0 + config.clip))
        anchor = gaussian_kl(mean, log_std, batch.clone_mean[rows], networks.clone.log_std)
        loss = (config.kl_coefficient * anchor - surrogate).sum() / size
        loss = loss - config.entropy_coefficient * log_std.sum() / processes.count
        _step(networks.policy_optimizer, loss, networks.policy, config.max_grad_norm, processes)
        policy_losses.append(-surrogate.detach().sum() / size)
        clip_fractions.append(((ratio.detach() - 1.0).abs() > config.clip).float().sum() / size)
    losses = {"losses/value": torch.stack(value_losses).mean()}
    if policy_losses:
        losses["losses/policy"] = torch.stack(policy_losses).mean()
        losses["losses/clip_fraction"] = torch.stack(clip_fractions).mean()
    return losses, len(policy_losses)


def _minibatches(samples: int, config: PPOConfig, generator: torch.Generator) -> Iterator[Tensor]:
    """Numbers of samples (size,) int64 of each minibatch of each pass, in an order drawn anew for every pass."""
    size = samples // config.minibatches
    for _ in range(config.epochs):
        order = torch.randperm(samples, device=generator.device, generator=generator)
        yield from order[: size * config.minibatches].view(config.minibatches, size)


def _step(
    optimizer: torch.optim.Optimizer, loss: Tensor, module: nn.Module, max_grad_norm: float, processes: Processes
) -> None:
    """One gradient step down the sum of all processes' losses."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    processes.sum_gradients(module)
    nn.utils.clip_grad_norm_(module.parameters(), max_grad_norm)
    optimizer.step()


@torch.no_grad()
def _measure(
    networks: PPONetworks,
    buffer: RolloutBuffer,
    batch: Batch,
    losses: dict[str, Tensor],
    finished_returns: Tensor,
    shards: EnvShards,
) -> dict[str, float]:
    """The scalars of an iteration over all processes, in one read of the device."""
    samples = len(batch.all_returns)
    mean, log_std = networks.policy(batch.features), networks.policy.log_std
    to_clone = gaussian_kl(mean, log_std, batch.clone_mean, networks.clone.log_std)
    from_old = gaussian_kl(batch.old_mean, batch.old_log_std, mean, log_std)
    # sums over this process's share of the samples; those of all processes add up to the number
    shares = {
        "episodes": buffer.ends.sum(),
        "successes": buffer.terminations.sum(),
        "returns": finished_returns,
        "charts/kl_to_bc": to_clone.sum() / samples,
        "charts/reward_per_chunk": buffer.rewards.sum() / samples,
        "charts/uncertainty": buffer.uncertainties.sum() / samples,
        "losses/approx_kl": from_old.sum() / samples,
        **losses,
    }
    unexplained = (batch.all_returns - batch.all_values).var() / (batch.all_returns.var() + 1e-8)
    same = torch.stack([log_std.exp().mean(), 1.0 - unexplained])  # in all processes
    numbers = torch.cat([shards.processes.sum(torch.stack([*shares.values()])), same])
    names = [*shares, "charts/action_std", "losses/explained_variance"]
    scalars = dict(zip(names, numbers.tolist(), strict=True))
    episodes, successes, returns = (scalars.pop(name) for name in ("episodes", "successes", "returns"))
    if episodes:
        scalars["charts/dream_success_rate"] = successes / episodes
        scalars["charts/dream_return"] = returns / episodes
    return scalars


def _save(config: PPOConfig, networks: PPONetworks, state: dict[str, Any]) -> None:
    """Write the checkpoint, and the averaged policy where every one is kept."""
    save_checkpoint(config.out / CHECKPOINT_FILE, networks.parts(), json_settings(config), state)
    if config.keep_policies:
        iteration, averaged = state["iteration"], networks.averaged
        averaged.facts = {**networks.clone.facts, "method": "ppo", "training": {"iterations": iteration}}
        averaged.save(config.out / "policies" / f"{iteration:06d}")


def _keep(
    config: PPOConfig, networks: PPONetworks, history: list[dict[str, float]], spent: float, *, write: bool
) -> Path:
    """Write the averaged policy with the facts of its training into ``config.out``; returns that folder."""
    networks.averaged.facts = training_facts(
        config,
        "ppo",
        networks.clone,
        seconds=spent,
        env_steps=len(history) * config.num_steps * config.num_envs,
        kept="exponential average of the iterates" if config.average_decay else "last iterate",
        dream_at_start=summary(history[: max(1, config.warmup_iterations)]),
        dream_at_end=summary(history[-10:]),
    )
    return networks.averaged.save(config.out) if write else config.out


def _check(config: PPOConfig) -> None:
    check_at_least_one(config, "num_envs", "num_steps", "iterations", "epochs", "minibatches", "checkpoint_every")
    check_at_least_one(config, "max_chunks")
    check_positive(config, "learning_rate", "value_learning_rate", "clip", "target_kl", "max_grad_norm")
    check_unit_interval(config, "gamma", "gae_lambda", "average_decay")
    if config.seconds is not None:
        check_positive(config, "seconds")
    if config.train_in not in ("dream", "simulator"):
        raise ValueError(f"train_in must be 'dream' or 'simulator', got {config.train_in!r}")
    if config.train_in == "simulator" and config.precision == "bfloat16":
        raise ValueError(f"a simulator has no precision={config.precision!r}: leave it out")
    if config.average_decay == 1:
        raise ValueError("average_decay=1 would keep the clone as it is; use 0.95, or 0 for the last iterate")
    if config.num_envs * config.num_steps < config.minibatches:
        raise ValueError(
            f"minibatches={config.minibatches} is more than the {config.num_envs * config.num_steps} samples of an "
            "iteration; lower it or raise num_envs"
        )
