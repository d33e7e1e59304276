# SPDX-License-Identifier: Apache-2.0
"""collab.translate: one line in, one line out, whatever a line is."""

import io
import types

import jax
import jax.numpy as jnp
import pytest

import collab
from collab import models, translate
from collab.data import tokenizer_training
from collab.inference.run import Run
from tests import tiny

FIELDS = dict(
  name='encoder_decoder',
  encoder_layers=1,
  decoder_layers=1,
  dim=8,
  mlp_dim=8,
  max_length=31,
  attention=dict(name='sha', num_heads=2),
)


@pytest.fixture
def main(tmp_path, monkeypatch):
  """translate.main(stdin, a factor of the parameters) with an untrained run."""
  words = tokenizer_training.train(
    iter(tiny.WORDS.values()), 300, tmp_path / 'words'
  )
  fields = FIELDS | dict(vocab_size=words.vocab_size)
  shapes = models.shapes(models.build(**fields))

  def run(stdin, factor=1.0):
    params = jax.tree.map(lambda x: jnp.full(x.shape, factor), shapes)
    task = types.SimpleNamespace(beam=2, alpha=0.6)
    config = types.SimpleNamespace(task=task)
    found = Run(models.build(**fields), params, words, config)
    monkeypatch.setattr(collab, 'load', lambda *args: found)
    stdin = types.SimpleNamespace(buffer=io.BytesIO(stdin.encode()))
    monkeypatch.setattr('sys.stdin', stdin)
    translate.main(['--workdir=DIR'])

  return run


def test_a_line_that_is_too_long_costs_itself_alone(main, capsys):
  """Its number counts empty lines; the others come out as without it."""
  main('one\n\ntwo\n\n')
  expected = capsys.readouterr().out.split('\n')
  assert len(expected) == 5
  with pytest.raises(ValueError, match='1 of 5 lines could not be done'):
    main(f'one\n\n{"1" * 40}\ntwo\n\n')
  out, err = capsys.readouterr()
  assert out.split('\n') == [*expected[:2], '', *expected[2:]]
  assert err == (
    'translate: input, line 3: 42 tokens; with max_length=31 the model '
    'translates at most 14.\n'
  )


def test_outputs_that_are_not_finite_are_no_translation(main, capsys):
  with pytest.raises(ValueError, match='2 of 3 lines could not be done'):
    main('one\n\ntwo\n', factor=float('nan'))
  out, err = capsys.readouterr()
  assert out == '\n\n\n'
  told = "translate: input, line {}: the model's outputs are not finite.\n"
  assert err == told.format(1) + told.format(3)
