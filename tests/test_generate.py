# SPDX-License-Identifier: Apache-2.0
"""collab.generate: lines go on, alone as together; errors are one line."""

import functools
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import collab
from collab import decoding, model_json, models
from collab.data import tokenizer_training
from collab.generate import main
from collab.inference.continuation import Continuation
from collab.inference.run import Run
from collab.runtime import checkpoint
from collab.runtime import workdir as workdirs
from configs import lm
from tests import tiny
from tests.few import few
from tests.models import small

PROMPTS = ['one two', '', 'drei vier fünf', '9', 'one']


@pytest.fixture(scope='module')
def words(tmp_path_factory):
  path = tmp_path_factory.mktemp('words') / 'tokenizer.json'
  return tokenizer_training.train(iter(tiny.WORDS.values()), 300, path)


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
  run = Run(model(n), parameters(n), words)
  return functools.partial(run.generate, length=7, batch_size=2)


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


@few([0, 1.0], [1.0], 'temperature')
def test_outputs_that_are_not_finite_are_no_text(go_on, words, temperature):
  n = words.vocab_size
  bad = jax.tree.map(lambda x: x * np.nan, parameters(n))
  options = dict(length=3, temperature=temperature)
  for line in Run(model(n), bad, words).generate(['one', ''], **options):
    assert isinstance(line, FloatingPointError)


def test_a_line_break_of_the_model_is_a_blank(words, monkeypatch):
  ids = words.encode('two\nthree\r\n')

  def decode(*args):
    B = len(args[-1]['tokens'])
    rows = jnp.tile(jnp.array(ids)[None], (B, 1))
    return decoding.Decoded(rows, jnp.zeros(B))

  monkeypatch.setattr(Continuation, '__call__', decode)
  n = words.vocab_size
  run = Run(model(n), parameters(n), words)
  found = run.generate(['one', ''], length=7)
  assert found == ['one two three ', ' two three ']


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(length=0), 'length=0; expected at least 1'),
    (dict(temperature=-1.0), 'temperature must be above 0, got -1.0'),
    (dict(top_k=-1), 'top_k=-1; expected'),
    (dict(top_p=0.0), 'top_p must be above 0'),
    (dict(temperature=0.0, top_k=-1), 'top_k=-1; expected'),
    (dict(temperature=0.0, top_p=7.0), 'top_p must be above 0'),
    (dict(temperature=1e300), 'temperature must be above 0, got 1e'),
    (dict(seed=2**32), r'seed=\d+; expected 0 to 4294967295'),
  ],
)
def test_impossible_options(go_on, options, message):
  with pytest.raises(ValueError, match=message):
    go_on(['one two'], **options)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return write_run(tmp_path_factory.mktemp('run'))


def write_run(folder):
  """The workdir of a language model with the least that it needs."""
  c = lm.get_config('sample')
  c.model.update(dim=8, mlp_dim=8, num_layers=1, max_length=64)
  c.model.attention.num_heads = 2
  c.checkpoint.update(best='', final='last', keep=1)
  workdirs.claim(c.lock(), folder)
  words = tokenizer_training.train(
    iter(tiny.WORDS.values()), 300, folder / 'tokenizer.json'
  )
  fields = c.model.to_dict() | dict(vocab_size=words.vocab_size)
  model_json.write(folder, fields, model_json.Meaning(words.fingerprint))
  shapes = models.shapes(models.build(**fields))
  params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  checkpoints = checkpoint.Checkpoints(folder, 1)
  checkpoints.save(100, dict(params=params))
  checkpoints.close()
  return folder


def test_a_prompt_that_is_not_utf8(run):
  with pytest.raises(ValueError, match=r'^--prompt is not UTF-8: .*allowed$'):
    main([f'--workdir={run}', '--prompt=one\udcff'])


def edited(folder, change):
  """Changes what tokenizer.json says."""
  path = folder / 'tokenizer.json'
  content = json.loads(path.read_text('utf-8'))
  change(content)
  path.write_text(json.dumps(content), 'utf-8')


def swap(content):
  ids = content['model']['vocab']
  ids['a'], ids['b'] = ids['b'], ids['a']


def add(content):
  """An id that the model has no row for."""
  ids = content['model']['vocab']
  ids['unheard'] = len(ids)


def without_decoder(content):
  content['decoder'] = None


UNRECORDED = [
  (add, r'has 301 ids, the model has vocab_size=300\.'),
  (without_decoder, 'pre_tokenizer has ByteLevel, which its decoder'),
]


@pytest.mark.parametrize(
  'change, words', [*UNRECORDED, (swap, r'trained with the tokenizer .*; got')]
)
def test_another_tokenizer_than_the_models(change, words, run, tmp_path):
  folder = shutil.copytree(run, tmp_path / 'copy')
  edited(folder, change)
  with pytest.raises(ValueError, match=words) as info:
    collab.load(folder)
  assert str(folder) in str(info.value)


@pytest.mark.parametrize('change, words', UNRECORDED)
def test_what_a_run_of_before_can_tell(change, words, run, tmp_path):
  """One that has not recorded its tokenizer."""
  folder = shutil.copytree(run, tmp_path / 'copy')
  path = folder / 'model.json'
  fields, _ = model_json.read(folder)
  path.write_text(json.dumps(fields))
  edited(folder, change)
  with pytest.raises(ValueError, match=words):
    collab.load(folder)


def test_a_run_of_before_opens_and_says_so_once(run, tmp_path, caplog):
  folder = shutil.copytree(run, tmp_path / 'copy')
  collab.load(folder)
  assert not caplog.messages
  fields, _ = model_json.read(folder)
  (folder / 'model.json').write_text(json.dumps(fields))
  collab.load(folder)
  want = f'{folder}: no record of its tokenizer to compare with.'
  assert caplog.messages == [want]


def test_the_layout_of_a_tokenizers_file_does_not_matter(run, tmp_path):
  """Nor do blanks and the order of keys make it another one."""
  folder = shutil.copytree(run, tmp_path / 'copy')
  edited(folder, lambda content: content.update(model=content.pop('model')))
  collab.load(folder)


def test_command_needs_a_model_that_is_there(tmp_path):
  """What is wrong is said in one line."""
  done = subprocess.run(
    [sys.executable, '-m', 'collab.generate', f'--workdir={tmp_path}'],
    input='one',
    capture_output=True,
    text=True,
    cwd=tiny.ROOT,
  )
  assert (done.returncode, done.stdout) == (1, '')
  (line,) = done.stderr.splitlines()
  assert line.startswith(f'generate: {tmp_path} is neither a workdir (it has')
