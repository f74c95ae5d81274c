"""PPO in one file, in the manner of CleanRL; only the environment's id and `import rla_gym` are new.

After `pip install "rla-gym[agents]"`: `python examples/cleanrl_ppo.py`; see --help.
It logs to TensorBoard, in runs/, as CleanRL does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim
import tyro
from torch.distributions.normal import Normal
from torch.utils.tensorboard import SummaryWriter

import rla_gym  # noqa: F401  registers the environments
from benchmarks.learning import evaluate, report
from world_models.config import DynamicsName


@dataclass
class Args:
    """Train a CleanRL-style PPO in the dream, once per seed."""

    env_id: str = "RLAWM-Lift-v0"
    """Environment."""
    world: str | None = None
    """Bundled world's name or a world folder; None for the bundled one of the environment's task."""
    dynamics: DynamicsName = "regression"
    """Which dynamics of the world the dream has; regression is the cheap one."""
    chunk_length: int | None = 4
    """Control steps of an env step; None for the world's own. Short ones are easier to learn from scratch."""
    num_envs: int = 32
    """Dreams side by side."""
    total_timesteps: int = 16384
    """Env steps in all dreams together, each a chunk of actions."""
    learning_rate: float = 1e-3
    """Of Adam."""
    num_steps: int = 16
    """Env steps per dream and iteration."""
    gamma: float = 0.9
    """Discount per env step."""
    gae_lambda: float = 0.95
    """Of generalised advantage estimation."""
    num_minibatches: int = 4
    """Minibatches per pass over an iteration's samples."""
    update_epochs: int = 8
    """Passes over an iteration's samples."""
    clip_coef: float = 0.2
    """Clipping of the probability ratio."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Gradient clipping."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds."""
    out: Path | None = None
    """JSON file to keep the result rows in."""


def layer_init(layer: nn.Linear, std: float = np.sqrt(2), bias_const: float = 0.0) -> nn.Linear:
    """Orthogonal weights and a constant bias."""
    torch.nn.init.orthogonal_(layer.weight, std)
    torch.nn.init.constant_(layer.bias, bias_const)
    return layer


class Agent(nn.Module):
    """Actor and critic, each an MLP."""

    def __init__(self, envs: gym.vector.VectorEnv) -> None:
        super().__init__()
        obs_dim = int(np.prod(envs.single_observation_space.shape))
        action_dim = int(np.prod(envs.single_action_space.shape))
        self.critic = nn.Sequential(
            layer_init(nn.Linear(obs_dim, 64)),
            nn.Tanh(),
            layer_init(nn.Linear(64, 64)),
            nn.Tanh(),
            layer_init(nn.Linear(64, 1), std=1.0),
        )
        self.actor_mean = nn.Sequential(
            layer_init(nn.Linear(obs_dim, 64)),
            nn.Tanh(),
            layer_init(nn.Linear(64, 64)),
            nn.Tanh(),
            layer_init(nn.Linear(64, action_dim), std=0.01),
        )
        self.actor_logstd = nn.Parameter(torch.full((1, action_dim), -0.7))  # actions are clipped at 1

    def get_value(self, x):
        """Values (B, 1) of observations (B, ...)."""
        return self.critic(x)

    def get_action_and_value(self, x, action=None):
        """Actions (B, D), their log probabilities (B,), entropies (B,) and the values (B, 1) of observations."""
        mean = self.actor_mean(x)
        probs = Normal(mean, self.actor_logstd.expand_as(mean).exp())
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action).sum(1), probs.entropy().sum(1), self.critic(x)


def train(args: Args, seed: int) -> tuple[np.ndarray, np.ndarray]:  # long: CleanRL's file, read from top to bottom
    """Returns (N,) of the evaluation episodes before and after training."""
    batch_size = args.num_envs * args.num_steps
    minibatch_size = batch_size // args.num_minibatches
    num_iterations = args.total_timesteps // batch_size
    writer = SummaryWriter(f"runs/{args.env_id}__cleanrl_ppo__{seed}__{int(time.time())}")

    np.random.seed(seed)
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # env setup
    world = {"world": args.world, "dynamics": args.dynamics, "chunk_length": args.chunk_length}
    world |= {"obs": "pooled", "device": str(device)}
    envs = gym.make_vec(args.env_id, num_envs=args.num_envs, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP, **world)
    envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)

    agent = Agent(envs).to(device)
    optimizer = optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)

    @torch.no_grad()
    def policy(observations):
        return agent.actor_mean(torch.as_tensor(observations, device=device)).cpu().numpy()

    returns_before = evaluate(policy, args.env_id, **world)

    # storage
    obs = torch.zeros((args.num_steps, args.num_envs, *envs.single_observation_space.shape), device=device)
    actions = torch.zeros((args.num_steps, args.num_envs, *envs.single_action_space.shape), device=device)
    logprobs = torch.zeros((args.num_steps, args.num_envs), device=device)
    rewards = torch.zeros((args.num_steps, args.num_envs), device=device)
    dones = torch.zeros((args.num_steps, args.num_envs), device=device)
    values = torch.zeros((args.num_steps, args.num_envs), device=device)

    global_step = 0
    start_time = time.time()
    next_obs, _ = envs.reset(seed=seed)
    next_obs = torch.as_tensor(next_obs, device=device)
    next_done = torch.zeros(args.num_envs, device=device)

    for _iteration in range(num_iterations):
        # rollout
        for step in range(args.num_steps):
            global_step += args.num_envs
            obs[step] = next_obs
            dones[step] = next_done
            with torch.no_grad():
                action, logprob, _, value = agent.get_action_and_value(next_obs)
            values[step] = value.flatten()
            actions[step] = action
            logprobs[step] = logprob

            next_obs, reward, terminations, truncations, infos = envs.step(action.cpu().numpy())
            rewards[step] = torch.as_tensor(reward, dtype=torch.float32, device=device)
            goes_on = truncations & ~terminations  # a success in the last step is both
            if goes_on.any():
                # truncated by the time limit: the value of the last observation stands for the rest
                final_obs = torch.as_tensor(np.stack(infos["final_obs"][goes_on]), device=device)
                with torch.no_grad():
                    final_value = agent.get_value(final_obs).flatten()
                rewards[step, torch.as_tensor(goes_on, device=device)] += args.gamma * final_value
            next_obs = torch.as_tensor(next_obs, device=device)
            next_done = torch.as_tensor(np.logical_or(terminations, truncations), dtype=torch.float32, device=device)
            if "episode" in infos:
                finished = infos["_episode"]
                writer.add_scalar("charts/episodic_return", infos["episode"]["r"][finished].mean(), global_step)
                writer.add_scalar("charts/episodic_length", infos["episode"]["l"][finished].mean(), global_step)

        # advantages
        with torch.no_grad():
            next_value = agent.get_value(next_obs).flatten()
            advantages = torch.zeros_like(rewards)
            lastgaelam = 0
            for t in reversed(range(args.num_steps)):
                nextnonterminal = 1.0 - (next_done if t == args.num_steps - 1 else dones[t + 1])
                nextvalues = next_value if t == args.num_steps - 1 else values[t + 1]
                delta = rewards[t] + args.gamma * nextvalues * nextnonterminal - values[t]
                lastgaelam = delta + args.gamma * args.gae_lambda * nextnonterminal * lastgaelam
                advantages[t] = lastgaelam
            returns = advantages + values

        # flatten the batch
        b_obs = obs.flatten(0, 1)
        b_logprobs = logprobs.flatten()
        b_actions = actions.flatten(0, 1)
        b_advantages = advantages.flatten()
        b_returns = returns.flatten()

        # update
        b_inds = np.arange(batch_size)
        for _epoch in range(args.update_epochs):
            np.random.shuffle(b_inds)
            for start in range(0, batch_size, minibatch_size):
                mb_inds = b_inds[start : start + minibatch_size]
                _, newlogprob, entropy, newvalue = agent.get_action_and_value(b_obs[mb_inds], b_actions[mb_inds])
                ratio = (newlogprob - b_logprobs[mb_inds]).exp()

                mb_advantages = b_advantages[mb_inds]
                mb_advantages = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std() + 1e-8)
                pg_loss1 = -mb_advantages * ratio
                pg_loss2 = -mb_advantages * torch.clamp(ratio, 1 - args.clip_coef, 1 + args.clip_coef)
                pg_loss = torch.max(pg_loss1, pg_loss2).mean()
                v_loss = 0.5 * ((newvalue.flatten() - b_returns[mb_inds]) ** 2).mean()
                loss = pg_loss - args.ent_coef * entropy.mean() + args.vf_coef * v_loss

                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()

        writer.add_scalar("charts/SPS", int(global_step / (time.time() - start_time)), global_step)
        writer.add_scalar("losses/policy_loss", pg_loss.item(), global_step)
        writer.add_scalar("losses/value_loss", v_loss.item(), global_step)
        writer.add_scalar("losses/entropy", entropy.mean().item(), global_step)

    returns_after = evaluate(policy, args.env_id, **world)
    envs.close()
    writer.close()
    return returns_before, returns_after


if __name__ == "__main__":
    report("CleanRL-style PPO", torch.__version__, train, tyro.cli(Args))
