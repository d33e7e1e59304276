# SPDX-License-Identifier: Apache-2.0
"""What experiments.rotary refuses before it converts anything."""

import sys

import pytest

from experiments import rotary
from tests.convert import checkpoints


@pytest.mark.parametrize(
  'model, words, error',
  [
    ('bert_Model', '--windows=1 --length=8', 'The attention of .* is not gqa'),
    ('llama_Model', '--length=1', '--length=1; expected at least 2'),
    ('llama_Model', '--windows=0', '--windows=0; expected at least 1'),
    ('llama_Model', '--tests =x', '--tests =x; expected NAME=FILE'),
  ],
)
def test_what_cannot_be_measured(model, words, error, tmp_path, monkeypatch):
  folder = checkpoints.with_words(tmp_path / 'model', model)
  text = tmp_path / 'text'
  text.write_text('one two three\n' * 9)
  argv = f'rotary --model={folder} --train={text} --tests a={text} {words}'
  monkeypatch.setattr(sys, 'argv', argv.split())
  with pytest.raises(ValueError, match=error):
    rotary.main()
