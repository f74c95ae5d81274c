"""The result rows of the fidelity benchmark, metric by metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agents.statistics import resampled_means, wilson_interval
from benchmarks.error_ratio import error_ratio
from benchmarks.held_out import HeldOut, Recorded
from benchmarks.picture_errors import PictureErrors
from benchmarks.proprioception_errors import ProprioceptionErrors
from benchmarks.results import Row, provenance
from benchmarks.rollout_errors import QUANTITIES, RolloutErrors, TokenErrors, worst_tenth_auroc


class FidelityRows:
    """Collects the rows of one run.

    Args:
        task: of the worlds.
        chunks: action chunks M of a rollout.
        worlds: how many worlds one table is of.
        seed: of the noise and of the bootstrap.
    """

    def __init__(self, task: str, chunks: int, worlds: int, seed: int) -> None:
        self.task, self.chunks, self.worlds, self.seed = task, chunks, worlds, seed
        self.rows: list[Row] = []
        self.facts = provenance()

    def add(
        self, method: str, metric: str, setting: str, value: float, samples: np.ndarray | None, n: int, unit: str
    ) -> None:
        """A row; its interval is that of ``samples``, resampled values."""
        low, high = (None, None) if samples is None else map(float, np.quantile(samples, [0.025, 0.975]))
        seeds = f"{self.worlds} world{'s' * (self.worlds > 1)}, noise {self.seed}"
        self.rows.append(
            Row("fidelity", self.task, method, metric, setting, value, low, high, n, seeds, unit, **self.facts)
        )

    def add_mean(self, method: str, metric: str, setting: str, values: np.ndarray, unit: str) -> None:
        """The row of a mean over worlds and episodes ``(worlds, E)``."""
        samples = resampled_means(values, seed=self.seed)
        self.add(method, metric, setting, float(values.mean()), samples, values.shape[1], unit)

    def add_ratio(self, method: str, metric: str, setting: str, ours: np.ndarray, theirs: np.ndarray) -> None:
        """The row of one mean error over another, both of ``(worlds, E)``."""
        value, samples = error_ratio(ours, theirs, self.seed)
        self.add(method, metric, setting, value, samples, ours.shape[1], "1")

    def add_probe_rows(self, probed: list[dict[str, tuple[float, float]]], n: int) -> None:
        """Errors of what the probes of the worlds read off n real frames."""
        for name in QUANTITIES:
            for column, metric, unit in ((0, f"{name}_error_cm", "cm"), (1, f"{name}_r2", "1")):
                value = float(np.mean([errors[name][column] for errors in probed]))
                self.add("encoder", metric, "real frames", value, None, n, unit)

    def add_rollout_rows(self, method: str, worlds: Sequence[TokenErrors], recorded: Recorded) -> None:
        """Errors of one method's states, in tokens and, where the simulator's truth is known, in centimetres."""
        self.worlds = len(worlds)  # not every world has every method
        measured = [world for world in worlds if isinstance(world, RolloutErrors)]
        single = method == "latent_projection"
        for chunk in range(worlds[0].token.shape[1]):
            setting = "one chunk, encoded" if single else f"chunks={chunk + 1}"
            for metric, error, still in (
                ("token_l1_vs_persistence", [w.token for w in worlds], [w.persistence for w in worlds]),
                ("still_token_l1_vs_persistence", [w.still[0] for w in worlds], [w.still[1] for w in worlds]),
            ):
                if method != "real frames":
                    self.add_ratio(method, metric, setting, _column(error, chunk), _column(still, chunk))
            for name in QUANTITIES if measured else ():
                distance = _column([world.centimetres[name] for world in measured], chunk)
                self.add_mean(method, f"{name}_error_cm", setting, distance, "cm")
            if not single and method not in ("persistence", "real frames") and len(recorded.kinds) > 1:
                spread = float(np.mean([world.spread_ratio[chunk] for world in worlds]))
                self.add(method, "feature_spread_ratio", setting, spread, None, len(recorded.kinds), "1")
        if isinstance(recorded, HeldOut) and not single:
            imagined = np.stack([world.lifted for world in measured])
            self._add_grasp_rows(method, f"chunks={self.chunks}", imagined[:, :, -1], recorded.lifted[:, -1], recorded)
            # Success ends an episode of the environment: a lift that is dropped again counts there, too.
            ever = imagined.any(axis=2), recorded.lifted.any(axis=1)
            self._add_grasp_rows(method, f"chunks=1..{self.chunks}", *ever, recorded)
        if worlds[0].uncertainty is not None:
            self._add_uncertainty_rows(method, worlds)

    def add_picture_rows(self, method: str, worlds: Sequence[PictureErrors]) -> None:
        """Errors of one method's pictures at every horizon."""
        self.worlds = len(worlds)
        for chunk in range(worlds[0].pixel.shape[1]):
            setting, pixel = f"chunks={chunk + 1}", _column([world.pixel for world in worlds], chunk)
            for metric, still in (
                ("pixel_l1_vs_persistence", [world.persistence for world in worlds]),
                ("pixel_l1_vs_background", [world.background for world in worlds]),
            ):
                self.add_ratio(method, metric, setting, pixel, _column(still, chunk))
            self.add_mean(method, "ssim", setting, _column([world.ssim for world in worlds], chunk), "1")
            self.add_mean(method, "psnr_db", setting, _column([world.psnr for world in worlds], chunk), "dB")

    def add_decoder_row(self, worlds: Sequence[PictureErrors]) -> None:
        """Error of decoded real states over that of the background alone, over all of an episode's frames."""
        self.worlds = len(worlds)
        ours, theirs = (
            np.stack([table.mean(axis=1) for table in part])
            for part in ([world.pixel for world in worlds], [world.background for world in worlds])
        )
        self.add_ratio("rgb_decoder", "pixel_l1_vs_background", "real frames", ours, theirs)

    def add_proprioception_rows(
        self, method: str, worlds: Sequence[ProprioceptionErrors], still: Sequence[ProprioceptionErrors]
    ) -> None:
        """Errors of one method's proprioception at every horizon, each value's and all over those of ``still``."""
        self.worlds = len(worlds)
        _, chunks, count = worlds[0].values.shape
        for chunk in range(chunks):
            setting = f"chunks={chunk + 1}"
            self.add_ratio(
                method, "proprioception_vs_persistence", setting,
                _column([world.standardised for world in worlds], chunk),
                _column([world.standardised for world in still], chunk),
            )  # fmt: skip
            for value in range(count):
                errors = _column([world.values[:, :, value] for world in worlds], chunk)
                self.add_mean(method, f"proprioception_{value}_error", setting, errors, "robot's own")

    def add_agreement_row(self, method: str, setting: str, agreed: np.ndarray) -> None:
        """Share of the episodes whose label a method gives ``(worlds, E)`` bool."""
        self.worlds = len(agreed)
        self.add_mean(method, "success_agreement", setting, agreed, "fraction")
        self._exact_where_one_world(agreed)

    def add_success_rows(self, method: str, detected: np.ndarray, held_out: HeldOut) -> None:
        """Success that each world's detector finds in imagined states ``(worlds, E, M)``, against the simulator's."""
        self.worlds = len(detected)
        names = ("false_success_rate", "missed_success_rate", "success_balanced_accuracy")
        span = f"chunks=1..{self.chunks}"
        self._add_grasp_rows(method, span, detected.any(axis=2), held_out.succeeded.any(axis=1), held_out, names)

    def _add_grasp_rows(
        self,
        method: str,
        setting: str,
        imagined: np.ndarray,
        happened: np.ndarray,
        held_out: HeldOut,
        names: tuple[str, str, str] = ("false_lift_rate", "missed_lift_rate", "grasp_balanced_accuracy"),
    ) -> None:
        """Imagined outcomes ``(worlds, E)`` against real ones ``(E,)``, of all episodes and of each kind."""
        for kind in ("", *sorted(set(held_out.kinds))):
            chosen = held_out.kinds == kind if kind else np.ones(len(happened), bool)
            rates, samples = [], []
            for metric, among, wrong in (
                (names[0], chosen & ~happened, imagined),
                (names[1], chosen & happened, ~imagined),
            ):
                if not among.any():
                    continue
                hits = wrong[:, among]
                rates.append(float(hits.mean()))
                samples.append(resampled_means(hits, seed=self.seed))
                label = f"{setting},kind={kind}" if kind else setting
                self.add(method, metric, label, rates[-1], samples[-1], int(among.sum()), "fraction")
                self._exact_where_one_world(hits)
            if not kind and len(rates) == 2:
                self.add(method, names[2], setting, 1 - sum(rates) / 2, 1 - np.mean(samples, axis=0),
                         len(happened), "fraction")  # fmt: skip

    def _exact_where_one_world(self, hits: np.ndarray) -> None:
        """Give the last row, a share of hits ``(worlds, E)`` bool, the exact interval: it says something at 0 and 1."""
        if self.worlds == 1:
            low, high = wilson_interval(int(hits.sum()), hits.size)
            self.rows[-1] = replace(self.rows[-1], low=low, high=high)

    def _add_uncertainty_rows(self, method: str, worlds: Sequence[TokenErrors]) -> None:
        """The uncertainty of each prediction against its actual error: order, and size."""
        scores = [worst_tenth_auroc(w.token, w.uncertainty) for w in worlds if w.uncertainty is not None]
        count, span = worlds[0].token.size, f"chunks=1..{self.chunks}"
        self.add(method, "uncertainty_auroc", span, float(np.mean(scores)), None, count, "1")
        for chunk in range(worlds[0].token.shape[1]):
            expected = np.stack([w.uncertainty[:, chunk] for w in worlds if w.uncertainty is not None])
            actual = np.stack([w.token[:, chunk] for w in worlds])
            self.add_ratio(method, "uncertainty_vs_error", f"chunks={chunk + 1}", expected, actual)


def _column(tables: Sequence[np.ndarray], chunk: int) -> np.ndarray:
    """The column of a chunk of tables ``(E, M)``, one a world: ``(worlds, E)``."""
    return np.stack([table[:, chunk] for table in tables])
