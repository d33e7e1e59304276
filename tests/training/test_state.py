# SPDX-License-Identifier: Apache-2.0
"""A run whose layers are stacked in memory: the same run, the same files."""

import jax
import numpy as np
import pytest

from collab.runtime import final_params, tree_table, workdir
from configs import lm
from tests import tiny
import train

pytestmark = pytest.mark.usefixtures('counted_once')


def run(text, folder, **changes):
  """Trains a small language model of two layers; config and scores."""
  changes = {key.replace('__', '.'): x for key, x in changes.items()}
  small = tiny.SMALL_LM | {
    'model.num_layers': 2,
    'data.path': str(text),
    'optim.warmup_steps': 1,
    'every.eval': 100,
    'every.checkpoint': 2,
  }
  config = lm.get_config('sample')
  config.update_from_flattened_dict(small | changes)
  config.lock()
  workdir.claim(config, folder)
  return config, train.run(config, str(folder))


def test_a_scan_is_the_loop_on_disk(tmp_path):
  """With init_from, EMA and layer decay; also when it is opened again."""
  text = tiny.write_text(tmp_path / 'text')
  run(text, tmp_path / 'first', total_steps=2)
  more = dict(
    init_from=str(tmp_path / 'first'), optim__ema=0.9, optim__layer_decay=0.7
  )
  found = {}
  for scan in (False, True):
    folder = tmp_path / f'{scan}'
    fields = dict(total_steps=4, seed=1, model__scan=scan)
    config, scores = run(text, folder, **fields, **more)
    params = tree_table.named(final_params.load(folder, config))
    found[scan] = params, (folder / 'parameters.txt').read_text(), scores
  (want, table, scores), (got, *_) = found[False], found[True]
  assert got.keys() == want.keys()
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
    got,
    want,
  )
  assert found[True][1] == table
  again = train.run(config, str(folder), eval_only=True)
  assert again == found[True][2]
  np.testing.assert_allclose(again['nll'], scores['nll'], rtol=1e-5)
