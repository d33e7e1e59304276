# SPDX-License-Identifier: Apache-2.0
"""A profiler's trace of some steps of a run."""

from typing import Any

import jax

from collab.io import buckets


class Trace:
  """Traces steps into workdir/profile, on process 0.

  Args:
    workdir: of the run.
    steps: the steps to trace, counted from 1, without those that are done.
    done: steps that the run has done.

  Raises:
    OSError: the folder cannot be made.
  """

  def __init__(self, workdir: str, steps: range, done: int):
    self._kept, self._first = buckets.at(workdir) / 'profile', None
    self._folder = buckets.staging(workdir) / 'profile'
    self._steps = steps if jax.process_index() == 0 else range(0)
    if self._steps:
      self._folder.mkdir(exist_ok=True)
    if self._steps and done >= self._steps[-1]:
      print(f'The run is at step {done}: nothing is left to trace.')
    self.after(done)

  def after(self, step: int, result: Any = None) -> None:
    """Starts or ends the trace after a step, once its result is computed."""
    inside = step + 1 in self._steps
    if inside != (self._first is not None):
      jax.block_until_ready(result)  # the trace has whole steps alone
      if inside:
        self._first = step + 1
        jax.profiler.start_trace(self._folder)
      else:
        self.close()

  def close(self) -> None:
    """Ends a trace that has begun."""
    if self._first is not None:
      jax.profiler.stop_trace()
      if buckets.is_url(self._kept):
        buckets.upload(self._folder, self._kept, {})
      print(
        f'The trace from step {self._first} on is in {self._kept}: pip '
        f'install xprof, then xprof --logdir={self._kept}'
      )
      self._first = None
