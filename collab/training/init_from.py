# SPDX-License-Identifier: Apache-2.0
"""Initialises the parameters of a run from those of an earlier run."""

import collections
import functools
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from collab import model_json, models
from collab.data import tokenizer
from collab.io import buckets
from collab.runtime import final_params, tree_table
from collab.runtime import workdir as workdirs
from collab.training import logs, sharding

HEADS = ('head', 'distilled_head')  # belong to a task
# Parameters with one row for each id.
ROWS = ('embed/embedding', 'embed/bias', 'head/bias')


def check(workdir: str, model: models.Model) -> None:
  """Refuses a model that computes something else from the same parameters.

  Another kind of model, with which one of one's own may begin, is not compared.

  Args:
    workdir: workdir of the earlier run; very old ones have no model.json.
    model: Model that begins with its parameters.

  Raises:
    ValueError: a field differs that no parameter tells; see
      `models.computation`.
  """
  if not (buckets.at(workdir) / 'model.json').exists():
    return
  fields, _ = model_json.read(workdir)
  earlier = models.build(**fields)
  if type(earlier) is not type(model):
    return
  was, now = map(models.computation, (earlier, model))
  if wrong := [
    f'{key} was {was[key]!r}, is {now[key]!r}'
    for key in sorted(was.keys() & now.keys())
    if was[key] != now[key]
  ]:
    told = ' '.join(tree_table.join_names(wrong, between='; ').split())
    raise ValueError(
      f'init_from={workdir}: {told}, so its parameters would compute something '
      'else. Set the config as it was; if the change is meant, make it in its '
      'model.json.'
    )


def load(
  workdir: str,
  params: Any,
  meaning: model_json.Meaning,
  mesh: Mesh | None = None,
) -> Any:
  """Copies matching parameters from an earlier run, and prints which.

  Parameters match if name, type and shape do. A head belongs to a task, so its
  shape may differ. Other parameters with equal names must have equal shapes,
  except that tables may have more rows than the tokenizer has ids. The outputs
  of a head are put in the order of the task's classes.

  Args:
    workdir: workdir of the earlier run; its final parameters are read.
    params: freshly initialised parameters.
    meaning: Meaning of the new model.
    mesh: of sharding.make_mesh, where params are; one device by default. What
      matches is read to where it belongs, and the rest is split over `fsdp`.

  Returns:
    A tree like params.

  Raises:
    ValueError: there is no such run or no good checkpoint; a shape or the
      tokenizer differs; nothing matches; or a head has as many other classes.
  """
  config, folder = workdirs.claim(None, workdir), buckets.at(workdir)
  known = model_json.Meaning()
  if (folder / 'model.json').exists():
    _, known = model_json.read(folder)
  if meaning.tokenizer:  # the task reads text
    model_json.check_tokenizer(workdir, known.tokenizer, meaning.tokenizer)
  place = mesh and functools.partial(_places, params, mesh)
  found = final_params.load(workdir, config, place)
  old, new = tree_table.named(found), tree_table.named(params)
  told = {}
  if meaning.tokenizer:
    if not known.tokenizer:
      told['tokenizer'] = 'not recorded there, so not compared'
    if meaning.tokenizer == (known.tokenizer or _beside(folder)):
      told |= _leave_padding(old, new)
  expected, got = tree_table.shapes(new), tree_table.shapes(old)
  common = {k for k in expected if expected[k] == got.get(k)}
  wrong = [k for k in new if k in old.keys() - common and _part(k) not in HEADS]
  if wrong or not common:
    differences = tree_table.differences(expected, got, wrong or None)
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
  return jax.tree.unflatten(
    jax.tree.structure(params),
    [old[k] if k in common else x for k, x in new.items()],
  )


def _places(params, mesh, found):
  """Returns the shardings of `found` on the mesh, see `load`."""
  new, old = tree_table.named(params), tree_table.named(found)
  places = sharding.state_shardings(mesh, old) | {
    name: new[name].sharding
    for name, x in old.items()
    if name in new and new[name].shape == x.shape
  }
  return jax.tree.unflatten(jax.tree.structure(found), places.values())


def _beside(folder):
  """Returns the fingerprint of a run's tokenizer.json, '' if it has none."""
  path = folder / 'tokenizer.json'
  return tokenizer.fingerprint(tokenizer.read(path)) if path.exists() else ''


def _leave_padding(old, new):
  """Cuts the tables in `old` to the tokenizer's ids; returns notes, a dict."""
  table = ROWS[0]
  if table not in old or table not in new:
    return {}
  rows, ids = len(old[table]), len(new[table])
  if rows <= ids:
    return {}
  for name in old.keys() & new.keys() & set(ROWS):
    if len(old[name]) == rows:
      cut = jax.jit(lambda x: x[:ids], out_shardings=new[name].sharding)
      old[name] = cut(old[name])
  return {'padding': f'{rows - ids:,} of {rows:,} rows of the table left out'}


def _outputs(names):
  """Returns the names of the last layer's parameters in each head, a set."""
  found = set()
  for head in HEADS:
    mine = {n: n.rpartition('/')[0] for n in names if _part(n) == head}
    found |= {n for n, layer in mine.items() if layer == max(mine.values())}
  return found


def _order(workdir, old, outputs, classes, wanted):
  """Orders outputs in `old` by the wanted classes; returns notes, a dict."""
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
  return dict(classes=f'were {tree_table.join_names(classes)}, put in order')


def _part(name):
  return name.split('/')[0]


def _names(names):
  """Groups parameters by their part of the model: 'embed (1), encoder (32)'."""
  counts = collections.Counter(sorted(map(_part, names)))
  return ', '.join(f'{part} ({n})' for part, n in counts.items()) or 'none'
