# SPDX-License-Identifier: Apache-2.0
"""Shared code of the commands: arguments, one-line errors, standard input."""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
from importlib.machinery import ModuleSpec
import os
import pathlib
import re
import sys
from typing import NoReturn

from absl import app, flags, logging
import jax
from ml_collections import ConfigDict, config_flags

from collab.io import node_files, paths, text_lines
from collab.runtime import processes
from collab.runtime import workdir as workdirs

flags.disclaim_key_flags()  # only the program's own flags are key flags


class Parser(argparse.ArgumentParser):
  """An argument parser that raises ValueError and takes no abbreviations.

  In arguments without a type, which may be paths, ~ means the home folder.

  Args:
    spec: __spec__ of the program, a module that `python -m` runs.
    description: what the program does.
    epilog: what follows the arguments.
  """

  def __init__(self, spec: ModuleSpec, description: str, epilog: str = ''):
    super().__init__(
      prog=f'python -m {spec.name.removesuffix(".__main__")}',
      description=description,
      epilog=epilog,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    self.register('type', None, paths.expand)

  def error(self, message: str) -> NoReturn:
    raise ValueError(message)


@contextlib.contextmanager
def errors_in_a_line(prog: str) -> Iterator[None]:
  """Ends the program with the line `prog: ...` on an error of its input.

  It ends in silence if nobody reads its output any more, as after `| head`.
  """
  try:
    yield
    sys.stdout.flush()
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes it at exit
    sys.exit(1)
  except (ValueError, OSError) as e:
    sys.exit(f'{prog}: {" ".join(str(e).split())}')


def stdin_lines() -> Iterator[str]:
  """Yields the lines of standard input without surrounding white space.

  Raises:
    ValueError: a line is not UTF-8.
  """
  for line in text_lines.of_file(sys.stdin.buffer, 'Standard input'):
    yield line.strip()


def print_lines(prog: str, lines: Sequence) -> None:
  """Prints one line for each line of input: its text, or an empty line.

  A text may be an exception. It makes an empty line, and is reported on
  standard error with its line number. So line numbers of output and input
  agree.

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


def train(main: Callable, check_file: Callable) -> None:
  """Runs train.py by its command line, and reports an error in one line.

  Args:
    main: function of (config, workdir, eval_only, results, profile), from the
      flags.
    check_file: function of the value of --config; raises ValueError if it does
      not name a file.
  """
  try:
    logging.set_verbosity(logging.WARNING)
    processes.join()  # so that the others learn of what is wrong here
    define_flags(flags.FLAGS)
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # a quick next start
      jax.config.update('jax_compilation_cache_dir', str(node_files.kept()))
    app.run(
      functools.partial(_start, main),
      flags_parser=functools.partial(_parse, check_file),
    )
  except KeyboardInterrupt:
    print('train.py: stopped by Ctrl-C.', file=sys.stderr)
    sys.exit(130)  # the exit code of shells
  except Exception as e:
    processes.leave(e)
    if os.environ.get('COLLAB_TRACEBACK'):
      raise
    # ml_collections puts the error of a config into the text of a traceback.
    words = re.sub(r'Traceback \(most.*\n\w+: ', '', str(e), flags=re.DOTALL)
    sys.exit(f'train.py: {" ".join(words.split()) or type(e).__name__}')


def define_flags(values: flags.FlagValues) -> None:
  """Defines train.py's flags."""
  own = dict(flag_values=values)
  config_flags.DEFINE_config_file('config', lock_config=True, **own)
  flags.DEFINE_string(
    'workdir',
    '',
    'Of the run; default <config>[-<argument>]-s<seed> in COLLAB_RUNS or runs.',
    **own,
  )
  flags.DEFINE_string(
    'results',
    '',
    'A .jsonl file that the result is appended to as well.',
    **own,
  )
  flags.DEFINE_bool('eval_only', False, 'Evaluate, do not train.', **own)
  flags.DEFINE_string(
    'profile',
    '',
    'Steps to trace into WORKDIR/profile: 10:13 is 10 to 12.',
    **own,
  )


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
  except flags.IllegalFlagValueError as e:
    if group := re.match(r'flag --(config\.\S+)=.* as a ConfigDict', str(e)):
      raise ValueError(
        f'--{group[1]} is a group of fields; give --{group[1]}.FIELD=VALUE.'
      ) from e
    raise
  except OSError:  # the config is missing, or opens a missing file
    check_file(config_flags.get_config_filename(values['config']))
    raise
  except (KeyError, AttributeError) as e:  # raised by ml_collections
    (inner,) = e.args  # the message, or an exception with the message
    words = '. '.join(str(*getattr(inner, 'args', [inner])).split('\n'))
    raise ValueError(f'--config has no field {words}') from e


def _start(main, argv):
  values = flags.FLAGS
  processes.check_devices()
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
  """Returns the config kept in a workdir, with the changes of a command line.

  Args:
    workdir: workdir of a run.
    arguments: the program, and --config.FIELD=VALUE for each change.

  Raises:
    ValueError: the workdir has no run.
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
  """Makes <folder of runs>/<config>[-<argument>]-s<seed> from --config."""
  name, _, argument = config_file.partition('.py:')
  name = pathlib.Path(name.removesuffix('.py')).name
  words = [name, *argument.replace('=', '').split(',')]
  seed = workdirs.values(config).get('seed')
  run = f'{"-".join(filter(None, words))}-s{seed}'
  return os.path.join(paths.runs_folder(), run)
