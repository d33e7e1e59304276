# SPDX-License-Identifier: Apache-2.0
"""Lists what there is, by first lines of docstrings, and describes configs.

Sources are read, not imported. So a list needs no package of [train], and only
a config that is described is run.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
import io
import itertools
import pathlib
import runpy
import tokenize
from typing import Any

from collab import checks, models

PACKAGE = pathlib.Path(__file__).parent
# The clone that the package lies in, or the part of one that a wheel brings.
PROJECT = PACKAGE.parent
if not (PROJECT / 'launch.sh').is_file():
  PROJECT = PACKAGE / 'project'
KINDS = dict(
  variants=PACKAGE / 'attention' / 'variants',
  models=PACKAGE / 'models',
  tasks=PACKAGE / 'tasks',
  configs=PROJECT / 'configs',
  studies=PROJECT / 'experiments' / 'studies',
  tables=PROJECT / 'experiments' / 'tables',
)


def listed(kind: str) -> dict[str, str]:
  """Returns {name: what it is} of a kind, a key of KINDS."""
  checks.one_of('KIND', kind, KINDS)
  paths = sorted(KINDS[kind].glob('[!_]*.py'))
  if kind == 'models':  # among the modules that they are made of
    paths = [KINDS[kind] / f'{name}.py' for name in models.MODELS]
  found = {path.stem: first_line(path) for path in paths}
  if kind == 'variants':
    found['mqa'] = 'Multi-query attention: gqa with kv_heads=1.'
  return dict(sorted(found.items()))


def first_line(path: pathlib.Path) -> str:
  """Returns the first line of the docstring of a source file."""
  text = ast.get_docstring(ast.parse(path.read_text('utf-8'))) or ''
  return text.partition('\n')[0]


def table(rows: Mapping[str, str]) -> str:
  """Formats a line for each name and its meaning."""
  width = max(map(len, rows), default=0)
  return '\n'.join(
    f'  {name:<{width}}  {x}'.rstrip() for name, x in rows.items()
  )


def describe(config: str) -> str:
  """Describes a config: its docstring, and a line for each field.

  Args:
    config: configs/FILE.py, perhaps with :WORDS.

  Raises:
    ValueError: the file does not exist, or fails.
  """
  file, _, words = config.partition(':')
  path = config_file(file)
  with checks.located(f'{config} fails', Exception):
    module = runpy.run_path(file)
    fields = dict(flat(module['get_config'](words)))
  known = comments(path)
  shown = {f'{k} = {x!r}': meaning(k, known) for k, x in fields.items()}
  return f'{module["__doc__"] or ""}\n{table(shown)}'


def config_file(path: str | pathlib.Path) -> pathlib.Path:
  """Returns the path of a config; a ValueError lists ours if it is no file."""
  if not pathlib.Path(path).is_file():
    names = ', '.join(listed('configs'))
    raise ValueError(f'{path}: no such config; configs/ has {names}.')
  return pathlib.Path(path)


def flat(config: Mapping, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """Yields ('model.dim', 768) and the other fields of a config."""
  for name, value in config.items():
    if hasattr(value, 'items') and value:
      yield from flat(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value


def comments(path: pathlib.Path) -> list[tuple[tuple[str, ...], str]]:
  """Returns (field, comment) of a config's source, then of those it imports.

  A field is ('c', 'model', 'dim'), where the source says so much; ('dim',) is
  the least. A comment begins on the line of a field that is set, and goes on in
  lines that have nothing else.
  """
  text, notes, found = path.read_text('utf-8'), {}, []
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    number, words = token.start[0], token.string.strip('# ')
    if token.type != tokenize.COMMENT:
      continue
    if not token.line.lstrip().startswith('#'):
      notes[number] = [words]
    elif number - 1 in notes:
      notes[number] = notes[number - 1]
      notes[number].append(words)
  tree = ast.parse(text)
  for field, line in _set(tree, ()):
    if line in notes:
      found.append((field, ' '.join(notes.pop(line))))
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module == 'configs':
      for name in (*(alias.name for alias in node.names), '__init__'):
        inner = KINDS['configs'] / f'{name}.py'
        found += comments(inner) if inner.is_file() else []
  return found


def _set(node, at):
  """Yields (field, line) of all that a source sets, the outer ones first."""
  match node:
    case ast.Assign(targets=[target]):
      at = tuple(ast.unparse(target).split('.'))
      yield at, node.lineno
    case ast.Call(func=ast.Attribute(value=target, attr='update')):
      at = tuple(ast.unparse(target).split('.'))
    case ast.keyword(arg=str(name)):
      at = (*at, name)
      yield at, node.lineno
  for child in ast.iter_child_nodes(node):
    yield from _set(child, at)


def meaning(field: str, known: Iterable[tuple[tuple[str, ...], str]]) -> str:
  """Returns the first comment on as many of a field's names as any; or ''."""

  def common(one):
    pairs = zip(reversed(one[0]), reversed(field.split('.')), strict=False)
    return sum(itertools.takewhile(bool, (a == b for a, b in pairs)))

  best = max(known, key=common, default=((), ''))
  return best[1] if common(best) else ''
