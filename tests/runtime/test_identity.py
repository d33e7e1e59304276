# SPDX-License-Identifier: Apache-2.0
"""A run's hash lasts while configs change, and its kept config still opens."""

import json

from ml_collections import ConfigDict
import pytest

from collab import model_json
from collab.runtime import identity, workdir
from configs import decoder, glue, lm, mlm, squad, superglue, vit, wmt14

# Fields that configs of all models have gained, and their neutral values.
NEW = dict(skip_nonfinite=0, tensor=1, rules='')
FAMILIES = decoder, glue, lm, mlm, squad, superglue, vit, wmt14


def config(**model):
  return ConfigDict(dict(model=dict(name='decoder', dim=7) | model, files=()))


@pytest.fixture
def changed(monkeypatch):
  """Says what has happened to configs since."""

  def change(*changes):
    monkeypatch.setattr(identity, 'CHANGES', (*changes, *identity.CHANGES))

  return change


def test_a_new_field_at_its_neutral_value_changes_no_hash(changed):
  before = identity.hashes(config())
  changed(identity.Added('model.window', 0))
  assert identity.config_hash(config(window=0)) == before[-1]
  assert set(before) < set(identity.hashes(config(window=0)))
  assert not set(before) & set(identity.hashes(config(window=3)))


def test_a_new_field_of_one_kind_of_model(changed):
  before = identity.config_hash(config())
  changed(identity.Added('model.window', 0, 'vit'))
  assert identity.config_hash(config(window=0)) != before
  assert identity.upgrade(config().to_dict()) == dict(config().to_dict(), **NEW)


def test_a_new_name_of_a_field_or_of_a_value_changes_no_hash(changed):
  before = identity.hashes(config(norm='pre', heads=3))
  changed(
    identity.Renamed('model.norm', 'model.norm', (('pre-norm', 'pre'),)),
    identity.Renamed('model.num_heads', 'model.heads'),
  )
  now = config(norm='pre-norm', num_heads=3)
  assert identity.config_hash(now) == before[-1]
  assert set(before) < set(identity.hashes(now))
  other = config(norm='pre-norm', num_heads=4)
  assert not set(before) & set(identity.hashes(other))
  old = config(norm='pre', heads=3).to_dict()
  assert identity.upgrade(old) == dict(now.to_dict(), **NEW)


@pytest.mark.parametrize('family', FAMILIES)
def test_every_form_of_a_config_is_upgraded_to_it(family):
  now = family.get_config().to_dict()
  flat = identity._flatten(now)
  for change in identity.CHANGES:
    flat = change.undo(flat)
    assert identity.upgrade(identity._unflatten(flat)) == now


def test_a_workdir_of_the_first_form_goes_on(tmp_path):
  """Its run.json, and its model.json, have neither new fields nor names."""
  now = wmt14.get_config('sample').lock()
  workdir.claim(now, tmp_path)
  kept = json.loads((tmp_path / 'run.json').read_text())
  old = kept['config']
  del old['skip_nonfinite'], old['model']['epsilon'], old['checkpoint']['final']
  old['model']['remat'] = False
  (tmp_path / 'run.json').write_text(json.dumps(kept))
  (tmp_path / 'model.json').write_text(json.dumps(old['model']))
  assert workdir.claim(None, tmp_path) == now
  assert workdir.claim(now, tmp_path) == now
  assert model_json.read(tmp_path)[0] == now.model.to_dict()
