# SPDX-License-Identifier: Apache-2.0
"""The context of a run's training loop: its log, its progress, its signals.

Within it Ctrl-C and SIGTERM ask the loop to save and stop.
"""

from collections.abc import Callable, Iterator
import contextlib
from typing import Any, NamedTuple

from collab.runtime import checkpoint, interrupt, processes
from collab.training import logs, profile, speed
from collab.training.experiment import Experiment


class Session(NamedTuple):
  """What the training loop writes to, and what may stop it.

  Attributes:
    writer: logs.Writer of rows of metrics.
    progress: progress on the terminal.
    meter: steps and seconds -> speed and memory.
    trace: called after every step with its number and what it computed.
    stopped: function of the step just done -> whether to stop after it. All
      processes have to call it after every step.
  """

  writer: logs.Writer
  progress: logs.Progress
  meter: speed.Meter
  trace: Callable[[int, Any], None]
  stopped: Callable[[int], bool]


@contextlib.contextmanager
def opened(
  made: Experiment,
  checkpoints: checkpoint.Checkpoints,
  step: int,
  params: Any,
  traced: range,
  eval_only: bool,
) -> Iterator[Session]:
  """Opens the logs of a run that goes on from a step; closes all at the end.

  With `eval_only`, whose loop has no steps, there are no logs.

  Args:
    made: the run.
    checkpoints: of the run, closed at the end.
    step: that the run goes on from.
    params: of the model, for their shapes.
    traced: the steps that a profile is made of.
    eval_only: see above.

  Raises:
    OSError: at the end, if the last checkpoint could not be written.
    KeyboardInterrupt: at the end, if there was a Ctrl-C.
  """
  config, closing = made.config, contextlib.closing
  with interrupt.first_as_sigterm(), closing(checkpoints):
    if eval_only:
      yield Session(None, None, None, None, None)
      return
    meter = speed.meter(made, params)
    with (
      closing(logs.Writer(made.workdir, step, config.wandb)) as writer,
      closing(logs.Progress(step, config.total_steps)) as progress,
      closing(profile.Trace(made.workdir, traced, step)) as trace,
      processes.stop_signal() as stopped,
    ):
      yield Session(writer, progress, meter, trace.after, stopped)
