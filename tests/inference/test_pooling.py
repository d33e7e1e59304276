# SPDX-License-Identifier: Apache-2.0
"""What the files of Sentence Transformers say, and what they may not."""

import json

import numpy as np
import pytest

from collab.inference import pooling
from collab.inference.pooling import Pooling

KINDS = 'Transformer', 'Pooling', 'Normalize'


def files(config, kinds=KINDS, **others):
  """A folder's files: 1_Pooling/config.json, modules.json, and others."""
  modules = [
    dict(type=f'sentence_transformers.models.{x}', path=f'{i}_{x}')
    for i, x in enumerate(kinds)
  ]
  names = {
    'modules.json': modules,
    '1_Pooling/config.json': config,
    **{f'{name}.json': content for name, content in others.items()},
  }
  return {name: json.dumps(x).encode() for name, x in names.items()}


@pytest.mark.parametrize(
  'config, mode',
  [
    (dict(pooling_mode='max'), 'max'),
    (dict(pooling_mode=['cls']), 'cls'),
    (dict(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False), 'cls'),
    (dict(pooling_mode_mean_tokens=True, pooling_mode_lasttoken=False), 'mean'),
    ({}, 'mean'),
  ],
)
def test_modes_of_old_and_of_new_files(config, mode):
  assert pooling.read(files(config)) == Pooling(mode, normalize=True)
  assert pooling.read(files(config, KINDS[:2])) == Pooling(mode)


def test_settings_of_the_texts():
  settings = dict(max_seq_length=9, do_lower_case=True)
  found = pooling.read(files({}, sentence_bert_config=settings))
  assert found == Pooling('mean', True, 9, True)
  settings = dict(max_seq_length=None)
  assert pooling.read(files({}, sentence_bert_config=settings)).longest == 0


def test_no_files():
  assert pooling.read({}) == Pooling()


@pytest.mark.parametrize(
  'given, words',
  [
    (files({}, (*KINDS, 'Dense')), 'has Transformer, .*, Dense; expected Tr'),
    (files({}, ('Transformer',)), 'has Transformer; expected'),
    (files(dict(pooling_mode='lasttoken')), "='lasttoken'; there are cls, max"),
    (
      files(dict(pooling_mode_weightedmean_tokens=True)),
      r"1_Pooling/config.json: .*\['weightedmean_tokens'\]|='weightedmean_tok",
    ),
    (
      files(dict(pooling_mode_cls_token=1, pooling_mode_max_tokens=1)),
      r"=\['cls', 'max'\]; there are",
    ),
    (
      files({}, config_sentence_transformers=dict(default_prompt_name='query')),
      "default_prompt_name='query', which is not supported",
    ),
    (files({}, sentence_bert_config=dict(max_seq_length='9')), "is '9', expec"),
    *(
      (
        files({}, sentence_bert_config=dict(max_seq_length=n)),
        rf'^sentence_bert_config\.json: max_seq_length={n}; .* at least 5\.',
      )
      for n in (-4, 0, 4, True)
    ),
    (files(7), r'1_Pooling/config\.json holds a int, expected'),
    (
      {'modules.json': b'[{"type": "Transformer"'},
      r'^modules\.json: Expecting',
    ),
    (
      {k: x for k, x in files({}).items() if k == 'modules.json'},
      r'1_Pooling/config\.json is missing, which modules\.json lists',
    ),
  ],
)
def test_what_is_not_supported_is_named(given, words):
  with pytest.raises(ValueError, match=words) as info:
    pooling.read(given)
  assert '\n' not in str(info.value)


class Stub:
  """An encoder whose outputs are its parameters."""

  def clone(self, **fields):
    return self

  def apply(self, variables, batch):
    return variables['params'], None


@pytest.mark.parametrize('normalize', [False, True])
@pytest.mark.parametrize('mode', ['mean', 'cls', 'max'])
def test_padding_does_not_count(mode, normalize):
  x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
  lengths = np.array([5, 2])
  batch = dict(lengths=lengths)
  found = Pooling(mode, normalize)(Stub(), x, batch)
  for got, row, n in zip(found, x, lengths, strict=True):
    real = row[:n]
    want = dict(mean=real.mean(0), cls=real[0], max=real.max(0))[mode]
    want = want / np.linalg.norm(want) if normalize else want
    np.testing.assert_allclose(got, want, rtol=1e-5)
