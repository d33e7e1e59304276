# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: its config, kept so that the folder alone can resume."""

import fcntl
import os
import pathlib
import shlex
import socket
import sys
import zlib

from absl import flags, logging
import jax
from ml_collections import ConfigDict, config_flags
import numpy as np

from collab import command
from collab.io import atomic, json_text, text_lines
from collab.runtime import changes, identity, provenance

# What any config has.
PARTS = dict(task=dict, data=dict, model=dict, optim=dict, checkpoint=dict)
PARTS |= dict(total_steps=int, seed=int, init_from=str)
# In a workdir until there is a checkpoint: see `begin`.
BEGUN = 'checkpoints/begun'

_written = set()  # the files run.json that this process has written


def default(config_file, config):
  """runs/<config>[-<argument>]-s<seed>, from the value of --config."""
  name, _, argument = config_file.partition('.py:')
  name = pathlib.Path(name.removesuffix('.py')).name
  words = [name, *argument.replace('=', '').split(',')]
  return f'runs/{"-".join(filter(None, words))}-s{config.seed}'


def override(workdir, arguments):
  """The config that a workdir keeps, with what a command line changes.

  Args:
    workdir: of a run.
    arguments: the program, and --config.FIELD=VALUE for each change.

  Raises:
    ValueError: there is no run.
    flags.Error, KeyError, AttributeError: as with --config=FILE.
  """
  values = flags.FlagValues()
  config = config_flags.DEFINE_config_dict(
    'config', claim(None, workdir), flag_values=values, sys_argv=arguments
  )
  values(arguments)
  return config.value


def claim(config, workdir):
  """Starts a run in a new workdir, or goes on in one of the same config.

  What of the config may be another says `changes`; see also `go_on`.

  Args:
    config: ConfigDict, or None for the one that the workdir keeps.
    workdir: path; made if need be.

  Returns:
    The run's config, locked.

  Raises:
    ValueError: config is None and the workdir keeps none; or it keeps another,
      and then the message says what differs; or a link leads out of it.
  """
  folder = pathlib.Path(workdir)
  path = folder / 'run.json'
  if config is None:
    if not path.exists():
      raise ValueError(f'{path} is missing: start the run with --config.')
    kept = read(workdir)
    try:
      return ConfigDict(kept['config']).lock()
    except (ValueError, TypeError, LookupError, AttributeError) as e:
      raise ValueError(f'{path} is damaged: {" ".join(str(e).split())}') from e
  if not callable(getattr(config, 'to_dict', None)):
    raise ValueError(f'--config gave {config!r}, expected a ConfigDict.')
  command.with_paths(config)
  _check_parts(config.to_dict(), '--config is not whole')
  check_links(workdir)
  if path.exists():
    changes.check(read(workdir), config, workdir)
  elif any(folder.glob('checkpoints/[0-9]*')) or _has_rows(folder):
    raise ValueError(
      f'{workdir} has checkpoints or rows of metrics, but no run.json that '
      'says of which config.'
    )
  elif jax.process_index() == 0:
    folder.mkdir(parents=True, exist_ok=True)
    # Of a failed start:
    for name in ('tokenizer.json', 'data.json', 'model.json', 'changes.json'):
      (folder / name).unlink(missing_ok=True)
    if config.init_from:
      _take_tokenizer(config, folder)
    atomic.save_json(
      path,
      dict(
        command=shlex.join(['python', *sys.argv]),
        versions=provenance.versions(),
        numerics=changes.numerics(),
        config=config.to_dict(),
      ),
    )
    _written.add(path.absolute())
  return config


def go_on(config, workdir, step, rates, eval_only=False):
  """Notes in changes.json what is new from `step` on; `read` has it then.

  Args:
    config: of `claim`.
    workdir: of the run.
    step: that it goes on from.
    rates: total_steps -> the schedule of the learning rate with so many.
    eval_only: nothing is noted.

  Raises:
    ValueError: as `changes.found`; or an evaluation is to have other steps.
  """
  kept = read(workdir)
  if eval_only:
    if (total := kept['config']['total_steps']) != config.total_steps:
      raise ValueError(
        f'--eval_only takes {workdir} as it is, of total_steps={total}; got '
        f'{config.total_steps}.'
      )
    return
  new = changes.found(kept, config, step, workdir, rates)
  if new and jax.process_index() == 0:
    atomic.save_json(
      pathlib.Path(workdir) / 'changes.json',
      dict(changes=kept['changes'] + new),
    )


def check_links(workdir):
  """Refuses links out of a workdir: through them a run would write elsewhere.

  Those in the folder of Weights & Biases are its own.

  Raises:
    ValueError: there is one.
  """
  root = pathlib.Path(workdir).resolve()
  for folder, folders, names in os.walk(root):
    for path in (pathlib.Path(folder, name) for name in folders + names):
      if path.is_symlink() and not path.resolve().is_relative_to(root):
        raise ValueError(
          f'{path} is a link to {os.readlink(path)}, which is not in the '
          'workdir, and nothing is written elsewhere: put the file or folder '
          'in its place.'
        )
    if folder == str(root) and 'wandb' in folders:
      folders.remove('wandb')


def begin(workdir):
  """Marks that a run begins; refuses where its rows say that it has.

  The mark is beside the checkpoints until there is one. It tells a run that was
  killed before from one whose checkpoints are out of reach.

  Raises:
    ValueError: there are rows, and neither checkpoint nor mark.
  """
  folder = pathlib.Path(workdir)
  if _has_rows(folder) and not (folder / BEGUN).exists():
    raise ValueError(
      f'{folder}/metrics.jsonl has rows, but {folder}/checkpoints has no '
      'checkpoint: bring back what is missing (a volume that is not mounted?), '
      'or begin in another workdir.'
    )
  if jax.process_index() == 0:
    (folder / BEGUN).touch()


def _has_rows(folder):
  path = folder / 'metrics.jsonl'
  return path.exists() and path.stat().st_size > 0


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
  atomic.write_text(folder / kept.name, text_lines.whole(kept))


def lock(workdir):
  """Makes this process the only run in a workdir, for as long as it lives.

  Raises:
    ValueError: another one is.
    OSError: the file cannot be written.
  """
  if jax.process_index() != 0:
    return
  path = pathlib.Path(workdir) / 'lock'
  # Closed by its end. A link may have been made since `check_links`.
  file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
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
  with atomic.naming(path):
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
    steps: of the run when it began.

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
    atomic.save_json(path, now)
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
  """Forgets a run that this process began and that failed before its rows.

  What others began stays: if there are no checkpoints, they may be out of
  reach.
  """
  folder = pathlib.Path(workdir)
  path = folder / 'run.json'
  if path.absolute() in _written and not _has_rows(folder):
    path.unlink(missing_ok=True)
    (folder / BEGUN).unlink(missing_ok=True)


def read(workdir):
  """What `claim` and `go_on` kept.

  Returns:
    dict(command, versions, numerics, config, changes, first_steps): the config
    after the changes, and its total_steps before them.

  Raises:
    ValueError: it is damaged.
  """
  path = pathlib.Path(workdir) / 'run.json'
  kept = json_text.read_object(path)
  config = kept.get('config')
  if not isinstance(config, dict):
    raise ValueError(f'{path} is damaged: it has no config.')
  if not isinstance(kept.get('numerics', {}), dict):
    raise ValueError(f'{path} is damaged: numerics is {kept["numerics"]!r}.')
  _check_parts(config, f'{path} is damaged')
  config = identity.upgrade(json_text.tuples(config))
  found = changes.read(path.with_name('changes.json'), config)
  steps = kept['config']['total_steps']
  return kept | dict(config=config, changes=found, first_steps=steps)


def _check_parts(config, fault):
  for name, kind in PARTS.items():
    if not isinstance(config.get(name), kind):
      raise ValueError(
        f'{fault}: config.{name} is {config.get(name)!r}, expected '
        f'{kind.__name__}.'
      )
