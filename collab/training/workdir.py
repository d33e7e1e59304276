# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: its config, kept so that the folder alone can resume."""

import fcntl
import hashlib
import json
import os
import pathlib
import socket
import sys
import zlib

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np

from collab import json_text
from collab.training import files, logs

# What any config has.
PARTS = dict(task=dict, data=dict, model=dict, optim=dict, checkpoint=dict)
PARTS |= dict(total_steps=int, seed=int, init_from=str)
# How a step is computed, not what: a run may go on with others of these.
FREE = ('fsdp', 'accumulate', 'skip_nonfinite')


def default(config_file, config):
  """runs/<config>[-<argument>]-s<seed>, from the value of --config."""
  name, _, argument = config_file.partition('.py:')
  name = pathlib.Path(name.removesuffix('.py')).name
  words = [name, *argument.replace('=', '').split(',')]
  return f'runs/{"-".join(filter(None, words))}-s{config.seed}'


def claim(config, workdir):
  """Starts a run in a new workdir, or goes on in one of the same config.

  But for `FREE`: the workdir keeps what the run began with, a start that gives
  others has them for itself.

  Args:
    config: ConfigDict, or None for the one that the workdir keeps.
    workdir: path; made if need be.

  Returns:
    The run's config, locked.

  Raises:
    ValueError: config is None and the workdir keeps none; or it keeps another,
      and then the message says what differs.
  """
  folder = pathlib.Path(workdir)
  path = folder / 'run.json'
  kept = read(workdir)['config'] if path.exists() else None
  if config is None:
    if kept is None:
      raise ValueError(f'{path} is missing: start the run with --config.')
    try:
      return ConfigDict(kept).lock()
    except (ValueError, TypeError, LookupError, AttributeError) as e:
      raise ValueError(f'{path} is damaged: {" ".join(str(e).split())}') from e
  values = config.to_dict()
  if kept is not None:
    old, new = _flat(kept), _flat(values)
    different = [
      f'{key} is {old.get(key)!r}, got {new.get(key)!r}'
      for key in old | new
      if old.get(key) != new.get(key) and key not in FREE
    ]
    if different:
      raise ValueError(
        f'{workdir} is of another config: {"; ".join(different)}.'
      )
  elif any(folder.glob('checkpoints/[0-9]*')):
    raise ValueError(
      f'{workdir} has checkpoints, but no run.json that says of which config.'
    )
  elif jax.process_index() == 0:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ('tokenizer.json', 'data.json'):  # of a failed start
      (folder / name).unlink(missing_ok=True)
    if config.init_from:
      _take_tokenizer(config, folder)
    files.save_json(
      path,
      dict(
        command=' '.join(['python', *sys.argv]),
        versions=logs.versions(),
        config=values,
      ),
    )
  return config


def _take_tokenizer(config, folder):
  """Copies the tokenizer of config.init_from, if that run has one."""
  source = pathlib.Path(config.init_from)
  if not (source / 'run.json').exists():
    raise ValueError(f'init_from={source} is no workdir: it has no run.json.')
  kept = source / 'tokenizer.json'
  if not kept.exists():
    return
  if config.data.vocabulary:
    raise ValueError(
      f'data.vocabulary={config.data.vocabulary}, but init_from={source} '
      'brings its own.'
    )
  files.write_text(folder / kept.name, kept.read_text('utf-8'))


def lock(workdir):
  """Makes this process the only run in a workdir, for as long as it lives.

  Raises:
    ValueError: another one is.
    OSError: the file cannot be written.
  """
  if jax.process_index() != 0:
    return
  path = pathlib.Path(workdir) / 'lock'
  file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # closed by its end
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    holder = os.read(file, 200).decode(errors='replace') or 'another process'
    raise ValueError(
      f'{workdir} is in use by {holder}; expected one run at a time.'
    ) from None
  except OSError as e:  # some network file systems
    told = '%s cannot be locked (%s): see that no other run uses it.'
    logging.warning(told, workdir, e.strerror)
  with files.naming(path):
    os.ftruncate(file, 0)
    os.write(file, f'process {os.getpid()} on {socket.gethostname()}'.encode())


def check_data(workdir, task, steps):
  """Refuses to go on with other data than the run began with.

  Compared are the checksum in what the task says of its data, which those of
  text have, and one of five batches from all over the run, of this process'
  share: with another number of processes the text alone.

  Args:
    workdir: keeps them in data.json.
    task: tasks.Task.
    steps: of the run.

  Raises:
    ValueError: the data has changed, or the file is damaged.
  """
  if jax.process_index() != 0:  # one reads all of the data for all
    return
  path = pathlib.Path(workdir) / 'data.json'
  crc = 0
  for step in sorted({i * max(steps - 1, 0) // 4 for i in range(5)}):
    for name, x in sorted(task.batch(step).items()):
      crc = zlib.crc32(np.ascontiguousarray(x), zlib.crc32(name.encode(), crc))
  now = {k: x for k, x in task.describe().items() if k == 'checksum'}
  now[f'checksum of batches, {jax.process_count()} processes'] = f'{crc:08x}'
  if not path.exists():
    files.save_json(path, now)
    return
  old = json_text.read_object(path)
  if changed := [
    f'{key} was {old[key]}, is {now[key]}'
    for key in now
    if key in old and now[key] != old[key]
  ]:
    raise ValueError(
      f'{workdir}: the data is not what the run began with: '
      f'{"; ".join(changed)}.'
    )


def abandon(workdir):
  """Forgets a run that failed before its first checkpoint."""
  folder = pathlib.Path(workdir)
  steps = folder / 'checkpoints'
  if not any(steps.glob('[0-9]*')) and jax.process_index() == 0:
    (folder / 'run.json').unlink(missing_ok=True)


def read(workdir):
  """What `claim` kept: dict(command, versions, config).

  Raises:
    ValueError: it is damaged.
  """
  path = pathlib.Path(workdir) / 'run.json'
  kept = json_text.read_object(path)
  config = kept.get('config')
  if not isinstance(config, dict):
    raise ValueError(f'{path} is damaged: it has no config.')
  for name, kind in PARTS.items():
    if not isinstance(config.get(name), kind):
      raise ValueError(
        f'{path} is damaged: config.{name} is {config.get(name)!r}, expected '
        f'{kind.__name__}.'
      )
  # Runs that began before there was skip_nonfinite have none.
  return kept | dict(config=dict(skip_nonfinite=0) | _tuples(kept['config']))


def read_model(workdir):
  """All fields of models.build, what the data decides included.

  Raises:
    ValueError: the workdir does not have them, or they are damaged.
  """
  path = pathlib.Path(workdir) / 'model.json'
  if not path.exists():
    raise ValueError(
      f'{path} is missing; train.py --workdir={workdir} --eval_only writes it.'
    )
  fields = _tuples(json_text.read_object(path))
  if 'image_size' in fields:  # until `channels` was a field, the data said it
    data = read(workdir)['config']['data']
    fields = dict(channels=len(data.get('mean', 'RGB'))) | fields
  return fields


def config_hash(config):
  """Twelve hexadecimal digits that change with any value of the config."""
  text = json.dumps(config.to_dict(), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def _tuples(x):
  """JSON's lists as the tuples that they were."""
  if isinstance(x, dict):
    return {key: _tuples(value) for key, value in x.items()}
  return tuple(map(_tuples, x)) if isinstance(x, list) else x


def _flat(config, prefix=''):
  flat = {}
  for key, value in config.items():
    if isinstance(value, dict):
      flat |= _flat(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = value
  return flat
