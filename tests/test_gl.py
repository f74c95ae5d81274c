"""Software GL beside everything else: in which order, in which process, and what is said where it is missing."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("robosuite", reason='the simulator is not installed: pip install "rla-gym[robosuite]"')

PICTURE = "import gymnasium as gym, rla_gym\nreal = gym.make('Robosuite-Lift-v0', obs='rgb')\nreal.reset(seed=0)\n"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env={**os.environ, **environment},
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "later",
    [
        "gym.make('RLAWM-Lift-v0').reset(seed=0)",
        "import torch\nlayer = torch.nn.Linear(2, 2)\nadam = torch.optim.Adam(layer.parameters())\n"
        "layer(torch.ones(1, 2)).sum().backward()\nadam.step()",
    ],
    ids=["a dream", "an optimiser's step"],
)
def test_what_comes_after_a_picture_does_not_crash(later: str) -> None:
    """Mesa's LLVM and triton's in one process: the second of them used to end it by a segmentation fault."""
    done = run(f"{PICTURE}{later}\nprint('alive')")
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr[-1000:]


def test_forked_simulators_work_although_their_parent_made_one() -> None:
    code = (
        "import gymnasium as gym, rla_gym\n"
        "if __name__ == '__main__':\n"
        "    envs = gym.make_vec('Robosuite-Lift-v0', num_envs=2, vectorization_mode='async', obs='rgb')\n"
        "    print(envs.reset(seed=0)[0].shape)\n"
        "    envs.close()\n"
    )
    done = run(code)
    assert (done.returncode, done.stdout.strip()) == (0, "(2, 128, 128, 3)"), done.stderr[-1000:]


def test_a_fork_after_a_picture_is_refused_with_the_fix() -> None:
    code = (
        f"{PICTURE}import os\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    try:\n"
        "        real.unwrapped.render_frame()\n"
        "    except RuntimeError as error:\n"
        "        print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr[-1000:]
    assert "spawn it" in done.stdout


def test_collection_says_what_its_workers_lack(tmp_path: Path) -> None:
    if ctypes.util.find_library("OSMesa"):
        pytest.skip("libOSMesa is installed")
    words = ["rla-gym", "collect", "Lift", "--episodes", "1", "--workers", "1", "--out", str(tmp_path / "data")]
    code = f"import sys\nfrom rla_gym.cli import main\nsys.argv = {words}\nif __name__ == '__main__':\n    main()\n"
    done = run(code, MUJOCO_GL="osmesa")
    assert done.returncode == 1
    assert "libOSMesa" in done.stderr
    assert "out of memory" not in done.stderr


def test_a_backend_that_is_none_or_whose_library_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from rla_gym.ground_truth import gl

    monkeypatch.setenv("MUJOCO_GL", "vulkan")
    with pytest.raises(ValueError, match="MUJOCO_GL='vulkan': set one of egl, osmesa, glfw"):
        gl.choose_gl_backend()
    monkeypatch.setattr(gl, "_loads", lambda library: "EGL" in library)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(ImportError, match=r"install -y libosmesa6.*MUJOCO_GL=egl, which works here"):
        gl.choose_gl_backend()
    monkeypatch.setattr(gl, "_loads", lambda library: False)
    monkeypatch.delenv("MUJOCO_GL")
    with pytest.raises(ImportError, match="no GL library found"):
        gl.choose_gl_backend()
