# SPDX-License-Identifier: Apache-2.0
"""Command lines of convert, generate, translate and accounting.

They do their work, or are refused by an error of ours in one line. What takes
long and does not depend on the words (decoding, decomposing, counting) is left
out after its arguments were looked at.
"""

import io
import types

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import pytest

import collab
from collab import accounting, attention, generate, models, translate
from collab.accounting import __main__ as count
from collab.accounting import plots
from collab.convert import __main__ as convert
from collab.convert import output
from collab.data import tokenizer_training
from collab.inference.continuation import Continuation
from collab.inference.run import Run
from collab.tasks import wmt14
from tests import tiny
from tests.convert import checkpoints
from tests.fuzz.damage import ROOT, Refused, fuzz, outcome

NUMBERS = st.sampled_from(
  ['0', '1', '-1', '3', '0.5', '-0.5', 'nan', 'inf', '1e400', '9' * 30]
  + ['', 'x', 'None', '1,2', ' 1', '١']
)  # fmt: skip
OTHERS = st.sampled_from(
  ['', 'x', '-', '--', '--x', '--x=1', '-h=1', '--work', '--seed', '--len=3']
  + ['--prompt', '--length', '--beam=', '--to', '--to=x', 'a\nb', '--allow']
)  # fmt: skip
LINES = st.lists(
  st.sampled_from(
    [b'one two', b'', b' ', b'\xff', b'a\0b', b'\xe2\x80\xa8', b'9 ' * 40, b'?']
  ),
  max_size=3,
)


def options(*names):
  return st.builds('--{}={}'.format, st.sampled_from(names), NUMBERS)


def check(found, capsys):
  """Refused with nothing on standard output; or done."""
  out, err = capsys.readouterr()
  assert out == '' or not isinstance(found, Refused)
  assert err == ''


def check_lines(found, capsys):
  """As `check`, but that single lines may be refused, each in a line."""
  out, err = capsys.readouterr()
  if isinstance(found, Refused) and 'lines could not be done' in found:
    failed, _, lines, *_ = found.split()
    assert err.count('\n') == int(failed) <= int(lines) == out.count('\n')
  else:
    assert out == '' or not isinstance(found, Refused)
    assert err == ''


VARIANTS = (*attention.names(), '', 'x', 'MHA')
KINDS = st.sampled_from(['error', 'parameters', 'cache', '', 'x'])


@pytest.fixture(scope='module')
def words(tmp_path_factory):
  path = tmp_path_factory.mktemp('words') / 'tokenizer.json'
  return tokenizer_training.train(iter(tiny.WORDS.values()), 300, path)


def patched(patch, place, name, model, params, words, lines):
  """Has a run and input; what it decodes is traced, and then <eos> alone."""
  task = types.SimpleNamespace(beam=2, alpha=0.6)
  run = Run(model, params, words, types.SimpleNamespace(task=task))
  patch.setattr(collab, 'load', lambda *args: run)
  decode = getattr(place, name)

  def nothing(*args):
    found = decode(*args)
    return jax.tree.map(lambda x: jnp.full_like(x, words.eos_id), found)

  patch.setattr(place, name, nothing)
  stdin = types.SimpleNamespace(buffer=io.BytesIO(b'\n'.join(lines)))
  patch.setattr('sys.stdin', stdin)


SIZES = dict(
  dim=8, mlp_dim=8, max_length=31, attention=dict(name='sha', num_heads=2)
)


def model_of(name, words, **fields):
  fields = dict(name=name, vocab_size=words.vocab_size) | SIZES | fields
  model = models.build(**fields)
  ones = jax.tree.map(
    lambda x: jnp.ones(x.shape, x.dtype), models.shapes(model)
  )
  return model, ones


@fuzz(25)
@given(st.data())
def test_generate(words, capsys, data):
  names = ('length', 'temperature', 'top_k', 'top_p', 'seed', 'prompt')
  argv = data.draw(st.lists(options(*names) | OTHERS, max_size=2))
  lines = data.draw(LINES)
  with pytest.MonkeyPatch.context() as patch:
    run = model_of('decoder', words, num_layers=1)
    patched(patch, Continuation, '__call__', *run, words, lines)
    found = outcome(generate.main, ['--workdir=DIR', '--length=2', *argv])
  check_lines(found, capsys)


@fuzz(15)
@given(st.data())
def test_translate(words, capsys, data):
  argv = data.draw(st.lists(options('beam', 'alpha') | OTHERS, max_size=2))
  lines = data.draw(LINES)
  with pytest.MonkeyPatch.context() as patch:
    run = model_of('encoder_decoder', words, encoder_layers=1, decoder_layers=1)
    patched(patch, wmt14.BeamSearch, '__call__', *run, words, lines)
    found = outcome(translate.main, ['--workdir=DIR', *argv])
  check_lines(found, capsys)


CONFIGS = st.sampled_from(
  ['lm.py', 'vit.py:small', 'lm.py:small', 'wmt14_collab.py:x', 'lm_x.py']
  + ['lm.py:collab,shared_dim=0', 'lm.py:num_heads=7', '__init__.py', '']
  + ['glue.py:rte,sample,mla', '../tests/tiny.py', 'lm.py:=', 'lm']
)  # fmt: skip


@fuzz(25)
@given(st.data())
def test_accounting(tmp_path_factory, capsys, monkeypatch, data):
  folder = tmp_path_factory.mktemp('out')
  monkeypatch.setattr(
    accounting, 'attention_cost', lambda *args: accounting.layer.Cost(1)
  )
  monkeypatch.setattr(plots, 'draw', lambda *args: None)
  argv = data.draw(st.lists(options('length', 'out') | OTHERS, max_size=2))
  argv = [word.replace('--out=', f'--out={folder}/') for word in argv]
  path = f'{ROOT}/configs/{data.draw(CONFIGS)}'
  found = outcome(count.main, [f'--config={path}', f'--out={folder}', *argv])
  check(found, capsys)


@pytest.fixture(scope='module')
def bert(tmp_path_factory):
  folder = tmp_path_factory.mktemp('bert')
  (folder / 'text').write_text('one two three\n\nfour\ntwo five\n')
  return checkpoints.with_words(folder / 'model')


@fuzz(40)
@given(st.data())
def test_convert(bert, tmp_path_factory, capsys, monkeypatch, data):
  out = tmp_path_factory.mktemp('out') / 'new'
  monkeypatch.setattr(output, 'write', lambda *args: None)
  fields = ('shared_dim', 'kv_heads', 'latent_dim', 'offset', 'sweeps', 'bias')
  fields += ('pooling', 'rows', 'length', 'budget', 'refine', 'seed', 'name')
  budgets = st.builds('--budget={}={}'.format, KINDS, NUMBERS)
  texts = st.sampled_from(['train', '', 'missing', f'{bert.parent}/text'])
  calibrations = st.builds('--calibration={}'.format, texts)
  variants = st.builds('--attention={}'.format, st.sampled_from(VARIANTS))
  some = variants | options(*fields) | budgets | calibrations | OTHERS
  argv = data.draw(st.lists(some, max_size=4))
  found = outcome(convert.main, [str(bert), str(out), *argv])
  check(found, capsys)
  assert not (out.exists() and isinstance(found, Refused))
