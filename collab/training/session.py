# SPDX-License-Identifier: Apache-2.0
"""The context of a run's training loop: its log, its progress, its signals.

Within it Ctrl-C and SIGTERM ask the loop to save and stop.
"""

from collections.abc import Callable, Iterator
import contextlib
from typing import NamedTuple

from collab.runtime import checkpoint, interrupt, processes
from collab.training import logs
from collab.training.experiment import Experiment


class Session(NamedTuple):
  """What the training loop writes to, and what may stop it.

  Attributes:
    writer: logs.Writer of rows of metrics.
    progress: progress on the terminal.
    stopped: function of the step just done -> whether to stop after it. All
      processes have to call it after every step.
  """

  writer: logs.Writer
  progress: logs.Progress
  stopped: Callable[[int], bool]


@contextlib.contextmanager
def opened(
  made: Experiment,
  checkpoints: checkpoint.Checkpoints,
  step: int,
  eval_only: bool,
) -> Iterator[Session]:
  """Opens the logs of a run that goes on from a step; closes all at the end.

  With `eval_only`, whose loop has no steps, there are no logs.

  Raises:
    OSError: at the end, if the last checkpoint could not be written.
    KeyboardInterrupt: at the end, if there was a Ctrl-C.
  """
  config, closing = made.config, contextlib.closing
  with interrupt.first_as_sigterm(), closing(checkpoints):
    if eval_only:
      yield Session(None, None, None)
      return
    with (
      closing(logs.Writer(made.workdir, step, config.wandb)) as writer,
      closing(logs.Progress(step, config.total_steps)) as progress,
      processes.stop_signal() as stopped,
    ):
      yield Session(writer, progress, stopped)
