"""Labels of success, taken for what they say: true or false, 1 or 0, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

LABEL = "next.success"
"""LeRobot's name of the column that says whether an episode has succeeded."""


def read_labels(values: Iterable[Any]) -> tuple[np.ndarray, int | None]:
    """Labels as booleans.

    Args:
        values: N labels.

    Returns:
        ``(N,)`` bool, and the position of the first value that is no label: neither true, false, 1 nor 0, such as a
        word, -1, NaN or nothing; None where all are labels. Such a value becomes False.
    """
    given = values if isinstance(values, np.ndarray) else list(values)
    array = np.asarray(given)
    if array.ndim == 1 and array.dtype.kind in "biuf":
        labels, fit = array == 1, (array == 0) | (array == 1)
    else:  # of several types, or words
        fit = np.array([_is_label(value) for value in given], bool)
        labels = np.array([good and bool(value) for good, value in zip(fit, given, strict=True)], bool)
    return labels, None if fit.all() else int(np.argmin(fit))


def _is_label(value: Any) -> bool:
    return isinstance(value, bool | np.bool_ | int | float | np.integer | np.floating) and value in (0, 1)
