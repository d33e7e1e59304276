# SPDX-License-Identifier: Apache-2.0
r"""Writes tables and answers beside their modules, from experiments/results.

./launch.sh python -m experiments.tables              # all
./launch.sh python -m experiments.tables nmt_width
"""

import importlib
import os
import pathlib
import pkgutil
import sys

from collab import command
from experiments import questions, table, tables

MODULES = {
  x.name: f'{package.__name__}.{x.name}'
  for package in (tables, questions)
  for x in pkgutil.iter_modules(package.__path__)
  if x.name != '__main__'
}
NAMES = sorted(MODULES)


def make(name: str, folder: pathlib.Path | None = None) -> list:
  """Writes a table, beside its module or to a folder; returns its files."""
  if name not in NAMES:
    raise ValueError(f'No table {name}; there are {", ".join(NAMES)}.')
  module = importlib.import_module(MODULES[name])
  folder = folder or pathlib.Path(module.__file__).parent
  return table.write(name, module.table(), folder)


if __name__ == '__main__':
  with command.errors_in_a_line('tables'):
    for name in sys.argv[1:] or NAMES:
      print(*map(os.path.relpath, make(name)), sep='\n')
