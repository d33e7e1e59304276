# SPDX-License-Identifier: Apache-2.0
"""Parameters of an earlier run as the first ones of another."""

import pathlib

import jax
import numpy as np

from collab import model_json
from collab.data import tokenizer
from collab.runtime import checkpoint, tree_table
from collab.runtime import workdir as workdirs
from collab.training import logs

HEADS = ('head', 'distilled_head')  # what belongs to a task
# Parameters that have a row for each id.
ROWS = ('embed/embedding', 'embed/bias', 'head/bias')


def load(workdir, params, meaning, sharding=None):
  """Replaces what an earlier run has by its parameters, and says what.

  Parameters are the same if name, type and shape are. A head, which belongs to
  a task, may differ; anything else of the same name and another shape may not,
  but for tables with more rows than the tokenizer has ids. The outputs of a
  head are brought into the order of the task's classes.

  Args:
    workdir: of the earlier run; what its own evaluation used is read.
    params: the fresh ones.
    meaning: model_json.Meaning of these.
    sharding: of what is read, one that all hosts have a part in; by default
      one device.

  Returns:
    A tree like params.

  Raises:
    ValueError: no such run, no good checkpoint, another shape, nothing common,
      another tokenizer, a head of as many other classes.
  """
  config, folder = workdirs.claim(None, workdir), pathlib.Path(workdir)
  known = model_json.Meaning()
  if (folder / 'model.json').exists():
    _, known = model_json.read(folder)
  if meaning.tokenizer:  # the task reads text
    model_json.check_tokenizer(workdir, known.tokenizer, meaning.tokenizer)
  checkpoints = checkpoint.Checkpoints(
    workdir, config.checkpoint.keep, config.checkpoint.best, read_only=True
  )
  try:
    abstract = checkpoints.abstract()
    if sharding:
      abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        abstract,
      )
    found = checkpoint.final_params(config, checkpoints, abstract)
  finally:
    checkpoints.close()
  old, new = tree_table.named(found), tree_table.named(params)
  told = {}
  if meaning.tokenizer:
    if not known.tokenizer:
      told['tokenizer'] = 'not recorded there, so not compared'
    if meaning.tokenizer == (known.tokenizer or _beside(folder)):
      told |= _leave_padding(old, new)
  shapes = tree_table.shapes(new), tree_table.shapes(old)
  common = {k for k in new if shapes[0][k] == shapes[1].get(k)}
  wrong = {k for k in new.keys() & old if k not in common}
  wrong = {k for k in wrong if k.split('/')[0] not in HEADS}
  if wrong or not common:
    differences = tree_table.differences(
      *({k: x[k] for k in wrong or x} for x in shapes)
    )
    raise ValueError(f'init_from={workdir}: {differences}.')
  outputs = _outputs(new) & common
  if outputs and meaning.classes:
    told |= _order(workdir, old, outputs, known.classes, meaning.classes)
  logs.summary(
    f'init_from {workdir}',
    {
      'loaded': _names(common),
      'fresh': _names(new.keys() - common),
      'not used': _names(old.keys() - common),
      **told,
    },
  )
  return jax.tree_util.tree_map_with_path(
    lambda path, x: old.get(name, x) if (name := _name(path)) in common else x,
    params,
  )


def _beside(folder):
  """The fingerprint of a run's tokenizer.json, '' if it has none."""
  path = folder / 'tokenizer.json'
  return tokenizer.fingerprint(tokenizer.read(path)) if path.exists() else ''


def _leave_padding(old, new):
  """Cuts tables in `old` to the ids that the tokenizer has; says so, a dict."""
  table = ROWS[0]
  if table not in old or table not in new:
    return {}
  rows, ids = len(old[table]), len(new[table])
  if rows <= ids:
    return {}
  for name in ROWS:
    if name in old and len(old[name]) == rows:
      old[name] = old[name][:ids]
  return {'padding': f'{rows - ids:,} of {rows:,} rows of the table left out'}


def _outputs(names):
  """Those of the last layer of each head, a set."""
  found = set()
  for head in HEADS:
    mine = {n: n.rpartition('/')[0] for n in names if n.split('/')[0] == head}
    found |= {n for n, layer in mine.items() if layer == max(mine.values())}
  return found


def _order(workdir, old, outputs, classes, wanted):
  """Orders parameters in `old` by the classes wanted; says so, a dict."""
  try:
    places = model_json.places(classes, wanted)
  except ValueError as e:
    raise ValueError(
      f'init_from={workdir}: {e}. If they are the same, name them so in its '
      'model.json.'
    ) from e
  if places is None:
    return dict(classes='not named there, so not compared')
  if places == sorted(places):
    return {}
  for name in outputs:
    old[name] = old[name][..., np.array(places)]
  return dict(classes=f'were {tree_table.some(classes)}, put in order')


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _names(names):
  """'embed (1), encoder (32)': parameters by the part that they belong to."""
  parts = sorted(name.split('/')[0] for name in names)
  counts = {part: parts.count(part) for part in parts}
  return ', '.join(f'{part} ({n})' for part, n in counts.items()) or 'none'
