# SPDX-License-Identifier: Apache-2.0
"""How fast a run is and how much memory it takes, for log and summaries."""

import statistics
from typing import Any, NamedTuple

import jax

from collab import accounting
from collab.accounting import trace
from collab.runtime import devices
from collab.training import logs
from collab.training.experiment import Experiment


class Meter(NamedTuple):
  """Computes speed, MFU and memory of a number of steps.

  Attributes:
    unit: what the task counts: 'tokens', ...
    units: how many of them a step takes, on all hosts.
    flops: FLOPs of a step, see `model_flops`.
    peak: peak of all devices together.
  """

  unit: str
  units: int
  flops: int
  peak: devices.Peak

  def row(self, steps: int, seconds: float, lost: float) -> dict[str, float]:
    """Speed, model FLOPs utilisation if the peak is known, and memory.

    Args:
      steps: number of steps.
      seconds: that they took.
      lost: seconds of these in which the devices waited for input, see
        feed.Feed.
    """
    rate = steps / seconds
    speed = {f'{self.unit}_per_second': rate * self.units}
    if self.peak.flops:
      speed['mfu'] = rate * self.flops / self.peak.flops
    return speed | dict(input_wait=lost / seconds) | devices.peak_bytes()


def meter(made: Experiment, params: Any) -> Meter:
  """The Meter of an experiment; prints what it measures with."""
  task, peak = made.task, devices.peak(made.mesh)
  flops = model_flops(made, params)
  rate = f'{accounting.si(peak.flops)}FLOP/s, ' if peak.flops else ''
  logs.summary(
    'a training step',
    {
      task.unit: f'{task.units_per_step:,}',
      'model': f'{accounting.si(flops)}FLOP, of three forward passes',
      'peak of devices': rate + peak.source,
      **_memory([devices.peak_bytes()]),
    },
  )
  return Meter(task.unit, task.units_per_step, flops, peak)


def used(rows: list[dict]) -> dict[str, str]:
  """Utilisation, memory and waits of a run, in words, by its log's rows."""
  found = _memory(rows)
  if mfu := [row['mfu'] for row in rows if 'mfu' in row]:
    found['MFU'] = f'{statistics.median(mfu):.3g}, median of the log'
  if timed := [row for row in rows if 'input_wait' in row]:
    seconds = sum(row['time/seconds'] for row in timed)
    lost = sum(row['time/seconds'] * row['input_wait'] for row in timed)
    found['waits for input'] = f'{lost / seconds:.2%} of {seconds:,.0f} s'
  return found


def _memory(rows):
  found = {
    told: max((row.get(name, 0) for row in rows), default=0)
    for name, told in devices.BYTES.items()
  }
  return {told: f'{accounting.si(x)}B' for told, x in found.items() if x}


def model_flops(made: Experiment, params: Any) -> int:
  """FLOPs that the model needs for a training step, on all hosts.

  Three times those of a forward pass: a product has two in the backward pass,
  one for each factor (Chowdhery et al., 2022, PaLM, appendix B). What is
  computed again, by remat or by kernels that are linear in memory, is the
  hardware's work and not the model's, so this is no count of the compiled
  program: its cost_analysis has all of that, and a scan's body only once.
  """

  def forward(params, batch, key):
    return made.task.loss(made.model, params, batch, dict(dropout=key))

  flops = trace.flops(forward, params, made.task.batch(0), jax.random.key(0))
  return 3 * flops * jax.process_count()
