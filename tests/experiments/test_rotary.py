# SPDX-License-Identifier: Apache-2.0
"""What experiments.rotary refuses before it converts anything."""

import pytest

from experiments import rotary
from tests.convert import checkpoints


@pytest.mark.parametrize(
  'model, length, windows, error',
  [
    ('bert_Model', 8, 1, 'The attention of .*bert does not rotate'),
    ('llama_Model', 1, 1, '--length=1; expected at least 2'),
    ('llama_Model', 8, 0, '--windows=0; expected at least 1'),
    ('llama_Model', 8, 1, '--tests =x; expected NAME=FILE'),
  ],
)
def test_what_cannot_be_measured(model, length, windows, error, tmp_path):
  folder = checkpoints.with_words(tmp_path / 'bert', model)
  with pytest.raises(ValueError, match=error):
    list(rotary.run(str(folder), 'absent', ['=x'], 1, length, windows))
