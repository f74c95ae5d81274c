"""Reset seeds by purpose. The ranges never overlap, so a report never judges on states that trained anything."""

from __future__ import annotations

COLLECT_SEED_RANGE = range(0, 500_000)
"""Reset seeds that data collection may use."""

VALIDATION_SEEDS = range(500_000, 1_000_000)
"""Reset seeds for choosing checkpoints and settings in the simulator."""

REPORT_SEEDS = range(1_000_000, 2_000_000)
"""Reset seeds of published ground-truth results, and of nothing else."""
