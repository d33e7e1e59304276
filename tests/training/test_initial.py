# SPDX-License-Identifier: Apache-2.0
"""The parameters of an earlier run, and what is said of them."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from collab.model_json import Meaning
from collab.training import checkpoint, initial, leaves, workdir


def make_config(**changes):
  c = ConfigDict()
  c.optim = dict(ema=0.0)
  c.checkpoint = dict(keep=3, best='val/score', average=1, final='last')
  c.data = dict(vocabulary='')
  c.init_from = ''
  c.update(task={}, model={}, total_steps=3, seed=0)
  c.update_from_flattened_dict(changes)
  return c


def make_params(key, width=7, head=3):
  keys = jax.random.split(jax.random.key(key), 3)
  normal = jax.random.normal
  return dict(
    embed=dict(embedding=normal(keys[0], (11, width))),
    encoder=dict(layer_0=dict(kernel=normal(keys[1], (width, width)))),
    head=dict(kernel=normal(keys[2], (width, head))),
  )


@pytest.fixture
def earlier(tmp_path):
  """A run of three checkpoints, of which the second is the best."""

  def make(**changes):
    folder = tmp_path / 'earlier'
    workdir.claim(make_config(**changes), folder)
    checkpoints = checkpoint.Checkpoints(folder, 3, 'val/score')
    for step, score in enumerate((0.1, 0.5, 0.3), 1):
      state = dict(params=make_params(step), ema=make_params(10 * step))
      checkpoints.save(step, state, {'val/score': score})
    checkpoints.close()
    return folder

  return make


@pytest.mark.parametrize(
  'changes, keys',
  [
    ({}, [3]),
    ({'checkpoint.average': 2}, [2, 3]),
    ({'checkpoint.final': 'best'}, [2]),
    ({'optim.ema': 0.9}, [30]),
    ({'optim.ema': 0.9, 'checkpoint.final': 'best'}, [20]),
  ],
)
def test_is_what_the_run_was_judged_by(changes, keys, earlier):
  got = initial.load(earlier(**changes), make_params(0), Meaning())
  trees = [make_params(key) for key in keys]
  want = jax.tree.map(lambda *x: sum(x) / len(x), *trees)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), got, want)


def test_another_head_is_fresh(earlier, capsys):
  params = make_params(0, head=5) | dict(pooler=dict(bias=jnp.ones(7)))
  got = leaves.named(initial.load(earlier(), params, Meaning()))
  old, new = leaves.named(make_params(3)), leaves.named(params)
  assert set(got) == set(new)
  for name, x in got.items():
    fresh = name in ('head/kernel', 'pooler/bias')
    np.testing.assert_array_equal(x, (new if fresh else old)[name])
  said = capsys.readouterr().out
  for words in ('embed (1), encoder (1)', 'head (1), pooler (1)'):
    assert words in said
  assert said.index(' loaded') < said.index(' fresh') < said.index(' not used')


def test_another_width_is_refused(earlier):
  folder = earlier()
  words = r'embed/embedding: expected float32\[11, 13\], found .*\[11, 7\]'
  with pytest.raises(ValueError, match=words) as info:
    initial.load(folder, make_params(0, width=13), Meaning())
  assert f'init_from={folder}' in str(info.value)
  assert 'head' not in str(info.value)


def test_nothing_in_common_is_refused(earlier):
  with pytest.raises(ValueError, match='other/x: expected'):
    initial.load(earlier(), dict(other=dict(x=jnp.ones(3))), Meaning())


def test_no_run(tmp_path):
  with pytest.raises(ValueError, match=r'run\.json is missing'):
    initial.load(tmp_path, make_params(0), Meaning())
  workdir.claim(make_config(), tmp_path)
  with pytest.raises(ValueError, match='has no checkpoint'):
    initial.load(tmp_path, make_params(0), Meaning())


def test_tokenizer_comes_along(earlier, tmp_path):
  folder = earlier()
  (folder / 'tokenizer.json').write_text('{}')
  config = make_config(init_from=str(folder))
  workdir.claim(config, tmp_path / 'new')
  assert (tmp_path / 'new' / 'tokenizer.json').read_text() == '{}'
  config.data.vocabulary = 'other.json'
  with pytest.raises(ValueError, match=r'data\.vocabulary=other\.json, but'):
    workdir.claim(config, tmp_path / 'newer')
  config.init_from = str(tmp_path)
  with pytest.raises(ValueError, match='is no workdir'):
    workdir.claim(config, tmp_path / 'newest')
  assert not (tmp_path / 'newest' / 'run.json').exists()
