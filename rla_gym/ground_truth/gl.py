"""System GL for MuJoCo: which backend, what has to be loaded before it, and in which process it may be used."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

_LIBRARIES = {"egl": ("libEGL.so.1",), "osmesa": ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")}
_PACKAGES = {"egl": "libegl1 libgl1", "osmesa": "libosmesa6"}
"""Debian's and Ubuntu's packages of the libraries."""
_BACKENDS = ("egl", "osmesa", "glfw")
_SYSTEMS_OWN = {"darwin": ("cgl",), "win32": ("wgl",)}

_gl_process: int | None = None
"""The process that made this one's first GL context: itself, or the one that it was forked from."""


def choose_gl_backend() -> str:
    """Checks ``MUJOCO_GL``; where the user has not set it, sets it to EGL if its library loads, else to OSMesa.

    Call it before MuJoCo is imported: with a backend whose library is missing, the import itself fails.

    Returns:
        The backend's name.

    Raises:
        ValueError: ``MUJOCO_GL`` names no backend.
        ImportError: on Linux, if no library of the backend can be loaded, or neither EGL's nor OSMesa's; the message
            says what to install, and what works instead.
    """
    backend = os.environ.get("MUJOCO_GL", "").strip().lower()
    choices = (*_BACKENDS, *_SYSTEMS_OWN.get(sys.platform, ()))
    if backend and backend not in choices:
        raise ValueError(f"MUJOCO_GL={backend!r}: set one of {', '.join(choices)}, or leave it unset for what works")
    if not sys.platform.startswith("linux"):
        return backend
    working = (name for name, libraries in _LIBRARIES.items() if any(map(_loads, libraries)))
    if not backend:
        backend = next(working, "")
        if not backend:
            packages = " ".join(_PACKAGES.values())
            raise ImportError(
                "no GL library found (tried EGL and OSMesa), and pictures need one: `apt-get install -y "
                f"{packages}` on Debian or Ubuntu; both work without a GPU"
            )
        os.environ["MUJOCO_GL"] = backend
    elif backend in _LIBRARIES and not any(map(_loads, _LIBRARIES[backend])):
        other = next(working, "")
        instead = f"MUJOCO_GL={other}, which works here" if other else "MUJOCO_GL=egl with libegl1 and libgl1"
        raise ImportError(
            f"MUJOCO_GL={backend}, but {_LIBRARIES[backend][0]} cannot be loaded: `apt-get install -y "
            f"{_PACKAGES[backend]}` on Debian or Ubuntu, or use {instead}"
        )
    return backend


def prepare_gl() -> str:
    """:func:`choose_gl_backend`, and what has to be loaded before GL; call it before MuJoCo is imported."""
    backend = choose_gl_backend()
    _load_triton()
    return backend


def make_gl_context(size: int) -> Any:
    """A GL context of MuJoCo's, by ``MUJOCO_GL`` as it is now and not as it was when mujoco was imported.

    Args:
        size: width and height of its pictures.

    Raises:
        ImportError: there is no GL; the message names the packages and ``MUJOCO_GL``.
        RuntimeError: this process was forked from one that has made a context.
    """
    global _gl_process
    check_not_forked()
    backend = prepare_gl()
    _gl_process = os.getpid()
    try:
        if backend in _LIBRARIES:
            context = importlib.import_module(f"mujoco.{backend}").GLContext(size, size)
        else:
            context = importlib.import_module("mujoco").GLContext(size, size)
        context.make_current()
    except Exception as error:  # PyOpenGL raises anything from AttributeError to its own errors
        other = "osmesa" if backend == "egl" else "egl"
        raise ImportError(
            f"MUJOCO_GL={backend or '(unset)'} gives no GL context ({type(error).__name__}: {error}): `apt-get install "
            f"-y {_PACKAGES.get(backend, _PACKAGES['egl'])}` on Debian or Ubuntu, or try MUJOCO_GL={other}"
        ) from error
    return context


def is_forked() -> bool:
    """Whether this process was forked from one that has made a context."""
    return _gl_process not in (None, os.getpid())


def check_not_forked() -> None:
    """Checks that this process may use GL, whose threads do not survive a fork: it would wait for ever.

    Raises:
        RuntimeError: it was forked from one that has made a context.
    """
    if is_forked():
        raise RuntimeError(
            "this process was forked from one that has made pictures, and GL does not survive a fork: spawn it "
            "(gym.make_vec(..., vectorization_mode='async', vector_kwargs={'context': 'spawn'}), or start_method="
            "'spawn' of Stable-Baselines3's SubprocVecEnv), or start it before the first picture"
        )


@cache
def _load_triton() -> None:
    """Loads triton's extension, if it is installed, without importing triton: 40 ms.

    Software GL brings Mesa's LLVM among the symbols that every library sees. An extension of triton that is loaded
    afterwards takes them for those of its own LLVM, of another version, and crashes; torch loads it in its first
    optimiser step and on other occasions. Once loaded, it is bound to its own, and Python imports what is loaded.
    """
    try:
        found = importlib.util.find_spec("triton")
    except ValueError:  # somebody put a module without a spec into sys.modules
        return
    if found is None or not sys.platform.startswith("linux"):
        return
    mode = os.RTLD_NOW
    if b"libLLVM" in Path("/proc/self/maps").read_bytes():  # somebody else's GL was earlier
        mode |= getattr(os, "RTLD_DEEPBIND", 0)
    for folder in found.submodule_search_locations or ():
        for extension in Path(folder, "_C").glob("libtriton*.so"):
            try:
                ctypes.CDLL(str(extension), mode=mode)
            except OSError:  # nor could triton itself be imported
                continue


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
