# SPDX-License-Identifier: Apache-2.0
"""Plans a study: the arms that it compares, as runs with their commands.

A file of experiments/studies has a list ARMS. In its values {data} is the
folder of the data sets, and {runs} that of the workdirs.
"""

from collections.abc import Mapping
import itertools
import pathlib
import re
import runpy
import shlex
from typing import NamedTuple

from ml_collections import ConfigDict

from collab import checks
from collab.io import json_text
from collab.runtime import identity
from collab.runtime import plan as run_plan
from collab.runtime import workdir as workdirs

ROOT = pathlib.Path(__file__).parent
NAME = re.compile(r'[\w.-]+', re.ASCII)  # valid as a folder and a job name
STUDIES, RESULTS = ROOT / 'studies', ROOT / 'results'
# Fields that affect how a step is computed, but not its result.
HOW = ('fsdp', 'tensor', 'rules', 'accumulate', 'skip_nonfinite')
# A converted model has its own values; all others are those of its source.
OF_THE_MODEL = ('model', 'init_from')
_EXPECTED = 'expected a name of letters, digits, ".", "-" and "_"'


class Arm(NamedTuple):
  """One of the alternatives that a study compares.

  Attributes:
    name: name of the arm.
    config: value of train.py's --config.
    overrides: {field of the config: value}.
    seeds: seeds, with one run each.
    source: instead of a config, the arm whose finished runs are converted and
      trained again by the same recipe.
    convert: flags of collab.convert.
  """

  name: str
  config: str = ''
  overrides: dict = {}  # noqa: RUF012, nobody writes to it
  seeds: tuple = (0,)
  source: str = ''
  convert: tuple = ()


def arms(
  config: str, words: Mapping[str, str], overrides: dict, seeds: tuple
) -> list[Arm]:
  """Makes an arm for each of {name: further words of the config}."""
  return [
    Arm(name, f'{config},{some}', overrides, seeds)
    for name, some in words.items()
  ]


class Run(NamedTuple):
  """An arm with a seed: one training run.

  Attributes:
    name: <arm>-s<seed>, its name in folders.
    arm: Arm with its values filled in.
    seed: seed of the run.
    workdir: workdir of the run.
    source: the Run that is converted, or None.
  """

  name: str
  arm: Arm
  seed: int
  workdir: str
  source: 'Run | None'


def path_of(study: str) -> pathlib.Path:
  """Returns the file of a study, by path or by name in experiments/studies."""
  path = pathlib.Path(study)
  path = path if path.suffix == '.py' else STUDIES / f'{study}.py'
  if not path.exists():
    names = sorted(x.stem for x in STUDIES.glob('[!_]*.py'))
    raise ValueError(f'No study {study}; there are {", ".join(names)}.')
  if not NAME.fullmatch(path.stem):
    raise ValueError(f'Study {path.stem!r}: {_EXPECTED}.')
  return path


def name_of(study: str, grid: dict[str, tuple]) -> str:
  """The name of a study's folder and rows; those of a grid are apart."""
  return path_of(study).stem + ('-grid' if grid else '')


def plan(
  study: str,
  data: str = 'DIR',
  folder: str = 'runs',
  grid: dict[str, tuple] | None = None,
) -> list[Run]:
  """Lists the Runs of a study, sources first.

  Args:
    study: name or path.
    data: folder of the data sets.
    folder: folder of the workdirs; a run of this study has
      <folder>/<study>/<run>.
    grid: {field of the config: values}; each arm is made at each of its points.

  Raises:
    ValueError: there is no such study, or one of its arms is invalid.
  """
  path, found, grid = path_of(study), {}, grid or {}
  folders = dict(data=data, runs=folder)
  for arm in _crossed(_arms_of(path), grid, folders):
    if not NAME.fullmatch(arm.name):
      raise ValueError(f'{path}: arm {arm.name!r}: {_EXPECTED}.')
    if bool(arm.config) == bool(arm.source):
      raise ValueError(f'{path}: {arm.name} needs a config or a source.')
    for seed in arm.seeds:
      source = found.get((arm.source, seed))
      if arm.source and not source:
        raise ValueError(
          f'{path}: {arm.name} needs {arm.source} with seed {seed} before it.'
        )
      if (arm.name, seed) in found:
        raise ValueError(f'{path}: {arm.name} with seed {seed} is there twice.')
      name = f'{arm.name}-s{seed}'
      found[arm.name, seed] = Run(
        name,
        arm,
        seed,
        f'{folder}/{name_of(study, grid)}/{name}',
        source,
      )
  if not found:
    raise ValueError(f'{path} has no ARMS.')
  return list(found.values())


def _arms_of(path):
  """Returns the ARMS of a file; a ValueError if they are no Arms."""
  try:
    arms = runpy.run_path(str(path)).get('ARMS', ())
  except Exception as e:  # it is a program
    raise ValueError(f'{path} does not run: {type(e).__name__}: {e}') from e
  if not isinstance(arms, list | tuple):
    raise ValueError(f'{path}: ARMS is {arms!r:.60}, expected a list of Arm.')
  for arm in arms:
    if not isinstance(arm, Arm):
      raise ValueError(f'{path}: {arm!r:.60} in ARMS, expected an Arm.')
    where = f'{path}: arm {arm.name!r}'
    items = dict(seeds=int, convert=str)
    for field, kind in Arm.__annotations__.items():
      value = getattr(arm, field)
      # True is an int as well.
      if type(value) is not kind or any(
        type(x) is not items[field] for x in value if field in items
      ):
        of = f' of {items[field].__name__}' if field in items else ''
        raise ValueError(
          f'{where}: {field} is {value!r:.60}, expected a {kind.__name__}{of}.'
        )
    if 'seed' in arm.overrides:
      raise ValueError(f'{where}: overrides has seed, expected it in seeds.')
  return arms


def commands(run: Run) -> list[list[str]]:
  """Lists the commands that make a run, each as arguments of Python."""
  workdir = f'--workdir={run.workdir}'
  if run.source:
    convert = ['-m', 'collab.convert', run.source.workdir, run.workdir]
    data = run.source.arm.overrides.get('data.path')
    if data and '--calibration=train' in run.arm.convert:
      convert.append(f'--data={data}')
    return [[*convert, *run.arm.convert], ['train.py', workdir]]
  given = dict(seed=run.seed) | run.arm.overrides
  fields = [f'--config.{field}={value}' for field, value in given.items()]
  return [['train.py', f'--config={run.arm.config}', *fields, workdir]]


def text(run: Run) -> str:
  """Formats the commands of a run and of its sources as one line."""
  before = [text(run.source)] if run.source else []
  return ' && '.join(before + [command_line(x) for x in commands(run)])


def command_line(words: list[str]) -> str:
  """Formats arguments of Python as a line for a shell."""
  return shlex.join(['python', *words])


def config(run: Run) -> ConfigDict:
  """Returns the config of a run; a converted run has that of its source."""
  if run.source:
    return config(run.source)
  path, _, argument = run.arm.config.partition(':')
  given, at = dict(run.arm.overrides, seed=run.seed), ''
  try:
    found = runpy.run_path(path)['get_config'](argument).lock()
    for field, value in given.items():
      at = f'{field}={value}: '
      found.update_from_flattened_dict({field: value})
    at = ''
    run_plan.check(found)
  except (OSError, KeyError, AttributeError, TypeError, ValueError) as e:
    text = str(e if isinstance(e, OSError) else next(iter(e.args), e))
    text = text.partition(' Other fields present')[0]  # and all of them
    raise ValueError(f'{run.name} has no config: {at}{text}') from e
  return found


def config_hash(run: Run) -> str:
  """Returns the config hash that a new result of the run gets."""
  return identity.config_hash(config(run))


def hashes(run: Run) -> list[str]:
  """Returns the config hashes that a result of the run may have."""
  return identity.hashes(config(run))


def finished(run: Run) -> dict | None:
  """Reads the result.json of a finished run; None if it is not finished.

  Raises:
    ValueError: the workdir belongs to another run.
  """
  folder = pathlib.Path(run.workdir)
  if not (folder / 'run.json').exists():
    return None
  kept, wanted = workdirs.read(folder), config(run)
  if _recipe(kept['config'], run) != _recipe(wanted.to_dict(), run):
    raise ValueError(f'{folder} is of another config than {run.name} has now.')
  made = command_line(commands(run)[0])
  if run.source and kept.get('command') != made:
    raise ValueError(f'{folder} was made by {kept.get("command")}, not {made}.')
  if not (folder / 'result.json').exists():
    return None
  path = folder / 'result.json'
  result = json_text.read_object(path, steps=int, config_hash=str)
  if changes := result.get('changes'):
    raise ValueError(f'{folder} enters no table, for it changed: {changes}.')
  return result if result['steps'] == wanted.total_steps else None


def elsewhere(folder: str) -> dict[str, str]:
  """Returns {config hash: workdir} of all finished runs in a folder."""
  found = {}
  for path in sorted(pathlib.Path(folder).rglob('result.json')):
    try:
      result = json_text.read_object(path, config_hash=str)
    except ValueError:
      continue
    if not (path.parent / 'conversion.json').exists():
      found[result['config_hash']] = str(path.parent)
  return found


def _crossed(arms, grid, folders):
  """Yields each arm at each point of a grid, named by the values there."""
  fields = [field for field in grid if field != 'seed']  # an Arm has seeds
  for values in itertools.product(*(grid[field] for field in fields)):
    point = dict(zip(fields, values, strict=True))
    at = ''.join(f'-{key}{x}' for key, x in point.items())
    at = re.sub(r'[^\w.-]+', '-', at, flags=re.ASCII)
    for arm in arms:
      where = f'arm {arm.name!r}: overrides has more than {{data}} and {{runs}}'
      with checks.located(where, (LookupError, ValueError)):
        filled = {
          key: x.format(**folders) if isinstance(x, str) else x
          for key, x in arm.overrides.items()
        }
      yield arm._replace(
        name=arm.name + at,
        overrides=filled if arm.source else filled | point,
        seeds=grid.get('seed', arm.seeds),
        source=arm.source and arm.source + at,
      )


def _recipe(config, run):
  """Returns the fields of a config in which plan and workdir must agree."""
  left_out = HOW + (OF_THE_MODEL if run.source else ())
  return {k: x for k, x in config.items() if k not in left_out}
