# SPDX-License-Identifier: Apache-2.0
"""Every experiment in configs/ runs, and goes on where it stood.

Here one of them; -m slow runs all families with all variants.
"""

import itertools
import shutil

import pytest

from collab.runtime import workdir
from collab.tasks import wmt14
import configs
from tests import tiny
from tests.few import few
from tests.test_configs import DECODE, FAMILIES, VARIANTS, get
import train

pytestmark = pytest.mark.usefixtures('counted_once')


def shrink(config):
  """Two steps, each with all that can be due."""
  configs.shorten(config, 2)
  config.checkpoint.update(keep=2, average=1)
  return config.lock()


@pytest.fixture(autouse=True)
def few_translations(monkeypatch):
  """Decoding 500 sentences by a model that never stops takes its time."""
  whole = wmt14.Translation._test.func
  few = property(lambda task: [x[:8] for x in whole(task)])
  monkeypatch.setattr(wmt14.Translation, '_test', few)


# Other tests run lm, glue and wmt14, on data of their own, and other heads.
@few(
  [
    x
    for x in itertools.product(FAMILIES, VARIANTS)
    if x[1] != 'linformer' or x[0] not in DECODE
  ],
  [('mlm', 'mha')],
  'name, variant',
)
def test_runs_and_goes_on(name, variant, tmp_path):
  config = workdir.claim(shrink(get(name, f'smoke,{variant}')), tmp_path)
  scores = train.run(config, str(tmp_path))
  rows = tiny.rows(tmp_path)
  assert [row['step'] for row in rows if 'train/loss' in row] == [1, 2]
  assert [row['step'] for row in rows if config.checkpoint.best] == [1, 1, 2, 2]
  best = f'val/{config.checkpoint.best.split("/")[-1]}'
  assert all(best in row for row in rows if 'train/loss' not in row)
  # A step that is lost is made again, exactly.
  (tmp_path / 'result.json').unlink()
  shutil.rmtree(tmp_path / 'checkpoints' / '2')
  assert train.run(workdir.claim(None, tmp_path), str(tmp_path)) == scores
  assert tiny.rows(tmp_path) == rows
  assert (tmp_path / 'result.json').exists()
