# SPDX-License-Identifier: Apache-2.0
"""Imports go one way, from a room to those before it, and never in a circle."""

import ast
import graphlib
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
# A room imports nothing of those that stand after it.
ROOMS = (
  'collab.checks', 'collab.io', 'collab.imports', 'collab.extras', 'collab',
  'collab.attention',
  'collab.models', 'collab.catalog', 'collab.metrics', 'collab.data',
  'collab.decoding',
  'collab.beam_search', 'collab.runtime', 'collab.command', 'collab.model_json',
  'collab.tasks', 'collab.accounting', 'collab.training', 'collab.load_run',
  'collab.convert', 'collab.analysis', 'collab.inference', 'collab.translate',
  'collab.generate', 'collab.evaluate', 'collab.__main__',
  'configs', 'experiments',
)  # fmt: skip


def modules():
  """{dotted name: path} of all modules of the rooms."""
  found = {}
  for top in ('collab', 'configs', 'experiments'):
    for path in (ROOT / top).rglob('*.py'):
      parts = path.relative_to(ROOT).with_suffix('').parts
      found['.'.join(parts).removesuffix('.__init__')] = path
  return found


def imported(path, known):
  """Names of the modules that a module imports, at any place in it."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom):
      for alias in node.names:
        inner = f'{node.module}.{alias.name}'
        found.add(inner if inner in known else node.module)
    elif isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
  return found & known.keys()


def room(module):
  parts = module.split('.')
  return '.'.join(parts[:2]) if parts[0] == 'collab' else parts[0]


def test_no_arrow_from_a_lower_room_to_a_higher_one():
  known = modules()
  assert {room(module) for module in known} == set(ROOMS)
  wrong = [
    f'{module} imports {other}'
    for module, path in known.items()
    for other in imported(path, known)
    if ROOMS.index(room(other)) > ROOMS.index(room(module))
  ]
  assert not wrong


def test_no_circle():
  known = modules()
  graph = {
    module: {x for x in imported(path, known) if x != module}
    for module, path in known.items()
  }
  graphlib.TopologicalSorter(graph).prepare()  # a CycleError names it
