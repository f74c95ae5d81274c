"""Off-screen pictures of a MuJoCo model from a task's camera.

There is one renderer, here: collection and the ground-truth twin give the same pixels.
With software GL the time goes into geometry, so multisampling, shadows and the sky are off, and geoms that
the camera cannot see are left out before they reach GL (which changes no pixel).
"""

from __future__ import annotations

import atexit
import importlib
import math
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from rla_gym.ground_truth.gl import check_not_forked, is_forked, make_gl_context
from rla_gym.tasks import CameraSpec

if TYPE_CHECKING:
    import mujoco

_VISUAL_GROUP = 1
"""robosuite puts visible shapes into geom group 1 and collision shapes into group 0."""
_CULLED_GROUP = 5
_ABANDONED: list[Any] = []
"""GL of a process that this one was forked from, kept because freeing it here would wait for ever."""


class OffscreenRenderer:
    """Renders a MuJoCo model from one camera. GL is asked for by the first picture, in the process that takes it.

    Args:
        model: the ``mujoco.MjModel`` to render. Its visual quality settings are changed.
        camera: camera and image size.
    """

    def __init__(self, model: mujoco.MjModel, camera: CameraSpec) -> None:
        mujoco = self._mujoco = importlib.import_module("mujoco")
        self._model = model
        self._size = camera.size
        self._gl: Any = None
        self._context: Any = None
        # These count only when they are set before the context is made.
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        model.vis.global_.offwidth = camera.size
        model.vis.global_.offheight = camera.size
        model.vis.global_.fovy = camera.fovy
        self._viewport = mujoco.MjrRect(0, 0, camera.size, camera.size)
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 100)
        flags = mujoco.mjtRndFlag
        for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_SKYBOX, flags.mjRND_HAZE):
            self._scene.flags[flag] = 0
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 0
        self._option.geomgroup[_VISUAL_GROUP] = 1
        self._option.sitegroup[:] = 0
        self._camera = _free_camera(mujoco, camera)
        self._visible = np.flatnonzero(model.geom_group == _VISUAL_GROUP)
        # A plane has no bounding sphere: it always stays.
        self._radius = np.where(model.geom_rbound[self._visible] > 0, model.geom_rbound[self._visible], np.inf)
        self._eye, self._frustum = _frustum(camera)

    def render(self, data: mujoco.MjData) -> np.ndarray:
        """The picture of the model's present state.

        Args:
            data: the simulation's ``mujoco.MjData``; its positions must be up to date (after a forward pass).

        Returns:
            (size, size, 3) uint8, origin at the top left.

        Raises:
            ImportError: there is no GL; the message names the packages and ``MUJOCO_GL``.
            RuntimeError: this process was forked from one that has taken a picture.
        """
        mujoco = self._mujoco
        check_not_forked()
        if self._gl is None:
            self._make_context()
        self._gl.make_current()
        distance = (data.geom_xpos[self._visible] - self._eye) @ self._frustum.T  # (geoms, 4), positive is inside
        outside = (distance < -self._radius[:, None]).any(axis=1)
        self._model.geom_group[self._visible[outside]] = _CULLED_GROUP
        try:
            mujoco.mjv_updateScene(
                self._model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
            )
        finally:
            self._model.geom_group[self._visible] = _VISUAL_GROUP
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        image = np.empty((self._size, self._size, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, self._viewport, self._context)
        return np.ascontiguousarray(image[::-1])

    def close(self) -> None:
        """Frees the GL context. Calling it twice does no harm."""
        if self._gl is None:
            return
        if is_forked():
            _ABANDONED.append((self._gl, self._context))
        else:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
        self._gl = self._context = None

    def _make_context(self) -> None:
        mujoco = self._mujoco
        self._gl = make_gl_context(self._size)
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_50)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        # mujoco's own exit handler, registered above, ends the GL library: ours must come before it.
        atexit.register(_close_at_exit, weakref.ref(self))


def _close_at_exit(reference: weakref.ref[OffscreenRenderer]) -> None:
    renderer = reference()
    if renderer is not None:
        renderer.close()


def _free_camera(mujoco: Any, camera: CameraSpec) -> Any:
    forward = np.subtract(camera.target, camera.position)
    distance = float(np.linalg.norm(forward))
    view = mujoco.MjvCamera()
    view.type = mujoco.mjtCamera.mjCAMERA_FREE
    view.lookat[:] = camera.target
    view.distance = distance
    view.azimuth = math.degrees(math.atan2(forward[1], forward[0]))
    view.elevation = math.degrees(math.asin(forward[2] / distance))
    return view


def _frustum(camera: CameraSpec) -> tuple[np.ndarray, np.ndarray]:
    """The camera's place (3,) and the inward unit normals (4, 3) of the sides of its view."""
    eye = np.asarray(camera.position, np.float64)
    forward = np.subtract(camera.target, camera.position)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    half = math.radians(camera.fovy) / 2
    sides = [math.cos(half) * sign * axis + math.sin(half) * forward for axis in (right, up) for sign in (1.0, -1.0)]
    return eye, np.stack(sides)
