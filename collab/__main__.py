# SPDX-License-Identifier: Apache-2.0
r"""Runs the commands of this project, and lists what there is.

collab train --config=configs/lm.py:sample
collab generate --workdir=runs/lm-sample-s0 --prompt='The statement'
collab COMMAND --help

collab list                           # all that there is, a line each
collab list variants                  # one kind of it
collab describe configs/lm.py:small   # the fields of a config, explained
"""

import itertools
import os
import re
import runpy
import sys

from collab import catalog, checks, extras

# {command: module that it runs}.
COMMANDS = dict(
  train='train',
  convert='collab.convert',
  generate='collab.generate',
  translate='collab.translate',
  evaluate='collab.evaluate',
  report='experiments.report',
  sweep='experiments.sweep',
  cost='collab.accounting',
)
OURS = dict(
  list=f'Lists {", ".join(catalog.KINDS)}.',
  describe='Lists the fields of a config with their values and meanings.',
  completion='Completes names in bash by eval "$(collab completion)".',
)


def main() -> None:
  """Does what the command line says; an error is one line."""
  sys.path.insert(0, str(catalog.PROJECT))
  words = [_found(word) for word in sys.argv[1:]]
  try:
    match words:
      case [] | ['--help' | '-h', *_]:
        print(_usage())
      case ['list', *kinds]:
        print('\n\n'.join(map(_listed, kinds or catalog.KINDS)))
      case ['describe', config]:
        extras.need()
        print(catalog.describe(config))
      case ['describe', *others]:
        raise ValueError(f'describe CONFIG takes one, got {len(others)}.')
      case ['completion']:
        print(_completion())
      case [command, *rest]:
        checks.one_of('COMMAND', command, [*COMMANDS, *OURS])
        _run(command, rest)
    sys.stdout.flush()
  except BrokenPipeError:  # as command.errors_in_a_line, which needs JAX
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(1)
  except (ValueError, OSError, ImportError) as e:
    sys.exit(f'collab: {" ".join(str(e).split())}')


def _found(word):
  """Completes configs/FILE.py to where it lies, if it does not lie here."""
  start, config = re.match('(--config=)?(.*)', word, re.DOTALL).groups('')
  whole = catalog.PROJECT / config
  ours = config.startswith('configs/') and not os.path.exists(
    config.partition(':')[0]
  )
  return f'{start}{whole}' if ours else word


def _usage():
  lines = {name: _about(module) for name, module in COMMANDS.items()} | OURS
  return f'{__doc__}\n{catalog.table(lines)}'


def _about(module):
  if path := _source(module):
    return catalog.first_line(path)
  return 'Needs a clone of the repository.'


def _source(module):
  """Returns the file that `python -m MODULE` runs; None if it is not here."""
  base = module.replace('.', '/')
  paths = [
    folder / f'{base}{end}'
    for folder in (catalog.PROJECT, catalog.PACKAGE.parent)
    for end in ('/__main__.py', '.py')
  ]
  return next(filter(os.path.isfile, paths), None)


def _completion():
  """Makes the line of bash that completes commands, configs and names."""
  found = {kind: [*catalog.listed(kind)] for kind in catalog.KINDS}
  found['configs'] = [f'configs/{name}.py' for name in found['configs']]
  words = [*COMMANDS, *OURS, *found, *itertools.chain(*found.values())]
  return f"complete -o default -W '{' '.join(dict.fromkeys(words))}' collab"


def _listed(kind):
  return f'{kind}\n{catalog.table(catalog.listed(kind))}'


def _run(command, words):
  """Runs a command's module as `python -m` does."""
  extras.need()
  if not _source(COMMANDS[command]):
    raise ValueError(f'{command} needs a clone of the repository.')
  sys.argv[1:] = words
  runpy.run_module(COMMANDS[command], run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main()
