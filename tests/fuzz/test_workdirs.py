# SPDX-License-Identifier: Apache-2.0
"""Damaged workdirs give what they kept, or an error; nothing in between."""

import json
import shutil

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import collab
from collab import model_json, models
from collab.convert import source
from collab.data import tokenizer, tokenizer_training
from collab.data.readers import text
from collab.io import atomic, sealed
from collab.runtime import checkpoint, workdir
from collab.training import logs
from configs import lm
from tests.fuzz.damage import (
  Refused,
  damaged,
  fuzz,
  json_files,
  outcome,
)

LINES = ['eins zwei drei', 'two 2 three 3']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The workdir of a language model that was saved twice, and what it has."""
  folder = tmp_path_factory.mktemp('run')
  config = lm.get_config('sample')
  config.model.update(dim=8, mlp_dim=8, num_layers=1, max_length=16)
  config.model.attention.num_heads = 2
  config.checkpoint.update(best='', final='last', keep=2)
  workdir.claim(config.lock(), folder)
  words = tokenizer_training.train(LINES, 270, folder / 'tokenizer.json')
  fields = config.model.to_dict() | dict(vocab_size=words.vocab_size)
  model_json.write(folder, fields, model_json.Meaning(words.fingerprint))
  model = models.build(**fields)
  tokens = jnp.zeros((1, 3), jnp.int32)
  params = jax.jit(model.init)(jax.random.key(0), dict(tokens=tokens))['params']
  checkpoints = checkpoint.Checkpoints(folder, 2)
  for step in (100, 200):
    factor = jnp.float32(step)
    state = jax.tree.map(lambda x, f=factor: x * f, params)
    checkpoints.save(step, dict(step=jnp.int32(step), params=state))
  checkpoints.close()
  return folder, jax.tree.map(np.asarray, params)


@pytest.fixture
def copy(run, tmp_path_factory):
  """A fresh copy of the workdir."""

  def make():
    folder = tmp_path_factory.getbasetemp() / 'copy'
    shutil.rmtree(folder, ignore_errors=True)
    return shutil.copytree(run[0], folder)

  return make


JSON = ('run.json', 'model.json', 'tokenizer.json')


@pytest.mark.parametrize('name', JSON)
@fuzz(60)
@given(st.data())
def test_json(name, run, tmp_path_factory, data):
  folder = tmp_path_factory.getbasetemp() / 'json'
  folder.mkdir(exist_ok=True)
  for other in JSON:
    shutil.copy(run[0] / other, folder)
  good = json.loads((folder / name).read_text())
  (folder / name).write_bytes(data.draw(json_files(good)))
  found = outcome(read, folder, kinds=(ValueError, OSError, TypeError))
  if isinstance(found, Refused):
    assert '\n' not in found


def read(folder):
  config = workdir.claim(None, folder)
  workdir.claim(lm.get_config('sample').lock(), folder)
  found = model_json.read(folder), tokenizer.load(folder / 'tokenizer.json')
  return config, *found


# Orbax ends reads that are under way after it has closed its event loop.
@pytest.mark.filterwarnings(
  'ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning'
)
@fuzz(40)
@given(st.data())
def test_checkpoint(copy, run, data):
  """Any file of the newest: its values to the bit, or those before it."""
  folder = copy()
  paths = sorted(
    p for p in (folder / 'checkpoints' / '200').rglob('*') if p.is_file()
  )
  path = data.draw(st.sampled_from(paths))
  path.write_bytes(data.draw(damaged(path.read_bytes())))
  found = outcome(collab.load, folder)
  if isinstance(found, Refused):
    assert '\n' not in found
    return
  got = jax.tree.map(np.asarray, found.params)

  def equal(step):
    return lambda x, y: np.array_equal(x, y * np.float32(step))

  assert any(
    jax.tree.all(jax.tree.map(equal(step), got, run[1])) for step in (100, 200)
  )


MODELS = [
  (dict(dim=10), r'mlp_in/kernel: expected float32\[10, 8\], found .*\[8, 8\]'),
  (dict(num_layers=2), r'layer_1/.*: expected float32\[8.*\], found none'),
  (dict(vocab_size=7), r'expected float32\[7, 8\], found float32\[270, 8\]'),
  (dict(attention=7), 'model.json is of no model: '),
  (dict(attention=dict(name='mqa', num_heads=2)), 'expected .* found '),
  (dict(dim=9), 'model.json is of no model: '),
]


@pytest.mark.parametrize('fields, words', MODELS)
@pytest.mark.parametrize('how', ['load', 'convert'])
def test_model_that_is_not_of_the_checkpoints(how, fields, words, copy):
  folder = copy()
  good = json.loads((folder / 'model.json').read_text())
  atomic.save_json(folder / 'model.json', good | fields)
  read = source.read if how == 'convert' else collab.load
  with pytest.raises(ValueError, match=words) as error:
    read(folder)
  assert str(error.value).startswith(f'{folder}/model.json is ')
  assert '\n' not in str(error.value)
  assert not list(folder.glob('damaged'))


@fuzz(60)
@given(st.data())
def test_cache(tmp_path_factory, data):
  """It is used if it is what it was, else made anew."""
  folder = tmp_path_factory.getbasetemp() / 'cache'
  if not folder.exists():
    folder.mkdir()
    tokenizer_training.train(LINES, 270, folder / 'tokenizer.json')
  words = tokenizer.load(folder / 'tokenizer.json')
  lines = text.Text('lines', 'lines', dict(train=lambda: iter(LINES)))
  for path in folder.glob('text-*'):
    shutil.rmtree(path)
  good = text.stream(lines, 'train', words, folder)
  wanted = np.array(good.tokens), good.words, good.characters
  (place,) = (p for p in folder.iterdir() if p.is_dir())
  path = data.draw(st.sampled_from(sorted(place.iterdir())))
  content = path.read_bytes()
  if path.suffix == '.json':
    path.write_bytes(data.draw(json_files(json.loads(content))))
  else:
    path.write_bytes(data.draw(damaged(content)))
  got = text.stream(lines, 'train', words, folder)
  np.testing.assert_array_equal(got.tokens, wanted[0])
  assert (got.words, got.characters) == wanted[1:]
  sealed.content(place)


@fuzz(60)
@given(st.data())
def test_metrics(tmp_path_factory, data):
  """A torn last line is no error, any other is."""
  path = tmp_path_factory.getbasetemp() / 'metrics.jsonl'
  rows = [{'step': i, 'train/loss': 1 / i} for i in (1, 2, 3)]
  good = ''.join(json.dumps(row) + '\n' for row in rows).encode()
  edits = st.floats(0, 1)
  cut = int(data.draw(edits) * len(good))
  path.write_bytes(good[:cut])
  found = logs.read_rows(path)
  assert found == rows[: len(found)]
  assert len(found) in (good[:cut].count(b'\n'), good[:cut].count(b'\n') + 1)
  path.write_bytes(data.draw(damaged(good)))
  found = outcome(logs.read_rows, path)
  assert isinstance(found, Refused) or all(
    row['step'] + 0 >= 0 for row in found
  )
