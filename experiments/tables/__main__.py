# SPDX-License-Identifier: Apache-2.0
r"""Writes the tables beside their modules, from experiments/results.

./launch.sh python -m experiments.tables              # all
./launch.sh python -m experiments.tables nmt_width
"""

import importlib
import os
import pathlib
import pkgutil
import sys

from experiments import table, tables

FOLDER = pathlib.Path(__file__).parent
NAMES = sorted(x.name for x in pkgutil.iter_modules(tables.__path__))
NAMES.remove('__main__')


def make(name, folder=FOLDER):
  """Writes one table; returns its files."""
  if name not in NAMES:
    raise ValueError(f'No table {name}; there are {", ".join(NAMES)}.')
  module = importlib.import_module(f'experiments.tables.{name}')
  return table.write(name, module.table(), folder)


if __name__ == '__main__':
  try:
    for name in sys.argv[1:] or NAMES:
      print(*map(os.path.relpath, make(name)), sep='\n')
  except (ValueError, OSError) as e:
    sys.exit(f'tables: {" ".join(str(e).split())}')
