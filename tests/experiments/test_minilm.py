# SPDX-License-Identifier: Apache-2.0
"""What experiments.minilm refuses before it converts anything."""

import pytest

from experiments import minilm
from tests.convert import checkpoints


@pytest.fixture
def glue(tmp_path):
  folder = tmp_path / 'STS-B'
  folder.mkdir()
  head = 'index\tgenre\tfilename\tyear\told_index\tsource1\tsource2'
  head += '\tsentence1\tsentence2\tscore\n'
  lines = [f'{i}\t-\t-\t-\t-\t-\t-\tone\ttwo\t{i}\n' for i in range(5)]
  for part in ('train', 'dev'):
    (folder / f'{part}.tsv').write_text(''.join([head, *lines]))
  return str(tmp_path)


@pytest.mark.parametrize(
  'rows, pairs, error',
  [
    (1, 1, '--pairs=1; expected at least 2'),
    (1, 5, '--rows of STS-B=1; expected 1 to 0'),  # of two sentences
  ],
)
def test_samples_that_cannot_be(rows, pairs, error, glue, tmp_path):
  folder = checkpoints.with_words(tmp_path / 'bert')
  with pytest.raises(ValueError, match=error):
    list(minilm.run(str(folder), glue, '', rows, pairs, set()))
