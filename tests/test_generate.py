# SPDX-License-Identifier: Apache-2.0
"""collab.generate: lines go on, alone as together; errors are one line."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import decoding, models
from collab.data import tokenizer
from collab.generate import generate
from collab.training import workdir as workdirs
from configs import lm
from tests import tiny
from tests.models import small

PROMPTS = ['one two', '', 'drei vier fünf', '9', 'one']


@pytest.fixture(scope='module')
def words(tmp_path_factory):
  path = tmp_path_factory.mktemp('words') / 'tokenizer.json'
  return tokenizer.train(iter(tiny.WORDS.values()), 300, path)


@functools.cache
def model(vocab_size):
  return models.build(
    'decoder',
    vocab_size=vocab_size,
    attention=small.ATTENTION['mhe_add'],
    dim=small.D,
    num_layers=1,
    mlp_dim=17,
    max_length=31,
  )


@functools.cache
def parameters(vocab_size):
  batch = dict(tokens=jnp.zeros((1, 1), jnp.int32))
  return small.parameters(model(vocab_size), batch)


@pytest.fixture(scope='module')
def go_on(words):
  n = words.vocab_size
  return functools.partial(
    generate, model(n), parameters(n), words, length=7, batch_size=2
  )


def test_greedy_lines_go_on(go_on, words):
  """By the most likely token of the full pass, up to the end of the line."""
  n = words.vocab_size
  for prompt, line in zip(PROMPTS, go_on(PROMPTS, temperature=0), strict=True):
    ids = [words.eos_id, *words.encode(prompt)]
    P = len(ids)
    for _ in range(7):
      # Padded, which causal attention does not see: one program for all.
      tokens = np.zeros((1, 31), np.int32)
      tokens[0, : len(ids)] = ids
      logits = small.apply(model(n), parameters(n), dict(tokens=tokens))
      ids.append(int(logits[0, len(ids) - 1].argmax()))
      if ids[-1] == words.eos_id:
        break
    assert len(ids) > P
    assert line == words.decode(ids)
    assert line.startswith(prompt)


def test_samples_depend_on_the_seed_alone(go_on):
  lines = go_on(PROMPTS, seed=3)
  assert lines == go_on(PROMPTS, seed=3)
  assert lines != go_on(PROMPTS, seed=4)
  # Within one token there is no choice.
  assert go_on(PROMPTS, top_k=1) == go_on(PROMPTS, temperature=0)


def test_no_prompts(go_on):
  assert go_on([]) == []


def test_a_prompt_that_is_too_long_costs_itself_alone(go_on):
  options = dict(temperature=0)
  first, long, last = go_on(['one two', '9' * 40, 'one'], **options)
  assert [first, last] == go_on(['one two', 'one'], **options)
  assert isinstance(long, ValueError)
  assert str(long) == (
    '42 tokens; with length=7 the model needs max_length=48, it has 31'
  )
  (alone,) = go_on(['one two'], length=29)
  assert isinstance(alone, ValueError)


@pytest.mark.parametrize('temperature', [0, 1.0])
def test_outputs_that_are_not_finite_are_no_text(go_on, words, temperature):
  n = words.vocab_size
  bad = jax.tree.map(lambda x: x * np.nan, parameters(n))
  options = dict(length=3, temperature=temperature)
  for line in generate(model(n), bad, words, ['one', ''], **options):
    assert isinstance(line, FloatingPointError)


def test_a_line_break_of_the_model_is_a_blank(go_on, words, monkeypatch):
  ids = words.encode('two\nthree\r\n')

  def decode(*args):
    *_, prompt, _, _ = args
    rows = jnp.tile(jnp.array(ids)[None], (len(prompt), 1))
    return decoding.Decoded(rows, jnp.zeros(len(prompt)))

  monkeypatch.setattr('collab.generate._decode', decode)
  assert go_on(['one', '']) == ['one two three ', ' two three ']


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(length=0), 'length must be 1 or more, got 0'),
    (dict(temperature=-1.0), 'temperature must be above 0, got -1.0'),
    (dict(top_k=-1), 'top_k must be 0'),
    (dict(top_p=0.0), 'top_p must be above 0'),
    (dict(seed=2**63), r'seed=\d+; expected a number of 64 bits'),
  ],
)
def test_impossible_options(go_on, options, message):
  with pytest.raises(ValueError, match=message):
    go_on(['one two'], **options)


def test_command_needs_a_run_of_lm(tmp_path):
  """What is wrong is said in one line."""
  c = lm.get_config('sample')
  c.task.name = 'mlm'
  workdirs.claim(c, tmp_path)
  command = [sys.executable, '-m', 'collab.generate', '--prompt=one']
  for folder, message in (
    (tmp_path, f'generate: {tmp_path} is a run of mlm, expected lm.\n'),
    (tmp_path / 'x', f'generate: {tmp_path / "x" / "run.json"} is missing'),
  ):
    done = subprocess.run(
      [*command, f'--workdir={folder}'],
      capture_output=True,
      text=True,
      cwd=tiny.ROOT,
    )
    assert (done.returncode, done.stdout) == (1, '')
    assert done.stderr.startswith(message)
    assert done.stderr.count('\n') == 1
