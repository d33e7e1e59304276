# SPDX-License-Identifier: Apache-2.0
"""Manages the folder of a run, whose config lets the run resume by itself."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import os
import pathlib
import shlex
import sys

import jax
from ml_collections import ConfigDict

from collab import checks
from collab.io import atomic, buckets, json_text, paths, text_lines
from collab.runtime import (
  changes,
  identity,
  interrupt,
  lease,
  probe,
  provenance,
)

# Parts that every config has.
PARTS = dict(task=dict, data=dict, model=dict, optim=dict, checkpoint=dict)
PARTS |= dict(total_steps=int, seed=int, init_from=str)
# Exists in a workdir until there is a checkpoint; see `begin`.
BEGUN = 'checkpoints/begun'

_written = set()  # the run.json files that this process has written


def claim(config: ConfigDict | None, workdir: str | pathlib.Path) -> ConfigDict:
  """Starts a run in a new workdir, or resumes one with the same config.

  Fields that may change are listed in changes.py; `go_on` records the changes.

  Args:
    config: ConfigDict, or None for the one in the workdir.
    workdir: path; the folder is created if it is missing.

  Returns:
    The run's config, locked.

  Raises:
    ValueError: config is None and the workdir has none; or it has another one,
      and the message says what differs; or a link leads out of the workdir.
  """
  folder = buckets.at(workdir)
  path = folder / 'run.json'
  if folder.exists() and not folder.is_dir():
    raise ValueError(f'{workdir} is not a folder; expected one for the run.')
  if config is None:
    if not path.exists():
      raise ValueError(f'{path} is missing: start the run with --config.')
    kept = read(workdir)
    kinds = ValueError, TypeError, LookupError, AttributeError
    with checks.located(f'{path} is damaged', kinds):
      return ConfigDict(kept['config']).lock()
  _check_parts(values(config), '--config is not whole')
  paths.expand_all(config)
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
    # Files of a failed start:
    for name in ('tokenizer.json', 'data.json', 'model.json', 'changes.json'):
      (folder / name).unlink(missing_ok=True)
    if config.init_from:
      _take_over(config, folder)
    atomic.save_json(
      path,
      dict(
        command=shlex.join(['python', *sys.argv]),
        versions=provenance.versions(),
        numerics=changes.numerics(),
        config=config.to_dict(),
      ),
    )
    _written.add(buckets.absolute(path))
  return config


def go_on(
  config: ConfigDict,
  workdir: str,
  step: int,
  rates: Callable,
  eval_only: bool = False,
) -> None:
  """Records in changes.json what changes from `step` on.

  Args:
    config: config of `claim`.
    workdir: workdir of the run.
    step: step that the run resumes from.
    rates: function total_steps -> learning-rate schedule of such a run.
    eval_only: whether to record nothing.

  Raises:
    ValueError: as in `changes.found`, or `changes.check_evaluation`.
  """
  kept = read(workdir)
  if eval_only:
    changes.check_evaluation(kept, config, workdir)
    return
  new = changes.found(kept, config, step, workdir, rates)
  if new and jax.process_index() == 0:
    atomic.save_json(
      buckets.at(workdir) / 'changes.json',
      dict(changes=kept['changes'] + new),
    )


def check_links(workdir: str | pathlib.Path) -> None:
  """Raises a ValueError for a link through which a run would write elsewhere.

  The folder of Weights & Biases may have links of its own.
  """
  if buckets.is_url(workdir):
    return  # a bucket has none
  root = pathlib.Path(workdir).resolve()
  # Unlike rglob, os.walk passes over a folder that goes away meanwhile.
  for path in (
    pathlib.Path(at, name)
    for at, folders, files in os.walk(root)
    for name in (*folders, *files)
  ):
    outside = path.is_symlink() and not path.resolve().is_relative_to(root)
    if outside and root / 'wandb' not in path.parents:
      raise ValueError(
        f'{path} is a link to {os.readlink(path)}, which is not in the '
        'workdir, and nothing is written elsewhere: put the file or folder in '
        'its place.'
      )


def begin(workdir: str) -> None:
  """Marks that a run begins.

  The mark stays until there is a checkpoint. It distinguishes a run that was
  killed before its first checkpoint from one whose checkpoints are unreachable.

  Raises:
    ValueError: there are rows of metrics, but no checkpoint and no mark.
  """
  folder = buckets.at(workdir)
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
  if not path.exists():
    return False
  with path.open('rb') as file:
    return bool(file.read(1))


def _take_over(config, folder):
  """Checks config.init_from, and copies its tokenizer if it has one."""
  source = buckets.at(config.init_from)
  if not (source / 'run.json').exists():
    raise ValueError(f'init_from={source} is no workdir: it has no run.json.')
  kinds = read(source)['config']['model'].get('name'), config.model.get('name')
  # A class of one's own, an import path, may begin as another kind of model.
  if kinds[0] != kinds[1] and ':' not in f'{kinds}':
    raise ValueError(
      f'init_from={source} has a model {kinds[0]}; expected {kinds[1]}.'
    )
  kept = source / 'tokenizer.json'
  if not kept.exists():
    return
  if config.data.get('vocabulary'):  # data of one's own may have no such field
    raise ValueError(
      f'data.vocabulary={config.data.vocabulary}, but init_from={source} '
      'brings its own.'
    )
  atomic.write_text(folder / kept.name, text_lines.whole(kept))


@contextlib.contextmanager
def owned(config: ConfigDict, workdir: str, eval_only: bool) -> Iterator[None]:
  """Claims a workdir for this process alone, and holds it within the context.

  Ctrl-C ends the process at once. If a run begins here and fails before its
  first row of metrics, its files are removed.

  Args:
    config, workdir: as in `claim`.
    eval_only: whether the run has to exist.

  Raises:
    ValueError: as in `claim` and `lease.lock`; or the processes of the run have
      different configs, code or workdirs.
  """
  probe.same_run(dict(eval_only=eval_only, config=values(config)))
  if jax.process_index() == 0:
    if eval_only and not (buckets.at(workdir) / 'run.json').exists():
      raise ValueError(f'--eval_only: {workdir} has no run; train one first.')
    claim(config, workdir)
    lease.lock(workdir)
  try:
    probe.one_folder(buckets.at(workdir) / 'lock')
    claim(config, workdir)  # another run may have been here in between
    with interrupt.at_once(functools.partial(abandon, workdir)):
      yield
  except Exception:
    abandon(workdir)
    raise


def abandon(workdir: str | pathlib.Path) -> None:
  """Removes a run that this process began and that failed before its first row.

  Checkpoints of a run that another process began may only be unreachable.
  """
  folder = buckets.at(workdir)
  path = folder / 'run.json'
  if buckets.absolute(path) in _written and not _has_rows(folder):
    path.unlink(missing_ok=True)
    (folder / BEGUN).unlink(missing_ok=True)


def read(workdir: str | pathlib.Path) -> dict:
  """Reads what `claim` and `go_on` have stored.

  Returns:
    dict(command, versions, numerics, config, changes, first_steps): config is
    that after the changes, first_steps the total_steps before them.

  Raises:
    ValueError: a file is damaged.
  """
  path = buckets.at(workdir) / 'run.json'
  kept = dict(numerics={}, versions={}) | json_text.read_object(path)
  json_text.require(kept, path, config=dict, numerics=dict, versions=dict)
  _check_parts(kept['config'], f'{path} is damaged')
  config = identity.upgrade(json_text.tuples(kept['config']))
  found, config = changes.read(path.with_name('changes.json'), config)
  steps = kept['config']['total_steps']
  return kept | dict(config=config, changes=found, first_steps=steps)


def values(config: ConfigDict) -> dict:
  """Returns a config as a dict; a ValueError if it is none."""
  if not callable(getattr(config, 'to_dict', None)):
    raise ValueError(f'--config gave {config!r}, expected a ConfigDict.')
  return config.to_dict()


def _check_parts(config, fault):
  with checks.located(f'{fault}: config'):
    for name, kind in PARTS.items():
      json_text.field(config, name, kind)
