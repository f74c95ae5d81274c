"""Behaviour cloning: a few demonstrations of a world, features at frame t to the actions of the chunk from t on.

The clone is where dream training starts and what it is anchored to. It takes about a minute on one CPU thread.

With ``videos`` it is a world action model (arXiv 2605.07079): of further demonstrations nothing but the frames is used,
and the trunk learns on them to foretell the residual latent action of the coming chunk, which needs no action labels.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from agents.policy import TokenPolicy
from world_models.data.demonstrations import Demonstrations
from world_models.processes import choose_device
from world_models.world_model import RLAWorldModel, load_model, read_config, world_folder


@dataclass(kw_only=True)
class BCConfig:
    """Settings of `train_bc`."""

    world: str = "lift"
    """Bundled world's name or a world folder; its demonstrations are cloned."""
    out: Path = Path("runs/bc")
    """Policy folder to write."""
    demonstrations: int = 10
    """How many of the world's demonstrations, taken in an order shuffled by the seed."""
    videos: int = 0
    """Further demonstrations, next in that order, whose frames alone are used."""
    latent_weight: float = 1.0
    """Weight of the loss on foretold latent actions, where there are videos."""
    seed: int = 0
    """Of the choice of demonstrations, the initial weights and the batches."""
    chunk_length: int | None = None
    """Control steps per action chunk; None takes the world's."""
    steps: int = 2000
    """Gradient steps."""
    batch_size: int = 64
    """Frames per step."""
    learning_rate: float = 1e-3
    """Peak of a warm-up and cosine schedule (AdamW)."""
    weight_decay: float = 1e-2
    """AdamW's decay of the weights."""
    loss: Literal["huber", "l1", "mse"] = "huber"
    """Loss on the mean action; Huber turns linear at an error of 0.1, which keeps gripper switches from dominating."""
    feature_noise: float = 0.5
    """Std of Gaussian noise on the (standardised) features in training."""
    token_dropout: float = 0.3
    """Share of tokens zeroed in training. Without both, the error on unseen demonstrations was a third higher."""
    width: int = 128
    """Channels of a token inside the policy."""
    queries: int = 8
    """Learned queries of the attention pooling."""
    initial_std: float = 0.15
    """Std per action that is written into the policy: the exploration that PPO starts with."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    progress: bool = True
    """Show a progress bar."""


def train_bc(config: BCConfig) -> Path:
    """Clone ``config.demonstrations`` demonstrations of ``config.world`` into a policy folder; returns the folder.

    The same config gives the same policy on the same hardware. ``config.json`` records the training loss of the first
    and last steps and, where the world has demonstrations that were not cloned, the mean absolute action error on them
    (for information; nothing is selected by it).

    Raises:
        ValueError: a setting is out of range, or the world has too few demonstrations.
        FileNotFoundError: no such world.
    """
    _check(config)
    device = choose_device(config.device)
    folder = world_folder(config.world)
    world, demonstrations = read_config(folder), Demonstrations.load(folder / "starts.safetensors")
    chunk_length = choose_chunk_length(config.chunk_length, world.chunk_length)
    watched = choose_demonstrations(demonstrations, config.demonstrations + config.videos, config.seed)
    chosen = watched[: config.demonstrations]
    features, targets = chunk_samples(demonstrations, chosen, chunk_length)
    features, targets = features.to(device), targets.to(device)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        policy = TokenPolicy(
            features.shape[1],
            features.shape[2],
            chunk_length,
            demonstrations.actions.shape[2],
            width=config.width,
            queries=config.queries,
        ).to(device)
        parameters, foretell = list(policy.parameters()), None
        if config.videos:
            frames, latents = latent_samples(demonstrations, watched, folder, chunk_length, device)
            foretell = nn.Linear(policy.head.in_features, latents.shape[1], device=device)
            parameters += foretell.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    warm_up = max(1, config.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / config.steps)),
    )
    generator = torch.Generator(device).manual_seed(config.seed)
    losses = torch.zeros(config.steps, device=device)
    with tqdm(total=config.steps, desc="bc", unit="step", disable=not config.progress) as bar:
        for step in range(config.steps):
            index = torch.randint(len(features), (config.batch_size,), device=device, generator=generator)
            batch = augment(features[index].float(), config.feature_noise, config.token_dropout, generator)
            loss = _loss(policy(batch), targets[index], config.loss)
            if foretell is not None:
                index = torch.randint(len(frames), (config.batch_size,), device=device, generator=generator)
                batch = augment(frames[index].float(), config.feature_noise, config.token_dropout, generator)
                error = nn.functional.mse_loss(foretell(policy.trunk(batch)), latents[index])
                loss = loss + config.latent_weight * error
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses[step] = loss.detach()
            bar.update()
            if step % 50 == 49:
                bar.set_postfix(loss=f"{losses[step - 49 : step + 1].mean():.4f}")

    with torch.no_grad():
        policy.log_std.fill_(math.log(config.initial_std))
    policy.eval()
    ends = max(1, config.steps // 20)
    policy.facts = {
        "method": "bc_videos" if config.videos else "bc",
        "world": world_reference(config.world),
        "task": world.task,
        "training": {
            **{name: value for name, value in asdict(config).items() if name not in ("out", "progress", "world")},
            "demonstration_indices": chosen.tolist(),
            "frames": len(features),
            "first_loss": losses[:ends].mean().item(),
            "last_loss": losses[-ends:].mean().item(),
            "training_error": action_error(policy, features, targets),
            "held_out_error": _held_out_error(policy, demonstrations, watched),
        },
    }
    return policy.save(config.out)


def choose_demonstrations(demonstrations: Demonstrations, count: int, seed: int) -> Tensor:
    """Indices (count,) int64 of the first ``count`` demonstrations in an order shuffled by ``seed``.

    A larger count with the same seed adds demonstrations to a smaller one and drops none.

    Raises:
        ValueError: ``count`` is not between 1 and the number of demonstrations.
    """
    available = len(demonstrations.lengths)
    if not 1 <= count <= available:
        raise ValueError(f"demonstrations={count}, but the world has {available}; choose between 1 and {available}")
    return torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:count]


def chunk_samples(demonstrations: Demonstrations, indices: Tensor, chunk_length: int) -> tuple[Tensor, Tensor]:
    """Every frame of the chosen demonstrations with the chunk of actions that follows it.

    Returns:
        features (F, L, C) in the demonstrations' own dtype and actions (F, K*A) float32; past the end of a
        demonstration its last action is repeated.
    """
    features, actions = [], []
    for index in indices.tolist():
        length = int(demonstrations.lengths[index])
        times = torch.arange(length)[:, None] + torch.arange(chunk_length)
        features.append(demonstrations.features[index, :length])
        actions.append(demonstrations.actions[index, times.clamp(max=length - 1)].flatten(1))
    return torch.cat(features), torch.cat(actions).float()


def latent_samples(
    demonstrations: Demonstrations, indices: Tensor, world: Path, chunk_length: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Every frame of the chosen demonstrations with the latent action to the frame a chunk later; actions are not read.

    Returns:
        features (F, L, C) and latent actions (F, n*d) float32 of unit variance over all their numbers, on ``device``;
        past the end of a demonstration its last frame is repeated.

    Raises:
        ValueError: the world has no RLA.
    """
    model = load_model(world, "flow", device)
    assert isinstance(model, RLAWorldModel)
    features, latents = [], []
    for index in indices.tolist():
        length = int(demonstrations.lengths[index])
        states = demonstrations.features[index, :length].to(device).float()
        later = states[(torch.arange(length) + chunk_length).clamp(max=length - 1)]
        features.append(states)
        latents.append(model.rla.encode(states, later).flatten(1))
    latent = torch.cat(latents)
    return torch.cat(features), latent / latent.std()


def augment(features: Tensor, noise: float, dropout: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise on the features (B, L, C) and zeroed tokens: few demonstrations are learned by heart otherwise."""
    if noise:
        features = features + noise * torch.randn(features.shape, device=features.device, generator=generator)
    if dropout:
        kept = torch.rand(features.shape[:2], device=features.device, generator=generator) >= dropout
        features = features * kept.unsqueeze(-1)
    return features


def check_augmentation(feature_noise: float, token_dropout: float) -> None:
    """ValueError unless :func:`augment` can take these."""
    if feature_noise < 0 or not 0 <= token_dropout < 1:
        raise ValueError(
            f"feature_noise must be >= 0 and token_dropout in [0, 1), got {feature_noise} and {token_dropout}"
        )


def action_error(policy: TokenPolicy, features: Tensor, targets: Tensor) -> float:
    """Mean absolute error of the clipped mean action over (F, L, C) features and (F, K*A) targets."""
    errors = [
        (policy.act(part.float()) - target).abs().sum().item()
        for part, target in zip(features.split(256), targets.split(256), strict=True)
    ]
    return sum(errors) / targets.numel()


def choose_chunk_length(asked: int | None, longest: int) -> int:
    """The chunk length asked for, or the world's own for None.

    Raises:
        ValueError: it is not between 1 and the longest chunk that the world was trained on.
    """
    if asked is not None and not 1 <= asked <= longest:
        raise ValueError(f"chunk_length={asked}, but the world predicts chunks of 1 to {longest} control steps")
    return asked or longest


def world_reference(world: str) -> str:
    """How a policy remembers its world: a bundled name as it is, a folder by its absolute path."""
    return str(Path(world).resolve()) if Path(world).exists() else world


def _held_out_error(policy: TokenPolicy, demonstrations: Demonstrations, chosen: Tensor) -> float | None:
    others = [index for index in range(len(demonstrations.lengths)) if index not in set(chosen.tolist())][:20]
    if not others:
        return None
    device = policy.log_std.device
    features, targets = chunk_samples(demonstrations, torch.tensor(others), policy.chunk_length)
    return action_error(policy, features.to(device), targets.to(device))


def _loss(mean: Tensor, target: Tensor, kind: str) -> Tensor:
    if kind == "huber":
        # divided by its threshold the slope beyond it is one: comparable with L1
        return nn.functional.huber_loss(mean, target, delta=0.1) / 0.1
    if kind == "l1":
        return nn.functional.l1_loss(mean, target)
    return nn.functional.mse_loss(mean, target)


def _check(config: BCConfig) -> None:
    for name in ("steps", "batch_size", "learning_rate", "initial_std", "width", "queries"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be positive, got {getattr(config, name)}")
    if config.videos < 0 or not config.latent_weight > 0:
        raise ValueError(
            f"videos must be >= 0 and latent_weight positive, got {config.videos} and {config.latent_weight}"
        )
    if config.loss not in ("huber", "l1", "mse"):
        raise ValueError(f"loss must be 'huber', 'l1' or 'mse', got {config.loss!r}")
    check_augmentation(config.feature_noise, config.token_dropout)
