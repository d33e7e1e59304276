# SPDX-License-Identifier: Apache-2.0
"""Identifies a run by the hash of its config, even as configs gain fields.

`CHANGES` lists the fields that configs have gained or renamed. With it the form
of a config before each change can be restored. A result belongs to a config if
its hash is that of any form. New results get the hash of the first form, which
later changes do not alter.
"""

import hashlib
import json
from typing import Any, NamedTuple

from flax import traverse_util
from ml_collections import ConfigDict


class Added(NamedTuple):
  """A field that configs have gained.

  Attributes:
    field: path of the field, as in --config.optim.lr.
    neutral: value with the same meaning as configs without the field.
    kind: model or task whose configs gained the field; '' for all.
  """

  field: str
  neutral: Any
  kind: str = ''

  def undo(self, flat: dict) -> dict:
    same = self._concerns(flat) and flat.get(self.field) == self.neutral
    return {k: x for k, x in flat.items() if not (same and k == self.field)}

  def redo(self, flat: dict) -> dict:
    if self.field in flat or not self._concerns(flat):
      return flat
    return flat | {self.field: self.neutral}

  def _concerns(self, flat):
    return self.kind in ('', flat.get('model.name'), flat.get('task.name'))


class Renamed(NamedTuple):
  """A field whose name or values have changed.

  Attributes:
    field: path of the field.
    old: its previous path; equal if only values were renamed.
    values: pairs (value, previous value).
  """

  field: str
  old: str
  values: tuple = ()

  def undo(self, flat: dict) -> dict:
    return _rename(flat, self.field, self.old, self.values)

  def redo(self, flat: dict) -> dict:
    values = [(old, new) for new, old in self.values]
    return _rename(flat, self.old, self.field, values)


# Newest first. A new field or name must be listed if older results exist.
CHANGES = (
  Added('data.column', 'text', 'lm'),
  Added('data.column', 'text', 'mlm'),
  Added('tensor', 1),
  Added('rules', ''),
  Renamed('model.remat', 'model.remat', (('none', False), ('full', True))),
  Added('skip_nonfinite', 0),
  Added('model.first_position', 0, 'encoder'),
  Added('model.epsilon', 1e-6, 'encoder_decoder'),
  Added('model.output_bias', False, 'encoder_decoder'),
  Added('optim.end_lr', 0.0, 'encoder_decoder'),
  Added('optim.layer_decay', 1.0, 'encoder_decoder'),
  Added('checkpoint.final', 'last', 'encoder_decoder'),
)


def config_hash(config: ConfigDict) -> str:
  """Returns twelve hexadecimal digits that change with any config value."""
  return hashes(config)[-1]


def hashes(config: ConfigDict) -> list[str]:
  """Returns the hash of each form of a config, that of the first form last."""
  flat = _flatten(config.to_dict())
  forms = [flat]
  for change in CHANGES:
    flat = change.undo(flat)
    forms.append(flat)
  return [_hash(_unflatten(form)) for form in forms]


def upgrade(values: dict) -> dict:
  """Converts a config that a run kept in any form to today's form."""
  flat = _flatten(values)
  for change in reversed(CHANGES):
    flat = change.redo(flat)
  return _unflatten(flat)


def _flatten(values):
  return traverse_util.flatten_dict(values, keep_empty_nodes=True, sep='.')


def _unflatten(flat):
  return traverse_util.unflatten_dict(flat, sep='.')


def _rename(flat, field, new, values):
  """Renames a field and its values; values: pairs (value, new value)."""
  if field not in flat:
    return flat
  value = flat[field]
  value = next((after for before, after in values if before == value), value)
  return {k: x for k, x in flat.items() if k != field} | {new: value}


def _hash(values):
  text = json.dumps(values, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]
