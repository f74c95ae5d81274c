"""Seeds for torch's generators, of which the CPU's heeds no more than 32 bits."""

from __future__ import annotations

import numpy as np


def hashed_seed(*entropy: int) -> int:
    """One seed of 32 bits that all of these numbers, none of them negative, decide."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
