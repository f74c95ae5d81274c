"""The simulator behind the dream's spaces: determinism, chunks, pictures, errors."""

from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from rla_gym.ground_truth import gl, rendering
from rla_gym.ground_truth.behaviours import make_behaviour
from rla_gym.ground_truth.env import RobosuiteEnv
from rla_gym.ground_truth.seeds import COLLECT_SEED_RANGE, REPORT_SEEDS, VALIDATION_SEEDS
from rla_gym.ground_truth.simulator import Simulator
from rla_gym.ground_truth.vector import RobosuiteVectorEnv
from rla_gym.tasks import get_task
from world_models.io import load_encoder


@pytest.fixture(scope="module")
def env() -> Iterator[RobosuiteEnv]:
    try:
        made = RobosuiteEnv(obs="rgb", render_mode="rgb_array")
    except ImportError as error:
        pytest.skip(f"no simulator here: {error}")
    yield made
    made.close()


def expert_actions(env: RobosuiteEnv, steps: int, seed: int = 0) -> np.ndarray:
    """Runs the scripted expert from the present state; returns its (steps, A) actions."""
    behaviour = make_behaviour("expert", np.random.default_rng(seed))
    actions = []
    for _ in range(steps):
        actions.append(behaviour.act(env.simulator_state()).astype(np.float32))
        env.control_step(actions[-1])
    return np.stack(actions)


def test_passes_gymnasiums_checker(env: RobosuiteEnv) -> None:
    check_env(env, skip_render_check=True)


def test_same_seed_same_trajectory_whatever_came_before(env: RobosuiteEnv) -> None:
    first, _ = env.reset(seed=3)
    actions = expert_actions(env, 20)
    after = env.simulator_state()["state"]
    env.reset(seed=4, options={"placement": "wide"})
    expert_actions(env, 3)
    again, _ = env.reset(seed=3, options={"placement": "standard"})
    np.testing.assert_array_equal(first, again)
    for action in actions:
        env.control_step(action)
    np.testing.assert_array_equal(after, env.simulator_state()["state"])


def test_chunk_is_its_control_steps_and_success_terminates(env: RobosuiteEnv) -> None:
    env.reset(seed=5, options={"placement": "standard"})
    actions = expert_actions(env, 48)
    states = env.simulator_state()["state"]
    env.reset(seed=5)
    rewards, ends = [], []
    for chunk in actions.reshape(6, -1):
        observation, reward, terminated, truncated, info = env.step(chunk)
        rewards.append(reward)
        ends.append((terminated, truncated))
    np.testing.assert_array_equal(states, env.simulator_state()["state"])
    assert env.observation_space.contains(observation)
    assert rewards[-1] == 1.0
    assert ends[-1] == (True, True)  # time is up as well, as Gymnasium's TimeLimit says it
    succeeded = {"success": True, "is_success": True}
    assert info == {**succeeded, "control_steps": 48, "reward_alignment": 0.0, "reward_success": 1.0}
    assert rewards[0] == 0.0
    assert ends[0] == (False, False)


def test_doing_nothing_truncates(env: RobosuiteEnv) -> None:
    env.reset(seed=0)
    ends = [env.step(np.zeros(32, np.float32))[2:4] for _ in range(6)]
    assert ends == [(False, False)] * 5 + [(False, True)]


def test_placements_differ_in_width(env: RobosuiteEnv) -> None:
    for placement, where in get_task("Lift").placements.items():
        places = []
        for seed in range(20):
            env.reset(seed=seed, options={"placement": placement})
            places.append(env.simulator_state()["cube_position"][:2])
        assert 0.6 * where.half_width < np.abs(places).max() <= where.half_width


def test_picture_is_upright_and_shows_the_cube(env: RobosuiteEnv) -> None:
    frame, _ = env.reset(seed=0, options={"placement": "standard"})
    np.testing.assert_array_equal(frame, env.render())
    r, g, b = np.moveaxis(frame.astype(int), -1, 0)
    rows, _ = np.nonzero((r > 80) & (r > 2 * g) & (r > 2 * b))
    assert len(rows) > 150
    assert rows.mean() > 64
    assert frame[-1].mean() > 200  # the table is white


def test_leaving_out_unseen_geoms_changes_no_pixel(env: RobosuiteEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    env.reset(seed=1)
    for _ in range(3):
        expert_actions(env, 10)
        culled = env.render_frame()
        with monkeypatch.context() as patch:
            patch.setattr(rendering, "_CULLED_GROUP", rendering._VISUAL_GROUP)
            np.testing.assert_array_equal(culled, env.render_frame())


def test_simulator_state(env: RobosuiteEnv) -> None:
    env.reset(seed=0)
    state = env.simulator_state()
    shapes = {name: value.shape for name, value in state.items()}
    assert shapes == {
        "cube_position": (3,),
        "eef_position": (3,),
        "gripper_opening": (1,),
        "state": (env.task.state_dim,),
    }
    for _ in range(10):
        env.control_step(np.array([0.0, 0.0, 0.0, -1.0]))
    wide = env.simulator_state()["gripper_opening"][0]
    for _ in range(15):
        env.control_step(np.array([0.0, 0.0, 0.0, 1.0]))
    closed = env.simulator_state()["gripper_opening"][0]
    assert 0.07 < wide < 0.085
    assert -0.002 < closed < 0.005


def test_the_task_names_gripper_and_proprioception(env: RobosuiteEnv) -> None:
    """The simulator reads actions and proprioception by the names of the task, in the order of the task."""
    task = get_task("Lift")
    assert task.proprioception_dim == 2 * len(task.proprioception) == 8
    renamed = replace(
        task, action_names=("fingers", "x", "y", "z"), gripper="fingers", proprioception=("gripper_opening", "hand_z")
    )
    assert (task.gripper_index, renamed.gripper_index) == (3, 0)
    values = []
    for spec, action in ((task, [0.2, -0.3, 0.4, 1.0]), (renamed, [1.0, 0.2, -0.3, 0.4])):
        simulator = Simulator(spec)
        simulator.reset(np.random.default_rng(0), spec.placement("standard"))
        for _ in range(3):
            simulator.advance(np.array(action))
        values.append(simulator.proprioception())
        simulator.close()
    assert values[1].dtype == np.float32
    np.testing.assert_array_equal(values[1], values[0][[3, 2, 7, 6]])
    assert (values[1] != 0).all()


def test_bad_actions_are_named(env: RobosuiteEnv) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(8, 4\), expected \(32,\)"):
        env.step(np.zeros((8, 4), np.float32))
    with pytest.raises(ValueError, match="NaN or infinity at index 5"):
        env.step(np.where(np.arange(32) == 5, np.nan, 0.0))
    with pytest.raises(ValueError, match="dtype int64"):
        env.step(np.zeros(32, np.int64))
    strict = RobosuiteEnv(obs="last_action", out_of_bounds="raise")
    strict.reset(seed=0)
    with pytest.raises(ValueError, match=r"reach -1.5 at index 3: keep them within \[-1, 1\]"):
        strict.step(np.where(np.arange(32) == 3, -1.5, 0.0))
    strict.close()
    with pytest.raises(ValueError, match=r"expected \(4,\)"):
        env.control_step(np.zeros(7))
    with pytest.raises(ValueError, match=r"unknown placement 'far'.*'standard', 'wide'"):
        env.reset(options={"placement": "far"})
    with pytest.raises(ValueError, match="unknown reset option 'demo'"):
        env.reset(options={"demo": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "Juggle"}, "unknown task 'Juggle': choose one of 'Lift'"),
        ({"placement": "far"}, "unknown placement 'far'"),
        ({"obs": "state"}, "obs='state': choose one of 'features', 'pooled', 'rgb'"),
        ({"output": "jax"}, "output='jax': choose one of 'numpy', 'torch'"),
        (
            {"reward": "dense"},
            "unknown reward 'dense': choose one of 'corresponding', 'goal', 'progress', 'success_probability', "
            "'sparse'",
        ),
        ({"out_of_bounds": "wrap"}, "out_of_bounds='wrap'"),
        ({"render_mode": "human"}, "render_mode='human'"),
        ({"chunk_length": 0}, "chunk_length=0 must be at least 1"),
    ],
)
@pytest.mark.parametrize("kind", [RobosuiteEnv, RobosuiteVectorEnv])
def test_bad_arguments_are_named(kind: type, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_missing_software_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "robosuite", None)
        with pytest.raises(ImportError, match=r'pip install "rla-gym\[robosuite\]"'):
            RobosuiteEnv(obs="rgb")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl, "_loads", lambda library: False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(ImportError, match="apt-get install -y libegl1 libgl1 libosmesa6"):
        gl.choose_gl_backend()


def test_importing_the_twin_imports_no_simulator() -> None:
    code = "import sys, rla_gym, rla_gym.ground_truth.env; print({'mujoco', 'robosuite', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_seed_ranges_are_apart() -> None:
    ranges = [COLLECT_SEED_RANGE, VALIDATION_SEEDS, REPORT_SEEDS]
    assert REPORT_SEEDS.start == 1_000_000
    assert all(before.stop <= after.start for before, after in itertools.pairwise(ranges))


def test_vector_features_are_those_of_single_environments(env: RobosuiteEnv, tiny_world_folder: Path) -> None:
    vector = gym.make_vec("Robosuite-Lift-v0", num_envs=2, world=str(tiny_world_folder), max_chunks=2)
    assert isinstance(vector, RobosuiteVectorEnv)
    assert vector.single_observation_space.shape == (16, 8)
    assert vector.action_space.shape == (2, 32)
    observations, info = vector.reset(seed=10)
    assert vector.observation_space.contains(observations)
    assert info["control_steps"].tolist() == [0, 0]
    encode = load_encoder(tiny_world_folder)
    actions = np.random.default_rng(0).uniform(-1.2, 1.2, (2, 32)).astype(np.float32)
    _stepped, rewards, terminated, truncated, info = vector.step(actions)
    states = vector.simulator_state()
    for slot in range(2):
        frame, _ = env.reset(seed=10 + slot, options={"placement": "standard"})
        expected = encode(torch.from_numpy(frame)[None])[0].numpy()
        np.testing.assert_allclose(observations[slot], expected, atol=1e-4)
        env.step(actions[slot])
        np.testing.assert_array_equal(states["state"][slot], env.simulator_state()["state"])
    assert rewards.tolist() == [0, 0]
    assert not terminated.any()
    assert not truncated.any()
    assert vector.step(actions)[3].all()
    observations, rewards, terminated, truncated, info = vector.step(actions)  # next-step autoreset
    assert info["control_steps"].tolist() == [0, 0]
    assert not truncated.any()
    with pytest.raises(ValueError, match=r"shape \(2, 4\)"):
        vector.step(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="simulator 1 hold NaN"):
        vector.step(np.array([[0.0] * 32, [np.nan] * 32], np.float32))
    for options, problem, message in (
        ({"demo": 1}, ValueError, "unknown reset option 'demo'"),
        ({"placement": "far"}, ValueError, "unknown placement 'far'"),
        ({"reset_mask": np.zeros(2, bool)}, ValueError, "at least one slot"),
        ({"reset_mask": [1, 0]}, TypeError, "reset_mask has dtype int64"),
    ):
        with pytest.raises(problem, match=message):
            vector.reset(options=options)
    with pytest.raises(ValueError, match="1 seeds for 2 slots"):
        vector.reset(seed=[3])
    vector.close()
    with pytest.raises(gym.error.ClosedEnvironmentError):
        vector.reset()


def test_vector_torch_output_and_same_step_reset(env: RobosuiteEnv, tiny_world_folder: Path) -> None:
    vector = RobosuiteVectorEnv(
        1, world=str(tiny_world_folder), max_chunks=1, output="torch", autoreset_mode=AutoresetMode.SAME_STEP
    )
    first, _ = vector.reset(seed=7)
    observations, rewards, terminated, truncated, info = vector.step(torch.zeros(1, 32))
    assert all(isinstance(item, torch.Tensor) for item in (first, observations, rewards, terminated, truncated))
    assert rewards.dtype == torch.float32
    assert truncated.tolist() == [True]
    assert info["_final_obs"].tolist() == [True]
    assert info["final_obs"].shape == (1, 16, 8)
    assert info["final_info"]["control_steps"].tolist() == [8]
    assert info["control_steps"].tolist() == [0]
    assert not torch.equal(info["final_obs"], observations)
    vector.close()


def test_processes_give_what_one_process_gives(env: RobosuiteEnv) -> None:
    with pytest.raises(ValueError, match="vectorization='threads'"):
        RobosuiteVectorEnv(1, vectorization="threads")
    vector = RobosuiteVectorEnv(1, obs="rgb", vectorization="async", render_mode="rgb_array")
    try:
        observations, _ = vector.reset(seed=2, options={"placement": "wide"})
        action = np.full((1, 32), 0.3, np.float32)
        after = vector.step(action)[0]
        assert np.array_equal(vector.render()[0], after[0])
    finally:
        vector.close()
    frame, _ = env.reset(seed=2, options={"placement": "wide"})
    np.testing.assert_array_equal(observations[0], frame)
    np.testing.assert_array_equal(after[0], env.step(action[0])[0])


def test_a_copy_goes_on_from_the_same_state_bit_for_bit(env: RobosuiteEnv) -> None:
    env.reset(seed=5)
    rng = np.random.default_rng(5)
    actions = rng.uniform(-1, 1, (4, *env.action_space.shape)).astype(np.float32)
    env.step(actions[0])
    copied, pickled = copy.deepcopy(env), pickle.loads(pickle.dumps(env))
    for action in actions[1:]:
        observation, *rest = env.step(action)
        for other in (copied, pickled):
            other_observation, *other_rest = other.step(action)
            np.testing.assert_array_equal(other_observation, observation)
            assert other_rest == rest
            np.testing.assert_array_equal(other.simulator_state()["state"], env.simulator_state()["state"])
    copied.close()
    pickled.close()
    observation, _ = env.reset(seed=5)  # the first still has its renderer
    assert env.observation_space.contains(observation)


def test_a_task_can_be_pickled_and_copied() -> None:
    task = get_task("Stack")
    for other in (copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        assert other == task
        with pytest.raises(TypeError):
            other.placements["new"] = None  # type: ignore[index]
