# SPDX-License-Identifier: Apache-2.0
"""Decides which checkpoints of a run Orbax keeps."""

from collections.abc import Callable
from typing import NamedTuple

from orbax.checkpoint import checkpoint_managers as policies


def policy(
  keep: int, scheduled: Callable, rank: Callable | None
) -> policies.PreservationPolicy:
  """Makes the policy: keeps the newest, the last scheduled ones, and the best.

  Args:
    keep: number of scheduled checkpoints to keep.
    scheduled: function step -> whether it counts against `keep`.
    rank: function metrics -> number, the greater the better; None keeps no best
      checkpoint.
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
  """Keeps the newest `keep` checkpoints that an undisturbed run saves."""

  keep: int
  scheduled: Callable

  def should_preserve(self, checkpoints, *, context):
    steps = [c.step for c in checkpoints if self.scheduled(c.step)]
    newest = set(steps[-self.keep :])
    return [c.step in newest for c in checkpoints]
