"""The plainest contender that doubts: the regression with Gaussian noise of the size that it expects of its errors."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from world_models.base import Prediction
from world_models.mixer.dynamics import RegressionWorldModel


class GaussianRegression(RegressionWorldModel):
    """A world's regression whose tokens err independently of each other, as it expects of one chunk.

    Its expected error of a chunk is the mean absolute error of a token's numbers; a Gaussian of that mean absolute
    value has a standard deviation of sqrt(pi / 2) times it.
    """

    stochastic: ClassVar[bool] = True

    @classmethod
    def around(cls, regression: RegressionWorldModel) -> GaussianRegression:
        """One with the weights of a world's regression."""
        model = cls(regression.config, regression.encoder, regression.rgb_decoder)
        model.regression = regression.regression
        model.prediction_noise = (model.num_tokens, model.channels)
        return model.eval()

    def _predict_once(
        self, features: Tensor, actions: Tensor, noise: Tensor | None, solver_steps: int | None, error: Tensor | None
    ) -> Prediction:
        assert noise is not None
        predicted = self.regression(features, actions)  # of this chunk alone: what went before is in the draw already
        spread = math.sqrt(math.pi / 2) * predicted.error[..., None]
        reached = features + predicted.residual.float() + spread * noise
        return Prediction(reached, predicted.error, self.regression.expected_error.uncertainty(predicted.error))
