# SPDX-License-Identifier: Apache-2.0
"""A task, a variant and positions of one's own: a file each, in no folder here.

Each is at most 50 lines long; if one needs more, what is in its way is ours.
"""

import csv
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import collab
from collab import attention, decoding
from configs import glue, lm
from tests import tiny
import train

# Three classes of texts: train.csv, val.csv and test.csv, of text and class.
TASK = """
import csv

import numpy as np

from collab import tasks
from collab.data import epochs, examples
from collab.data.tokenizer_training import prepare
from collab.metrics import tokens

class Mine(tasks.Task):
  CLASSES = 'animal', 'plant', 'stone'

  def __init__(self, data, *, workdir, seed, shard):
    self.units_per_step, self.length = data.batch_size, data.row_length
    self.texts, self.labels = {}, {}
    for split in 'train', 'val', 'test':
      with open(f'{data.path}/{split}.csv', newline='') as file:
        texts, names = zip(*csv.reader(file))
      if split == 'train':
        ours = prepare(workdir, '', lambda: texts, data.vocab_size)
      self.texts[split] = examples.encode(zip(texts), ours, self.length)
      self.labels[split] = np.array([*map(self.CLASSES.index, names)])
    n = len(self.labels['train'])
    self.rows = epochs.Epochs(n, data.batch_size, seed, shard)
    text = dict(vocab_size=ours.vocab_size, head='classify')
    self.model_kwargs = text | dict(outputs=len(self.CLASSES))

  def examples(self, split, rows):
    labels = dict(labels=self.labels[split][rows])
    return examples.pad(self.texts[split], rows, self.length) | labels

  def batch(self, step):
    return self.examples('train', self.rows(step))

  def loss(self, model, params, batch, rngs):
    logits = model.apply({'params': params}, batch, rngs=rngs)
    ones = np.ones(batch['labels'].shape)
    return *tokens.cross_entropy(logits, batch['labels'], ones), {}

  def right(self, model, params, batch):
    return model.apply({'params': params}, batch).argmax(-1) == batch['labels']

  def passes(self, model, split):
    make = lambda rows: self.examples(split, rows)
    order = range(len(self.labels[split]))
    return dict(texts=tasks.Pass.over(self.right, order, 8, make))

  def metrics(self, split, found):
    right = found['texts'].tolist()
    return dict(accuracy=np.mean(right)), dict(right=right)
"""
# Queries and keys of one matrix, whose columns each head weighs.
VARIANT = """
from flax import linen as nn

from collab.attention import Attention, Heads


class Mine(Attention, kw_only=True):
  spread: float = 0.1

  def heads(self, x, y, z, positions):
    H, K = self.num_heads, self.head_dim(x.shape[-1])
    init = nn.initializers.normal(self.spread)
    weights = 1 + self.vector('weights', init, (H, K), x)
    both = nn.Dense(K, use_bias=False, dtype=self.dtype, name='both')
    return Heads(
      q=both(x)[:, :, None] * weights[None, None],
      k=both(y)[:, :, None],
      v=self.project('value', z, (H, K)),
    )
"""
# arXiv 2104.09864: queries and keys of multi-head attention, rotated.
ROTARY = '''
import jax.numpy as jnp

from collab.attention.variants.mha import MHA


class Mine(MHA, kw_only=True):
  base: float = 10_000.0

  def heads(self, x, y, z, positions):
    h = super().heads(x, y, z, positions)
    q, k = self.turn(h.q, positions.queries), self.turn(h.k, positions.keys)
    return h._replace(q=q, k=k)

  def turn(self, x, at):
    """Planes (i, K/2 + i) of x [B, T, H, K] by angles at / base^(2i / K)."""
    rates = self.base ** jnp.linspace(0, -1, x.shape[-1] // 2, endpoint=False)
    angles = at[:, :, None] * rates[None, None]
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)
'''


@pytest.fixture
def lab(tmp_path, monkeypatch):
  """A folder on sys.path with the package my_lab; writes its files."""
  (tmp_path / 'my_lab').mkdir()
  monkeypatch.syspath_prepend(tmp_path)

  def write(name, text):
    lines = text.strip().splitlines()
    assert len(lines) <= 50
    tiny.write_lines(tmp_path / 'my_lab' / f'{name}.py', lines)

  yield write
  for name in [x for x in sys.modules if x.split('.')[0] == 'my_lab']:
    del sys.modules[name]


def run(config, folder):
  """Trains a config; the test scores, and the same after opening it again."""
  config = train.workdirs.claim(config.lock(), str(folder))
  scores = train.run(config, str(folder))
  again = train.workdirs.claim(None, str(folder))
  assert train.run(again, str(folder), eval_only=True) == scores
  return scores


def test_a_task(lab, tmp_path):
  lab('tasks', TASK)
  kinds = dict(animal='cat dog cow', plant='oak fern ivy', stone='slate flint')
  rng = np.random.default_rng(0)
  for split, n in dict(train=90, val=20, test=21).items():
    with (tmp_path / f'{split}.csv').open('w', newline='') as file:
      writer = csv.writer(file)
      for kind in rng.choice(list(kinds), n):
        word = rng.choice(kinds[kind].split())
        writer.writerow([f'look, "{word}"\nthere', kind])
  c = glue.get_config('sample')
  c.task = dict(name='my_lab.tasks:Mine')
  c.data = dict(path=str(tmp_path), vocab_size=300, row_length=16, batch_size=8)
  c.model.update(dim=16, num_layers=1, mlp_dim=16)
  c.optim.update(lr=1e-2, warmup_steps=5)
  c.every.update(log=20, eval=20, checkpoint=20)
  c.update(total_steps=60)
  c.checkpoint.best = 'val/accuracy'
  scores = run(c, tmp_path / 'run')
  assert scores == dict(accuracy=1.0)


def language_model(folder, **fields):
  """A small model of text whose attention is my_lab's."""
  c = lm.get_config('sample')
  text = str(tiny.write_text(folder / 'text'))
  c.update_from_flattened_dict(tiny.SMALL_LM | {'data.path': text})
  c.model.attention = dict(name='my_lab.attention:Mine', num_heads=2)
  c.model.update(fields)
  c.optim.lr = 2e-2
  c.update(total_steps=60)
  c.every.update(log=30, eval=30, checkpoint=30)
  return c


@pytest.mark.slow
@pytest.mark.parametrize(
  'text, positions',
  [(VARIANT, 'learned'), (ROTARY, 'none')],
  ids=['variant', 'rotary'],
)
def test_an_attention(lab, tmp_path, text, positions):
  """It trains as others do; and decoding with a cache is the full pass."""
  lab('attention', text)
  config = language_model(tmp_path, positions=positions)
  scores = run(config, tmp_path / 'run')
  assert scores['perplexity'] < scores['unigram_perplexity']
  found = collab.load(str(tmp_path / 'run'))
  model, params = found.model, found.params
  tokens = np.random.default_rng(0).integers(5, 200, (2, 11))
  full = jax.jit(lambda p: model.apply({'params': p}, dict(tokens=tokens)))
  step = jax.jit(decoding.step_of(model, params))
  cache, logits = decoding.empty_cache(model, *tokens.shape), []
  for part in np.split(tokens, [4, 5, 7], axis=1):
    new, cache = step(part, cache)
    logits.append(new)
  np.testing.assert_allclose(
    jnp.concatenate(logits, 1), full(params), atol=1e-4
  )


def test_the_counts_of_a_variant(lab):
  lab('attention', VARIANT)
  D, H, K = 6, 3, 2
  layer = attention.build('my_lab.attention:Mine', num_heads=H)
  kernels = D * K + H * K + 2 * D * H * K
  assert layer.count(D) == kernels + H * K + D
  assert layer.cache_size(D) == (1 + H) * K


def test_the_rotary_scores_depend_on_distances_alone(lab):
  lab('attention', ROTARY)
  layer = attention.build('my_lab.attention:Mine', num_heads=2)
  x, at = jax.random.normal(jax.random.key(1), (2, 5, 12)), np.arange(5)[None]
  y, variables = layer.init_with_output(jax.random.key(0), x)
  shifted = layer.apply(variables, x, positions=at + 7)
  np.testing.assert_allclose(shifted, y, atol=1e-5)
  stretched = layer.apply(variables, x, positions=2 * at)
  assert np.abs(stretched - y).max() > 0.01
