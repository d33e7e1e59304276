# SPDX-License-Identifier: Apache-2.0
"""What the commands share: arguments, errors in a line, standard input."""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import os
import pathlib
import re
import sys

from absl import app, flags, logging
import jax
from ml_collections import ConfigDict, config_flags

from collab.io import paths, text_lines
from collab.runtime import processes
from collab.runtime import workdir as workdirs

flags.disclaim_key_flags()  # the flags are those of the program


class Parser(argparse.ArgumentParser):
  """An argument parser that raises ValueError and takes no abbreviations.

  In arguments without a type, which may be paths, ~ is the home folder.
  """

  def __init__(self, **options):
    super().__init__(
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
      **options,
    )
    self.register('type', None, paths.expand)

  def error(self, message):
    raise ValueError(message)


@contextlib.contextmanager
def errors_in_a_line(prog: str) -> Iterator[None]:
  """Ends the program with the line `prog: ...` if its input is at fault."""
  try:
    yield
  except (ValueError, OSError) as e:
    sys.exit(f'{prog}: {" ".join(str(e).split())}')


def stdin_lines() -> Iterator[str]:
  """Yields the lines of standard input without white space around them.

  Raises:
    ValueError: a line is not UTF-8.
  """
  for line in text_lines.of_file(sys.stdin.buffer, 'Standard input'):
    yield line.strip()


def print_lines(prog: str, lines: Sequence):
  """Prints a line for each line of input: its text, or an empty line.

  An exception in the place of a text makes an empty line, and is reported on
  standard error with its number. So lines of output are those of the input.

  Raises:
    ValueError: at the end, if there were exceptions.
  """
  failed = 0
  for number, line in enumerate(lines, 1):
    if isinstance(line, Exception):
      failed += 1
      print(f'{prog}: input, line {number}: {line}.', file=sys.stderr)
      line = ''
    print(line)
  if failed:
    raise ValueError(
      f'{failed} of {len(lines)} lines could not be done; they are empty in '
      'the output.'
    )


def train(main: Callable, check_file: Callable):
  """Runs train.py as its command line says; an error ends it in one line.

  Args:
    main: (config, workdir, eval_only, results, profile), of the flags.
    check_file: value of --config -> None; refuses one that names no file.
  """
  try:
    _define_flags()
    _keep_programs()
    app.run(
      functools.partial(_start, main),
      flags_parser=functools.partial(_parse, check_file),
    )
  except KeyboardInterrupt:
    print('train.py: stopped by Ctrl-C.', file=sys.stderr)
    sys.exit(130)  # as shells have it
  except Exception as e:
    processes.leave(e)
    if os.environ.get('COLLAB_TRACEBACK'):
      raise
    # ml_collections wraps what a config raises in the text of a traceback.
    words = re.sub(r'Traceback \(most.*\n\w+: ', '', str(e), flags=re.DOTALL)
    sys.exit(f'train.py: {" ".join(words.split()) or type(e).__name__}')


def _define_flags():
  config_flags.DEFINE_config_file('config', lock_config=True)
  flags.DEFINE_string(
    'workdir', '', 'Of the run; default runs/<config>[-<argument>]-s<seed>.'
  )
  flags.DEFINE_string(
    'results', '', 'A .jsonl file that the result is appended to as well.'
  )
  flags.DEFINE_bool('eval_only', False, 'Evaluate, do not train.')
  flags.DEFINE_string(
    'profile', '', 'Steps to trace into WORKDIR/profile: 10:13 is 10 to 12.'
  )


def _keep_programs():
  """Keeps compiled programs, so that the next start is quick."""
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    home = os.environ.get('XDG_CACHE_HOME', os.path.expanduser('~/.cache'))
    jax.config.update('jax_compilation_cache_dir', f'{home}/collab')


def _parse(check_file, argv):
  """Parses the flags; returns the arguments that are not flags."""
  values, words = flags.FLAGS, [paths.expand(word) for word in argv]
  try:
    rest = values(words, known_only=True)
    if values['config'].present:
      check_file(config_flags.get_config_filename(values['config']))
    elif values.workdir:
      values.config = override(values.workdir, rest)
      return rest[:1]
    return values(rest)
  except OSError:  # of a config that is not there, or that opens what is not
    check_file(config_flags.get_config_filename(values['config']))
    raise
  except (KeyError, AttributeError) as e:  # of ml_collections
    (inner,) = e.args  # the text, or an exception of the text
    words = '. '.join(str(*getattr(inner, 'args', [inner])).split('\n'))
    raise ValueError(f'--config has no field {words}') from e


def _start(main, argv):
  values = flags.FLAGS
  logging.set_verbosity(logging.WARNING)
  processes.join()
  if len(argv) > 1:
    raise ValueError(f'Unexpected arguments: {" ".join(argv[1:])}.')
  config, workdir = values.config, values.workdir
  if config is None:
    raise ValueError('Give --config=configs/....py, or --workdir=DIR to go on.')
  if not workdir:
    name = config_flags.get_config_filename(values['config'])
    workdir = _default_workdir(name, config)
  main(config, workdir, values.eval_only, values.results, values.profile)


def override(workdir: str, arguments: list[str]) -> ConfigDict:
  """The config that a workdir keeps, with the changes of a command line.

  Args:
    workdir: of a run.
    arguments: the program, and --config.FIELD=VALUE for each change.

  Raises:
    ValueError: there is no run.
    flags.Error, KeyError, AttributeError: as with --config=FILE.
  """
  values = flags.FlagValues()
  config = config_flags.DEFINE_config_dict(
    'config',
    workdirs.claim(None, workdir),
    flag_values=values,
    sys_argv=arguments,
  )
  values(arguments)
  return config.value


def _default_workdir(config_file, config):
  """runs/<config>[-<argument>]-s<seed>, from the value of --config."""
  name, _, argument = config_file.partition('.py:')
  name = pathlib.Path(name.removesuffix('.py')).name
  words = [name, *argument.replace('=', '').split(',')]
  return f'runs/{"-".join(filter(None, words))}-s{config.seed}'
