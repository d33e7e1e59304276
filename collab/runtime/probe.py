# SPDX-License-Identifier: Apache-2.0
"""Compares the processes of a run before they compute.

Processes that differ would wait for each other at the first checkpoint, or
train with different programs. All end with a line that says how they differ.
"""

import contextlib
import importlib.metadata
import pathlib
import socket
import time

from flax import traverse_util

from collab.io import buckets
from collab.runtime import changes, processes, provenance

SEEN = 15  # seconds until each host of a network's folder sees a new file


def same_run(values: dict) -> None:
  """Refuses processes with other values, code or numerics.

  Args:
    values: nested dict; the config among others.

  Raises:
    ValueError: the processes differ.
  """
  values = traverse_util.flatten_dict(values, sep='.')
  facts = dict(
    code=provenance.sources(),
    jax=importlib.metadata.version('jax'),
    jaxlib=importlib.metadata.version('jaxlib'),
    **changes.numerics(),
    **{name: str(value) for name, value in values.items()},
  )
  processes.agree('one config and code', facts)


def one_folder(path: pathlib.Path) -> None:
  """Refuses processes that do not read what process 0 has written.

  Args:
    path: file of random content.

  Raises:
    ValueError: a process does not see this content.
  """
  written = processes.alone('the workdir', path.read_text)
  limit = time.monotonic() + SEEN

  def seen():
    with contextlib.suppress(OSError):
      return path.read_text() == written

  while not (found := seen()) and time.monotonic() < limit:
    time.sleep(0.1)
  place = f'{socket.gethostname()}:{buckets.absolute(path.parent)}'
  places = processes.exchange('one workdir', [place, bool(found)])
  for process, (place, found) in enumerate(places):
    if not found:
      raise ValueError(
        f'process {process} of {len(places)} does not see in {place} what '
        f'process 0 has written to {places[0][0]}; expected one --workdir that '
        'all processes share.'
      )
