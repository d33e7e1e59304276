# SPDX-License-Identifier: Apache-2.0
"""Which axes parameters have, and which of them devices split: one table.

  name of a parameter  ->  its axes       `TABLE`; `axes` of each attention
  an axis              ->  mesh's axis    `MESH`

A line 'dim -> mlp' is a linear map: its kernel has both axes, and its bias the
last. A line without an arrow names the axes of one parameter. Of the axes that
are not in `MESH`, the mesh's `fsdp` splits one, see training/sharding.py.

What all heads share has no axis `heads`, so each device has it whole, and what
is per head is split.
"""

from collections.abc import Mapping
import re
from typing import Any, NamedTuple

from collab.attention import variants
from collab.attention.devices import TENSOR
from collab.models import stacked

MESH = dict(heads=TENSOR, groups=TENSOR, mlp=TENSOR, vocabulary=TENSOR)
# Each device has these whole if there are too few of them, or not a multiple.
OPTIONAL = ('groups', 'vocabulary')

# Patterns of the end of a name. These every attention has beside its `axes`:
ATTENTION = {
  'out': 'heads width -> dim',
  'gate': 'dim -> heads width',
  '(query|key)_ln/scale': 'width',
  '(query|key|latent)_norm/scale': 'width',
}
RAGGED = {'value': 'dim -> width', 'out': 'width -> dim'}  # with value_dims
# And these the rest of a model:
TABLE = {
  '(embed|source_embed|output)/embedding': 'vocabulary dim',
  '(embed|output)/bias': 'vocabulary',
  '(|source_|target_)positions/embedding': 'tokens dim',
  'types/embedding': 'types dim',
  'embed_project': 'width -> dim',
  '(embed_|(self|cross|mlp)_(out_)?|)norm/(scale|bias)': 'dim',
  '(self|cross|mlp)_scale': 'dim',
  'mlp_(gate|in)': 'dim -> mlp',
  'mlp_out': 'mlp -> dim',
  'pooler': 'dim -> dim',
  'head/(Dense_0|dense)': 'dim -> dim',
  '(distilled_)?head(/Dense_1)?': 'dim -> outputs',
  'patch': 'pixels -> dim',
  'class|distilled': 'example token dim',
}


class Rules(NamedTuple):
  """The axes of a model's parameters, and the axes of the mesh for them.

  Attributes:
    axes: {name of a parameter: names of its axes}.
    mesh: {name of an axis: axis of the mesh that splits it}.
  """

  axes: Mapping[str, tuple[str, ...]]
  mesh: Mapping[str, str]


def rules(model: Any, names: Mapping[str, int], changes: str = '') -> Rules:
  """Looks up the axes of all parameters of a model.

  Args:
    model: models.Model.
    names: {name of a parameter: number of its axes}.
    changes: lines before those of the tables, separated by commas, such as
      'vocabulary=, my_layer=dim -> mlp': no device splits the vocabulary, and a
      model of one's own has a linear map to the axis mlp.

  Raises:
    ValueError: a parameter is in no table, or has another number of axes there;
      or the changes cannot be read.
  """
  table, mesh = parse(changes)
  lines = [*_lines(table), *_attentions(model), *_lines(TABLE)]
  found = {name: _axes(name, rank, lines) for name, rank in names.items()}
  return Rules(found, mesh)


def parse(changes: str) -> tuple[dict, dict]:
  """Returns the lines of `changes` for parameters, and a changed `MESH`."""
  table, mesh = {}, dict(MESH)
  for line in filter(None, map(str.strip, changes.split(','))):
    name, equals, value = map(str.strip, line.partition('='))
    if not equals or (name in mesh and value not in ('', TENSOR)):
      raise ValueError(
        f'rules={changes!r}: {line!r}; expected AXIS= or AXIS={TENSOR}, or '
        'PARAMETER=AXES.'
      )
    (mesh if name in mesh or value == TENSOR else table)[name] = value
  for pattern in table:
    try:
      re.compile(pattern)
    except re.error as e:
      raise ValueError(
        f'rules={changes!r}: {pattern!r} is no pattern of names: {e}.'
      ) from e
  return table, mesh


def _axes(name, rank, lines):
  for pattern, axes in lines:
    if re.search(f'(^|/)({pattern})$', name):
      axes = tuple(axes.split())
      if stacked.LAYERS in name.split('/'):
        axes = (stacked.LAYERS, *axes)
      if rank != len(axes):
        raise ValueError(
          f'The parameter {name} has {rank} axes, but {" ".join(axes)} in the '
          'table of axes.'
        )
      return axes
  raise ValueError(
    f'The parameter {name} is in no table of axes. Name its axes in `axes` of '
    f"its variant of attention, or by --config.rules='{name}=...'; a device "
    f'splits {", ".join(MESH)}.'
  )


def _lines(table):
  """Lists (pattern, axes of one parameter) of a table's lines."""
  for name, axes in table.items():
    inputs, arrow, outputs = axes.partition('->')
    if arrow:
      yield f'({name})/kernel', f'{inputs} {outputs}'
      yield f'({name})/bias', outputs
    else:
      yield name, axes


def _attentions(model):
  """Lists the same of each attention of a model, as its variant says."""
  for place in model.attentions():
    stack = 'decoder' if place.cross else place.name
    part = 'cross' if place.cross else 'self_attention'
    for i, fields in enumerate(place.each()):
      layer = rf'{stack}/layer_({i}|\*)/{part}'  # one of them, or all stacked
      tables = variants.variant(fields['name']).axes, ATTENTION
      if fields.get('value_dims'):
        tables = RAGGED, *tables
      for table in tables:
        yield from _lines({f'{layer}/{name}': x for name, x in table.items()})
