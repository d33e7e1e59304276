# SPDX-License-Identifier: Apache-2.0
"""Computes attention maps of a trained model on an example.

Axes: H heads of a layer, T queries, S keys, N heads of some layers.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import entr

from collab import models
from collab.analysis import redundancy
from collab.convert import calibration
from collab.convert import source as sources
from collab.data import examples
from collab.inference import attention_maps, run
from collab.models import vit
from collab.tasks import wmt14

MOST = 20  # maximum tokens of a text, which a page can label


class Layer(NamedTuple):
  """The attention of one layer in one call.

  Attributes:
    name: 'encoder 0', 'decoder 1 cross'.
    weights: float [H, T, S], of a softmax over S.
    queries: T tokens, as text.
    keys: S tokens, as text.
  """

  name: str
  weights: np.ndarray
  queries: list
  keys: list

  @property
  def place(self) -> str:
    """The kind of layer: 'encoder', 'decoder', 'decoder cross'."""
    return ' '.join(word for word in self.name.split() if word.isalpha())


class Example(NamedTuple):
  """An example that a model reads.

  Attributes:
    about: description for people.
    batch: batch of one row for the model.
    tokens: {stack: tokens as text}, for 'encoder', 'decoder' or both.
    picture: uint8 [S, S, C] for a model of images, or None.
  """

  about: str
  batch: dict
  tokens: dict
  picture: np.ndarray | None = None


# The example ------------------------------------------------------------------


def example(found: sources.Source, text: str = '') -> Example:
  """Makes an Example from a row of the run's training data, or from a text.

  Args:
    found: convert.source.Source.
    text: for the model to encode, to continue or to translate.

  Raises:
    ValueError: the data is missing, or the model does not read text.
  """
  return SHOWN[_reads(found)](found, text)


def _reads(found):
  return models.find(found.model['name']).READS


def _image(found, text):
  if text:
    raise ValueError(f'{found.folder} is a model of images: it has no --text.')
  images = _training(found)['images'][:1]
  data, model = found.config.data, found.model
  pixels = images[0] * np.float32(data.std) + np.float32(data.mean)
  picture = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
  patches = (model['image_size'] // model['patch']) ** 2
  names = [*vit.TOKENS[model['distillation']], *map(str, range(patches))]
  about = 'An image of the training data, augmented as in training'
  return Example(about, dict(images=images), dict(encoder=names), picture)


def _row(found, text):
  """Makes one sequence, for an encoder or a decoder."""
  if not text:
    batch = _training(found)
  elif _reads(found) == 'texts':
    words = sources.words(found)
    rows = examples.encode([(text,)], words, found.model['max_length'])
    batch = examples.pad(rows, [0], int(rows.lengths[0]))
  else:
    words = sources.words(found)
    batch = dict(tokens=np.int32([[words.start_id, *words.encode(text)]]))
  L = batch['tokens'].shape[-1]
  n = int(batch['lengths'].flat[0]) if 'lengths' in batch else L
  kept = min(n, MOST)
  row = {
    name: batch[name].reshape(-1, L)[:1, :kept]
    for name in ('tokens', 'types')
    if name in batch
  }
  about = f'{_whence(text)}, {_length(kept, n)}'
  (place,) = models.build(**found.model).attentions()
  tokens = {place.name: _spell(found, row['tokens'][0])}
  return Example(about, row | dict(lengths=np.int32([kept])), tokens)


def _pair(found, text):
  """Makes a source and a target; the model translates a given text."""
  if text:
    words = sources.words(found)
    (target,) = run.of_source(found).translate([text], beam=1)
    if isinstance(target, Exception):
      raise ValueError(f'{_whence(text)}: {target}.')
    after = words.encode_targets([target])[0]
    whole = wmt14.encode(words, [text])[0], [words.bos_id, *after]
  else:
    batch = _training(found)
    whole = [
      batch[name][0][batch[f'{side}_segments'][0] == 1]
      for side, name in (('source', 'source'), ('target', 'target_inputs'))
    ]
  source, target = (np.int32(side[:MOST])[None] for side in whole)
  row = dict(source=source, target_inputs=target)
  for name, side in dict(source=source, target=target).items():
    row[f'{name}_segments'] = np.ones_like(side)
    row[f'{name}_positions'] = np.arange(side.shape[1], dtype=np.int32)[None]
  cut = [_length(min(len(side), MOST), len(side)) for side in whole]
  made = 'and its translation' if text else 'and its target'
  about = f'{_whence(text)}, {cut[0]}, {made}, {cut[1]}'
  tokens = dict(encoder=source[0], decoder=target[0])
  return Example(about, row, {k: _spell(found, x) for k, x in tokens.items()})


SHOWN = dict(images=_image, texts=_row, stream=_row, pairs=_pair)


def _training(found):
  """Returns the first batch of the run's training data."""
  return calibration.read(found, calibration.TRAIN, rows=1).batches[0]


def _spell(found, ids):
  """Converts tokens to text; special ones get their names."""
  return [text.strip() or '␣' for text in sources.words(found).spelled(ids)]


def _whence(text):
  return 'The given text' if text else 'From the training data'


def _length(kept, n):
  return f'{n} tokens' if kept == n else f'the first {kept} of {n} tokens'


# Its maps ---------------------------------------------------------------------


def attend(found: sources.Source, seen: Example) -> list[Layer]:
  """Computes each layer's attention on an Example, in the order of calls."""
  fields = found.model | dict(dtype='float32')
  if 'head' in fields:  # the model stops before its head
    fields |= dict(head='none', outputs=0, pooler=False)
  model, layers = models.build(**fields), []
  every = attention_maps.weights(model, found.params, seen.batch)
  for path, weights in every.items():
    stack, *_, kind = place = path.split('/')
    queries = seen.tokens[stack]
    keys = seen.tokens['encoder'] if kind == 'cross' else queries
    name = redundancy.label(place)
    if weights.ndim == 3:
      layers.append(Layer(name, weights, queries, keys))
      continue
    for i, one in enumerate(weights):  # a layer that is called several times
      layers.append(Layer(f'{name.rstrip("0")}{i}', one, queries, keys))
  return layers


def width(weights: np.ndarray) -> np.ndarray:
  """Computes 2^entropy, a head's number of keys, the mean over queries: [H].

  Args:
    weights: [H, T, S].
  """
  return np.exp(entr(weights).sum(-1)).mean(-1)


def likeness(weights: np.ndarray) -> np.ndarray:
  """Computes 1 - the Jensen-Shannon divergence of heads' maps, bits: [N, N].

    1 - mean_t (h((p + q) / 2) - (h(p) + h(q)) / 2),  h the entropy

  1 means the same map; 0 means maps that never look at the same key. Queries
  that see only one key, like the first of a causal layer, do not count.

  Args:
    weights: [N, T, S], maps of heads with the same queries and keys.
  """
  open_ = (weights > 0).any(0).sum(-1) > 1
  p = np.float64(weights[:, open_] if open_.any() else weights)
  h = entr(p).sum(-1)
  mixed = [entr((p + q) / 2).sum(-1) for q in p]
  apart = np.stack(mixed) - (h[:, None] + h[None]) / 2
  return np.clip(1 - apart.mean(-1) / np.log(2), 0, 1)
