"""PPO inside the dream, from a cloned policy and anchored to it. One file, read from top to bottom.

The dream forgives what reality does not, above all grasps that miss, and an optimiser finds that out. So the policy
starts as the behaviour clone, the value function learns first, every update is stopped at a small KL, and a penalty
on the KL to the clone bounds how far all updates together can go. The policy that is kept is the exponential average
of the iterates, at a fixed iteration: nothing is selected by dreamed or by simulated success.

Everything stays on the device: dream, buffers, networks. Each iteration reads its numbers back once, and once per
minibatch to know when to stop.
"""

from __future__ import annotations

import math
import time
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn
from tqdm import tqdm

import rla_gym  # noqa: F401  registers the environments
from agents.bc import BCConfig, train_bc, world_reference
from agents.gaussian import gaussian_kl, gaussian_log_prob
from agents.policy import TokenCritic, load_clone
from agents.ppo_checkpoint import Parts, load_checkpoint, save_checkpoint, settings
from rewards import RewardName
from rla_gym.ground_truth.seeds import COLLECT_SEED_RANGE
from rla_gym.tasks import dream_id, episode_chunks, simulator_id
from world_models.processes import Processes, has_bfloat16, launched
from world_models.seeding import hashed_seed

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass
class PPOConfig:
    """Settings of `train_ppo`; defaults are the published method's except where a reason is given."""

    policy: Path | None = None
    """Cloned policy to start from and to stay near; None clones one first, into ``<out>/bc``."""
    out: Path = Path("runs/ppo")
    """Policy folder to write, with ``checkpoint.safetensors`` and ``tensorboard/`` in it."""
    world: str | None = None
    """Bundled world's name or a world folder; None takes the cloned policy's."""
    train_in: Literal["dream", "simulator"] = "dream"
    """Where experience comes from. ``simulator`` is what a dream spares: true success, in the standard placement; take
    few ``num_envs``, each is a process."""
    dynamics: Literal["flow", "regression"] = "flow"
    """Which dynamics of the world dream."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the dream computes in; ``auto`` takes bfloat16 where the processor or GPU has instructions for it."""
    demonstrations: int = 10
    """Demonstrations to clone where no policy is given."""
    seed: int = 0
    """Of dreams, exploration and minibatches (and of the cloning, where no policy is given)."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""

    reward: RewardName = "corresponding"
    """Video-aligned reward; ``sparse`` pays the bonus alone."""
    success_bonus: float = 1.0
    """Added at success, as the dream sees it."""
    starts: Literal["mixed", "first", "everywhere"] = "everywhere"
    """Episodes start at demonstrations' first frames, half of them at a random frame, or else at any first state."""
    uncertainty_penalty: float = 0.0
    """Taken off the reward per unit of the dream's uncertainty (MOPO, arXiv 2005.13239)."""
    max_uncertainty: float | None = None
    """Dreams that are less certain of a step than this end with it (MOReL, arXiv 2005.05951); None for never."""
    max_chunks: int | None = None
    """Chunks per episode; None takes the task's."""
    prediction_length: int | None = None
    """Actions after which the dream predicts a state; None takes the world's."""
    solver_steps: int | None = None
    """Solver steps of the flow; None takes the world's."""

    num_envs: int = 64
    """Dreams side by side; `torchrun -m rla_gym agent ppo` shares them out to several processes or GPUs."""
    steps: int = 4
    """Chunks per dream and iteration."""
    iterations: int = 300
    """Iterations in all, warm-up included."""
    seconds: float | None = None
    """Seconds of training after which no iteration begins; None for no limit."""
    warmup_iterations: int = 10
    """First iterations, in which only the value function learns: with a wild one the clone would be lost first."""
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
    """Of the value function, which starts from nothing (Adam)."""
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
    progress: bool = True
    """Show a progress bar."""


def train_ppo(config: PPOConfig) -> Path:
    """Fine-tune a cloned policy in the dream; returns the policy folder ``config.out``.

    Interrupted at any time, the run goes on with ``resume=True`` from its last checkpoint and, on the same hardware,
    ends in the same policy as if it had not been interrupted, unless ``seconds`` ends it.

    Raises:
        ValueError: a setting is out of range, ``out`` holds another run, or the policy is not a cloned one.
        FileNotFoundError: no such policy or world.
        ImportError: TensorBoard is missing, or the simulator that is to be trained in;
            ``pip install "rla-gym[agents,robosuite]"``.
    """
    # ---- check, before any work starts
    _check(config)
    processes = launched(config.device)
    device = processes.device
    _check_processes(config, processes)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError('PPO logs to TensorBoard, which is missing: pip install "rla-gym[agents]"') from error
    checkpoint = config.out / CHECKPOINT_FILE
    if checkpoint.exists() and not (config.resume or config.overwrite):
        raise ValueError(f"{config.out} holds a run already: pass --resume, --overwrite or another --out")
    resuming = checkpoint.exists() and config.resume

    # ---- the clone: start and anchor
    clone_folder = config.policy or config.out / "bc"
    cloned = resuming and (clone_folder / "config.json").is_file()
    if config.policy is None and not cloned and processes.main:
        train_bc(
            BCConfig(
                world=config.world or "lift",
                out=clone_folder,
                demonstrations=config.demonstrations,
                seed=config.seed,
                device=config.device,
                progress=config.progress,
            )
        )
    processes.wait()
    clone = load_clone(clone_folder, device).requires_grad_(False)
    world = config.world or str(clone.facts.get("world", "lift"))
    task = str(clone.facts.get("task", "Lift"))
    config = replace(config, max_chunks=config.max_chunks or episode_chunks(task))
    if config.precision == "auto":
        reduced = config.train_in == "dream" and has_bfloat16(device)
        config = replace(config, precision="bfloat16" if reduced else "float32")

    # ---- networks and optimisers
    policy = deepcopy(clone).requires_grad_(True)
    averaged = deepcopy(clone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        critic = TokenCritic(clone).to(device)
    policy_optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate, eps=1e-5)
    value_optimizer = torch.optim.Adam(critic.parameters(), lr=config.value_learning_rate, eps=1e-5)

    parts: Parts = {
        "policy": policy,
        "averaged": averaged,
        "critic": critic,
        "policy_optimizer": policy_optimizer,
        "value_optimizer": value_optimizer,
    }

    first, spent = 0, 0.0
    history: list[dict[str, float]] = []
    if resuming:
        state = load_checkpoint(checkpoint, parts, config)
        first, spent, history = state["iteration"], state["seconds"], state["history"]

    # ---- the dream, or the simulator with the same spaces
    dreams = config.train_in == "dream"
    T, B = config.steps, config.num_envs // processes.count
    own_envs = range(processes.rank * B, (processes.rank + 1) * B)
    arguments: dict[str, Any] = {"vectorization": "async"}
    if dreams:
        of_dreams = ("dynamics", "precision", "starts", "prediction_length", "solver_steps", "max_uncertainty")
        arguments = {name: getattr(config, name) for name in of_dreams} | {"first_slot": own_envs.start}
    envs = gym.make_vec(
        dream_id(task) if dreams else simulator_id(task),
        num_envs=len(own_envs),
        world=world,
        device=str(device),
        obs="features",
        output="torch",
        reward=config.reward,
        success_bonus=config.success_bonus,
        chunk_length=clone.chunk_length,
        max_chunks=config.max_chunks,
        autoreset_mode=AutoresetMode.SAME_STEP,
        **arguments,
    )
    sample = (clone.num_tokens, clone.channels)
    if envs.single_observation_space.shape != sample:
        raise ValueError(
            f"{clone_folder} reads features {sample}, world {world!r} gives {envs.single_observation_space.shape}; "
            "clone a policy from this world first: `rla-gym agent bc`"
        )
    features = torch.zeros(T, B, *sample, device=device)
    next_features = torch.zeros(T, B, *sample, device=device)
    actions = torch.zeros(T, B, clone.action_size, device=device)
    rewards, log_probs = torch.zeros(T, B, device=device), torch.zeros(T, B, device=device)
    uncertainties = torch.zeros(T, B, device=device)
    terminations, ends = torch.zeros(T, B, device=device), torch.zeros(T, B, device=device)
    all_samples = T * config.num_envs
    minibatch = all_samples // config.minibatches

    generator = torch.Generator(device)
    writer = SummaryWriter(str(config.out / "tensorboard"), purge_step=first + 1) if processes.main else None
    bar = tqdm(
        total=config.iterations, initial=first, desc="ppo", unit="iteration",
        disable=not (config.progress and processes.main),
    )  # fmt: skip
    try:
        for iteration in range(first, config.iterations):
            if config.seconds is not None and spent >= config.seconds:
                break
            # Keyed by the iteration, so that nothing else has to be restored on resuming.
            generator.manual_seed(hashed_seed(config.seed, iteration, 0))
            began = time.perf_counter()
            if iteration == first or iteration % config.checkpoint_every == 0:
                seed = hashed_seed(config.seed, iteration, 1)
                # Simulators keep to the states that training may see.
                observation, _ = envs.reset(seed=seed if dreams else seed % (len(COLLECT_SEED_RANGE) - B))
                episode_return = torch.zeros(B, device=device)
            finished_returns = torch.zeros((), device=device)

            # ---- roll out: T chunks in B dreams
            for t in range(T):
                with torch.no_grad():
                    mean, log_std = policy(observation), policy.log_std
                    # drawn for all processes' dreams, so that it does not matter who dreams which
                    noise = torch.randn(config.num_envs, mean.shape[1], device=device, generator=generator)
                    noise = noise[own_envs.start : own_envs.stop]
                    action = mean + log_std.exp() * noise
                    log_probs[t] = gaussian_log_prob(action, mean, log_std)
                features[t], actions[t] = observation, action
                observation, reward, terminated, truncated, info = envs.step(action)
                done = terminated | truncated
                # where an episode ended, what follows is its last frame and not the next episode's first
                next_features[t] = torch.where(done[:, None, None], info["final_obs"], observation)
                # an ended dream's own doubt, not that of the state which took its place
                if dreams:
                    uncertainties[t] = torch.where(done, info["final_info"]["uncertainty"], info["uncertainty"])
                    reward = reward - config.uncertainty_penalty * uncertainties[t]
                rewards[t], terminations[t], ends[t] = reward, terminated.float(), done.float()
                episode_return += reward
                finished_returns += (episode_return * done).sum()
                episode_return *= ~done

            rolled_out = time.perf_counter() - began

            # ---- advantages: truncated episodes go on in value, terminated ones do not
            with torch.no_grad():
                flat = features.flatten(0, 1)
                values = critic(flat).view(T, B)
                next_values = critic(next_features.flatten(0, 1)).view(T, B)
                deltas = rewards + config.gamma * next_values * (1.0 - terminations) - values
                advantages = torch.zeros_like(deltas)
                running = torch.zeros(B, device=device)
                for t in reversed(range(T)):
                    running = deltas[t] + config.gamma * config.gae_lambda * (1.0 - ends[t]) * running
                    advantages[t] = running
                returns = advantages + values
                clone_mean, old_mean, old_log_std = clone(flat), policy(flat), policy.log_std.clone()
            old_log_probs, flat_actions, flat_returns = log_probs.flatten(), actions.flatten(0, 1), returns.flatten()
            # of all processes, in the order of the dreams: what the minibatches are made of
            all_advantages, all_returns, all_values = (
                processes.concatenate(part.T.contiguous()).T.flatten() for part in (advantages, returns, values)
            )

            # ---- learn
            learns = iteration >= config.warmup_iterations
            policy_losses, value_losses, clipped = [], [], []
            updates = 0
            for _ in range(config.epochs):
                order = torch.randperm(all_samples, device=device, generator=generator)
                for drawn in order[: minibatch * config.minibatches].view(config.minibatches, minibatch):
                    index, own = drawn, slice(None)
                    if processes.count > 1:
                        # a sample is number (time, dream) of all; this process works on those of its own dreams
                        at, dream = drawn // config.num_envs, drawn % config.num_envs
                        own = (dream >= own_envs.start) & (dream < own_envs.stop)
                        index = (at * B + dream - own_envs.start)[own]
                    value = critic(flat[index])
                    value_loss = (value - flat_returns[index]).square().sum() / minibatch
                    _step(value_optimizer, value_loss, critic, config.max_grad_norm, processes)
                    value_losses.append(value_loss.detach())
                    if not learns:
                        continue
                    mean, log_std = policy(flat[index]), policy.log_std
                    kl = gaussian_kl(old_mean[index], old_log_std, mean, log_std).sum() / minibatch
                    if processes.sum(kl.detach()).item() > config.target_kl:
                        learns = False
                        continue
                    ratio = (gaussian_log_prob(flat_actions[index], mean, log_std) - old_log_probs[index]).exp()
                    advantage = all_advantages[drawn]
                    advantage = ((advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8))[own]
                    surrogate = torch.min(
                        advantage * ratio, advantage * ratio.clamp(1.0 - config.clip, 1.0 + config.clip)
                    )
                    anchor = gaussian_kl(mean, log_std, clone_mean[index], clone.log_std)
                    loss = (config.kl_coefficient * anchor - surrogate).sum() / minibatch
                    loss = loss - config.entropy_coefficient * log_std.sum() / processes.count
                    _step(policy_optimizer, loss, policy, config.max_grad_norm, processes)
                    updates += 1
                    policy_losses.append(-surrogate.detach().sum() / minibatch)
                    clipped.append(((ratio.detach() - 1.0).abs() > config.clip).float().sum() / minibatch)
            if iteration >= config.warmup_iterations:
                # a bias-corrected average: with few iterations it does not hang on to the clone
                count = iteration - config.warmup_iterations + 1
                decay = min(config.average_decay, count / (count + 1))
                with torch.no_grad():
                    for kept, new in zip(averaged.parameters(), policy.parameters(), strict=True):
                        kept.lerp_(new, 1.0 - decay)

            # ---- log: one read of the device
            with torch.no_grad():
                mean, log_std = policy(flat), policy.log_std
                # sums over this process's part of the samples; those of all processes add up to the number
                numbers = {
                    "episodes": ends.sum(),
                    "successes": terminations.sum(),
                    "returns": finished_returns,
                    "charts/kl_to_bc": gaussian_kl(mean, log_std, clone_mean, clone.log_std).sum() / all_samples,
                    "charts/reward_per_chunk": rewards.sum() / all_samples,
                    "charts/uncertainty": uncertainties.sum() / all_samples,
                    "losses/approx_kl": gaussian_kl(old_mean, old_log_std, mean, log_std).sum() / all_samples,
                    "losses/value": torch.stack(value_losses).mean(),
                }
                if policy_losses:
                    numbers["losses/policy"] = torch.stack(policy_losses).mean()
                    numbers["losses/clip_fraction"] = torch.stack(clipped).mean()
                unexplained = (all_returns - all_values).var() / (all_returns.var() + 1e-8)
                shared = processes.sum(torch.stack([*numbers.values()]))
                same = torch.stack([log_std.exp().mean(), 1.0 - unexplained])
                names = [*numbers, "charts/action_std", "losses/explained_variance"]
                scalars = dict(zip(names, torch.cat([shared, same]).tolist(), strict=True))
            episodes = scalars.pop("episodes")
            successes, total_return = scalars.pop("successes"), scalars.pop("returns")
            if episodes:
                scalars["charts/dream_success_rate"] = successes / episodes
                scalars["charts/dream_return"] = total_return / episodes
            elapsed = time.perf_counter() - began
            scalars["charts/decisions_per_second"] = all_samples / elapsed
            if device.type == "cpu":  # a GPU is still at work when the host goes on
                scalars["charts/rollout_share"] = rolled_out / elapsed
            scalars["losses/updates"] = updates
            if not all(math.isfinite(number) for number in scalars.values()):
                raise ValueError(f"iteration {iteration}: training diverged, {scalars}; lower --learning-rate")
            if writer is not None:
                for name, number in scalars.items():
                    writer.add_scalar(name, number, iteration + 1)
            history.append({"iteration": iteration + 1, **{name: round(x, 6) for name, x in scalars.items()}})
            bar.set_postfix(_postfix(history))
            bar.update()

            spent += time.perf_counter() - began
            if config.seconds is not None:  # all processes stop at the same iteration
                spent = float(processes.average(torch.tensor(spent, dtype=torch.float64, device=device)))
            last = iteration + 1 == config.iterations or (config.seconds is not None and spent >= config.seconds)
            if processes.main and ((iteration + 1) % config.checkpoint_every == 0 or last):
                state = {"iteration": iteration + 1, "seconds": spent, "history": history}
                save_checkpoint(checkpoint, parts, config, state)
                if config.keep_policies:
                    averaged.facts = {**clone.facts, "method": "ppo", "training": {"iterations": iteration + 1}}
                    averaged.save(config.out / "policies" / f"{iteration + 1:06d}")
    finally:
        bar.close()
        if writer is not None:
            writer.close()
        envs.close()

    # ---- keep the averaged policy
    averaged.facts = {
        "method": "ppo",
        "world": world_reference(world),
        "task": task,
        "training": {
            **{name: value for name, value in settings(config).items() if name not in ("out", "progress", "world")},
            "clone": clone.facts.get("training"),
            "trained_seconds": round(spent, 3),
            "decisions": len(history) * all_samples,
            "kept": "exponential average of the iterates" if config.average_decay else "last iterate",
            "dream_at_start": _summary(history[: max(1, config.warmup_iterations)]),
            "dream_at_end": _summary(history[-10:]),
        },
    }
    return averaged.save(config.out) if processes.main else config.out


def _step(
    optimizer: torch.optim.Optimizer, loss: Tensor, module: nn.Module, max_grad_norm: float, processes: Processes
) -> None:
    """One step down the sum of all processes' losses."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    processes.sum_gradients(module)
    nn.utils.clip_grad_norm_(module.parameters(), max_grad_norm)
    optimizer.step()


def _postfix(history: list[dict[str, float]]) -> dict[str, str]:
    recent = _summary(history[-10:])
    shown = {"success": "dream_success_rate", "return": "dream_return", "kl": "kl_to_bc"}
    postfix = {short: f"{recent[name]:.3f}" for short, name in shown.items() if recent[name] is not None}
    return {**postfix, "decisions/s": f"{history[-1]['charts/decisions_per_second']:.0f}"}


def _summary(history: list[dict[str, float]]) -> dict[str, float | None]:
    """Means of the charts over some iterations; None where no episode ended."""
    means: dict[str, float | None] = {}
    for name in ("dream_success_rate", "dream_return", "kl_to_bc"):
        values = [row[f"charts/{name}"] for row in history if f"charts/{name}" in row]
        means[name] = round(sum(values) / len(values), 4) if values else None
    return means


def _check_processes(config: PPOConfig, processes: Processes) -> None:
    if config.num_envs % processes.count:
        raise ValueError(f"num_envs={config.num_envs} cannot be shared evenly by {processes.count} processes")
    if processes.count > 1 and config.train_in == "simulator":
        raise ValueError("train_in='simulator' starts processes of its own: launch one")


def _check(config: PPOConfig) -> None:
    for name in ("num_envs", "steps", "iterations", "epochs", "minibatches", "checkpoint_every"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.max_chunks is not None and config.max_chunks < 1:
        raise ValueError(f"max_chunks must be at least 1, got {config.max_chunks}")
    for name in ("learning_rate", "value_learning_rate", "clip", "target_kl", "max_grad_norm"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be positive, got {getattr(config, name)}")
    for name in ("gamma", "gae_lambda", "average_decay"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {getattr(config, name)}")
    if config.seconds is not None and not config.seconds > 0:
        raise ValueError(f"seconds must be positive, got {config.seconds}")
    if config.train_in not in ("dream", "simulator"):
        raise ValueError(f"train_in must be 'dream' or 'simulator', got {config.train_in!r}")
    if config.train_in == "simulator" and (config.uncertainty_penalty or config.max_uncertainty is not None):
        raise ValueError("a simulator has no uncertainty: leave out uncertainty_penalty and max_uncertainty")
    if config.train_in == "simulator" and config.precision == "bfloat16":
        raise ValueError(f"a simulator has no precision={config.precision!r}: leave it out")
    if config.uncertainty_penalty < 0:
        raise ValueError(f"uncertainty_penalty must be 0 or more, got {config.uncertainty_penalty}")
    if config.average_decay == 1:
        raise ValueError("average_decay=1 would keep the clone as it is; use 0.95, or 0 for the last iterate")
    if config.num_envs * config.steps < config.minibatches:
        raise ValueError(
            f"minibatches={config.minibatches} is more than the {config.num_envs * config.steps} samples of an "
            "iteration; lower it or raise num_envs"
        )
