# SPDX-License-Identifier: Apache-2.0
"""Writes a run's metrics to disk, and shows its progress on the terminal."""

from collections.abc import Mapping
import errno
import os
import pathlib
import sys
import time

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
import tqdm

from collab.io import atomic, buckets, json_text

EVERY = 10  # seconds at least between two copies to a bucket


class Writer:
  """Writes rows of metrics to workdir/metrics.jsonl, TensorBoard and W&B.

  A row is {"step": 7, "train/loss": 3.25, ...}, flushed as it is written. On
  resuming, rows after `resume_step` and an incomplete last line are removed.
  The rows of a step are written before the step is saved. So a run that was
  killed and resumed has the same file as an undisturbed one (except for
  `is_of_machine`).

  Args:
    workdir: workdir of the run.
    resume_step: step that the run resumes from, 0 for a new run.
    wandb: project at Weights & Biases, '' for none.

  Raises:
    ValueError: wandb is not installed, or a line of the file is not a row.
    OSError: the files cannot be written.
  """

  def __init__(self, workdir: str, resume_step: int = 0, wandb: str = ''):
    self._file = self._events = self._wandb = None
    if jax.process_index() != 0:
      return
    if wandb:
      self._wandb = _start_wandb(wandb, workdir)
    self._workdir, self._sizes, self._next = buckets.at(workdir), {}, 0.0
    folder = buckets.staging(workdir)
    (folder / 'tensorboard').mkdir(parents=True, exist_ok=True)
    self._folder, path = folder, folder / 'metrics.jsonl'
    rows = read_rows(self._workdir / 'metrics.jsonl')
    rows = [row for row in rows if row['step'] <= resume_step]
    atomic.write_text(
      path, ''.join(json_text.to_json(row) + '\n' for row in rows)
    )
    self._file = path.open('ab', buffering=0)
    # Not SummaryWriter: if its thread dies of a full disk, the caller blocks.
    self._events = EventsWriter(
      str(folder / 'tensorboard' / 'events'), f'.{os.getpid()}'
    )
    start = SessionLog(status=SessionLog.START)  # hides the removed rows
    self._event(step=resume_step + 1, session_log=start)

  def write(self, step: int, values: Mapping) -> None:
    """Writes a row atomically, or raises OSError.

    Args:
      step: step of the run.
      values: name -> scalar of Python, NumPy or JAX. They depend on config and
        step only, except those whose name is `is_of_machine`.
    """
    if self._file is None:
      return
    values = {name: json_text.scalar(value) for name, value in values.items()}
    row = (json_text.to_json(dict(step=int(step)) | values) + '\n').encode()
    numbers = [
      Summary.Value(tag=name, simple_value=value)
      for name, value in values.items()
      if not isinstance(value, str)
    ]
    with atomic.naming(self._file.name):
      if not os.fstat(self._file.fileno()).st_nlink:
        raise OSError(errno.ENOENT, 'The workdir was deleted during the run')
      size = self._file.tell()
      if self._file.write(row) < len(row):
        self._file.truncate(size)
        raise OSError(errno.ENOSPC, 'No space left on device')
      self._event(step=int(step), summary=Summary(value=numbers))
    if self._wandb:
      self._wandb.log(values, step=int(step))
    if time.monotonic() > self._next:
      self.flush()

  def flush(self) -> None:
    """Copies what has been written to a workdir in a bucket.

    An object cannot grow, so `write` copies all rows, from time to time; before
    a checkpoint they have to be there.
    """
    if self._file is not None and buckets.is_url(self._workdir):
      begun = time.monotonic()
      buckets.upload(self._folder, self._workdir, self._sizes)
      now = time.monotonic()
      self._next = now + max(EVERY, 20 * (now - begun))

  def close(self) -> None:
    if self._file is not None:
      self._events.close()
      self.flush()
      self._file.close()
    if self._wandb:
      self._wandb.finish()

  def _event(self, **fields):
    self._events.write_event(Event(wall_time=time.time(), **fields))
    self._events.flush()


class Progress:
  """Shows a progress bar on a terminal, otherwise a line for each `show`.

  Only process 0 shows it.

  Args:
    first: step that the run starts from.
    last: step that the run ends at.
  """

  def __init__(self, first: int, last: int):
    self._first, self._last, self._began = first, last, None
    self._silent = jax.process_index() != 0
    self._bar = None
    if not self._silent and sys.stderr.isatty():
      self._bar = tqdm.tqdm(
        total=last, initial=first, unit='step', dynamic_ncols=True
      )

  def step(self) -> None:
    """Counts one more step as done."""
    self._began = self._began or time.monotonic()  # compilation does not count
    if self._bar is not None:
      self._bar.update()

  def show(self, step: int, values: Mapping) -> None:
    """Shows values such as the loss, and the remaining time."""
    words = [f'{name} {value:.4g}' for name, value in values.items()]
    if self._bar is not None:
      self._bar.set_postfix_str(', '.join(words))
    elif not self._silent:
      words.insert(0, f'step {step}/{self._last}')
      if self._began and step > self._first + 1:
        spent = time.monotonic() - self._began
        left = spent * (self._last - step) / (step - self._first - 1)
        words.append(f'{tqdm.tqdm.format_interval(left)} left')
      print(', '.join(words), file=sys.stderr, flush=True)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()


def is_of_machine(name: str) -> bool:
  """Whether a metric depends on the machine: time, speed, waits, memory."""
  return (
    name in ('mfu', 'input_wait')
    or name.startswith('time/')
    or name.endswith(('per_second', 'peak_bytes'))
  )


def read_rows(path: str | pathlib.Path) -> list[dict]:
  """Reads metrics.jsonl without an incomplete last line; [] if missing.

  Raises:
    ValueError: another line is not a row.
  """
  path = buckets.at(path)
  lines = path.read_bytes().split(b'\n') if path.exists() else []
  rows = []
  for number, line in enumerate(lines, 1):
    try:
      row = json_text.parse(line.decode())
      row['step'] + 0
      rows.append(row)
    except (ValueError, TypeError, KeyError):
      if number < len(lines):
        raise ValueError(f'{path}, line {number}: no row of metrics.') from None
  return rows


def summary(title: str, values: Mapping) -> None:
  """Prints a title and a dict as two columns, on process 0."""
  if jax.process_index() == 0:
    width = max(map(len, values), default=0)
    lines = [f'  {name:<{width}}  {value}' for name, value in values.items()]
    print('\n'.join([title, *lines]), flush=True)


def _start_wandb(project, workdir):
  try:
    import wandb  # optional, and slow to import
  except ImportError:
    raise ValueError(
      f'wandb={project!r}, but wandb is not installed: pip install wandb'
    ) from None
  name = buckets.absolute(workdir).name
  return wandb.init(
    project=project,
    dir=str(buckets.staging(workdir)),
    id=name,
    name=name,
    resume='allow',
  )
