"""How the processes of one training share its environments, and the samples that these give."""

from __future__ import annotations

from torch import Tensor

from world_models.distributed.processes import Processes


class EnvShards:
    """Contiguous shares of environments, one for each process; the training stays that of one process.

    Sample ``t * num_envs + e`` of an iteration is that of environment e at step t, whoever steps it. All processes draw
    the same random numbers for all environments and the same minibatches of all samples; each takes its share.

    Args:
        num_envs: environments of all processes together.
        processes: those that share them.

    Attributes:
        num_envs: as given.
        processes: as given.
        local: numbers of this process's environments.

    Raises:
        ValueError: the environments cannot be shared evenly.
    """

    def __init__(self, num_envs: int, processes: Processes) -> None:
        if num_envs % processes.count:
            raise ValueError(f"num_envs={num_envs} cannot be shared evenly by {processes.count} processes")
        share = num_envs // processes.count
        self.num_envs, self.processes = num_envs, processes
        self.local = range(processes.rank * share, (processes.rank + 1) * share)

    def take(self, rows: Tensor) -> Tensor:
        """This process's rows (B, ...) of rows for all environments (num_envs, ...)."""
        return rows[self.local.start : self.local.stop]

    def concatenate(self, steps: Tensor) -> Tensor:
        """All processes' samples (T * num_envs,), in their order, of this process's (T, B)."""
        return self.processes.concatenate(steps.T.contiguous()).T.flatten()

    def locate(self, samples: Tensor) -> tuple[Tensor, Tensor | slice]:
        """Where this process has its share of a minibatch.

        Args:
            samples: numbers of samples of all processes, (M,) int64.

        Returns:
            Rows (m,) in this process's own samples (T * B, ...), and which of the M they are: a mask (M,), or a slice
            of all.
        """
        if self.processes.count == 1:
            return samples, slice(None)
        step, env = samples // self.num_envs, samples % self.num_envs
        mask = (env >= self.local.start) & (env < self.local.stop)
        return (step * len(self.local) + env - self.local.start)[mask], mask
