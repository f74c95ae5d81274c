"""A contender that doubts where several trainings disagree: each rollout is one member's of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from world_models.base import Prediction
from world_models.mixer.dynamics import RegressionWorldModel


class EnsembleRegression(RegressionWorldModel):
    """Regressions of several trainings; one lasting number of noise chooses which of them predicts an episode."""

    stochastic: ClassVar[bool] = True
    prediction_noise = (1, 1)
    lasting_noise = 1
    members: nn.ModuleList

    @classmethod
    def of(cls, members: Sequence[RegressionWorldModel]) -> EnsembleRegression:
        """One of these members, which see states of one encoder.

        Raises:
            ValueError: fewer than two, or of different encoders.
        """
        first = members[0]
        if len(members) < 2 or len({member.encoder.fingerprint() for member in members}) > 1:
            raise ValueError(f"an ensemble takes two regressions or more over one encoder, got {len(members)}")
        model = cls(first.config, first.encoder, first.rgb_decoder)
        model.regression = first.regression
        model.members = nn.ModuleList(member.regression for member in members)
        return model.eval()

    def _predict_once(
        self, features: Tensor, actions: Tensor, noise: Tensor | None, solver_steps: int | None, error: Tensor | None
    ) -> Prediction:
        assert noise is not None
        share = torch.special.ndtr(noise[:, 0, 0])  # uniform within [0, 1]
        chosen = (share * len(self.members)).long().clamp(max=len(self.members) - 1)
        reached = features.clone()
        expected = features.new_zeros(features.shape[:2])
        for number, member in enumerate(self.members):
            rows = chosen == number
            if rows.any():
                predicted = member(features[rows], actions[rows], error=None if error is None else error[rows])
                reached[rows] += predicted.residual.float()
                expected[rows] = predicted.error
        return Prediction(reached, expected, self.regression.expected_error.uncertainty(expected))
