# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints of a run Orbax keeps, and which it deletes."""

from collections.abc import Callable
from typing import NamedTuple

from orbax.checkpoint import checkpoint_managers as policies


def policy(
  keep: int, scheduled: Callable, rank: Callable | None
) -> policies.PreservationPolicy:
  """Keeps the newest, the newest `keep` scheduled ones, and the best.

  Args:
    keep: how many.
    scheduled: step -> whether it counts against `keep`.
    rank: metrics -> number, the greater the better; None for no best one.
  """
  kept = [policies.LatestN(1), _LatestScheduled(keep, scheduled)]
  if rank:
    kept.append(
      policies.BestN(
        get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False
      )
    )
  return policies.AnyPreservationPolicy(kept)


class _LatestScheduled(NamedTuple):
  """An Orbax policy for the newest `keep` checkpoints of an undisturbed run."""

  keep: int
  scheduled: Callable

  def should_preserve(self, checkpoints, *, context):
    steps = [c.step for c in checkpoints if self.scheduled(c.step)]
    newest = set(steps[-self.keep :])
    return [c.step in newest for c in checkpoints]
