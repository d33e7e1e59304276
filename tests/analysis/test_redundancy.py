# SPDX-License-Identifier: Apache-2.0
"""The command on a checkpoint of golden/, and what it writes."""

import sys

import numpy as np
import pytest

from collab.analysis import redundancy, spectrum
from tests.convert import checkpoints

LAYERS = ['encoder 0', 'encoder 1']
PNG = b'\x89PNG\r\n'


def run(monkeypatch, *args):
  monkeypatch.setattr(sys, 'argv', ['redundancy', *map(str, args)])
  redundancy.main()


def cells(text):
  """Cells of the tables' rows, without headings."""
  rows = [line for line in text.splitlines() if line.startswith('| ')]
  rows = [[cell.strip() for cell in row.split('|')[1:-1]] for row in rows]
  return [row for row in rows if row[0] not in ('layer', '---')]


def test_writes_table_and_figure(tmp_path, monkeypatch, capsys):
  case = checkpoints.GOLDEN / 'bert_Model'
  run(monkeypatch, case, '--out', tmp_path / 'new' / 'out')
  files = sorted((tmp_path / 'new' / 'out').iterdir())
  assert [file.name for file in files] == ['redundancy.md', 'redundancy.png']
  assert capsys.readouterr().out.splitlines() == [str(file) for file in files]
  rows = cells(files[0].read_text())
  assert [row[0] for row in rows] == [*LAYERS, 'Gaussian weights, mean']
  found = spectrum.of_layers(checkpoints.load('bert_Model').params)
  for row, (own, _) in zip(rows, found.values(), strict=False):
    for cell, curve in zip(row[1:], own, strict=True):
      counts = (str(spectrum.needed(curve, x)) for x in redundancy.SHARES)
      assert cell == f'{", ".join(counts)} of {len(curve)}'
  assert files[1].read_bytes().startswith(PNG)


def test_text_adds_inputs_and_importance(tmp_path, monkeypatch):
  folder, text = checkpoints.with_words(tmp_path / 'bert'), tmp_path / 'text'
  text.write_text('one two three\nfour\ntwo five\n')
  out = tmp_path / 'out'
  run(monkeypatch, folder, f'--calibration={text}', f'--out={out}')
  names = ['importance.png', 'redundancy.md', 'redundancy.png']
  assert sorted(file.name for file in out.iterdir()) == names
  assert (out / names[0]).read_bytes().startswith(PNG)
  rows = cells((out / 'redundancy.md').read_text())
  energies = [*LAYERS, 'Gaussian weights, mean']
  assert [row[0] for row in rows] == energies * 2 + LAYERS
  assert rows[0] != rows[3]  # weights, and weights on inputs
  lost = np.array([row[1:] for row in rows[-2:]], float)
  assert lost.shape == (2, 3)
  assert (lost > 0).all()


def test_gaussian_weights_are_told_apart_by_width():
  """Marian's encoder has 3 heads here, its decoder 2."""
  found = spectrum.of_layers(checkpoints.load('marian_MTModel').params)
  rows = cells(redundancy.energy_table(found))
  assert [row[1].split()[-1] for row in rows] == ['4', '6', '6', '4', '6']
  rows = [row for row in rows if row[0] == 'Gaussian weights, mean']
  for row, path in zip(rows, [*found][:2], strict=True):
    _, other = found[path]
    counts = [str(spectrum.needed(other.head, x)) for x in redundancy.SHARES]
    assert row[1].startswith(', '.join(counts))


def test_names_of_layers():
  name = lambda path: redundancy.label(path.split('/'))
  assert name('encoder/layer_0/self_attention') == 'encoder 0'
  assert name('decoder/layer_11/cross') == 'decoder 11 cross'


def test_ablation_of_layers_with_unlike_numbers_of_heads(tmp_path):
  lost = {('a',): np.array([0.5, 0.0]), ('b',): np.array([0.0123, 1, 0])}
  rows = redundancy.ablation_table(lost).splitlines()
  assert rows[0] == '| layer | head 0 | head 1 | head 2 |'
  assert rows[2:] == ['| a | 50 | 0 |  |', '| b | 1.2 | 100 | 0 |']
  redundancy.draw_ablation(tmp_path / 'x.png', lost)
  assert (tmp_path / 'x.png').read_bytes().startswith(PNG)


@pytest.mark.parametrize(
  'text, message',
  [
    (None, 'neither a workdir'),
    ('', 'has no text'),
    ('one', r'No such file|There is no|not exist'),
  ],
  ids=['no model', 'no text', 'no file'],
)
def test_one_line_for_what_is_wrong(tmp_path, monkeypatch, text, message):
  folder, file, out = tmp_path / 'bert', tmp_path / 'text', tmp_path / 'out'
  if text is not None:
    checkpoints.with_words(folder)
  if text == '':
    file.write_text('\n \n')
  with pytest.raises(SystemExit, match=message) as error:
    run(monkeypatch, folder, f'--calibration={file}', f'--out={out}')
  said = error.value.code
  assert said.startswith('redundancy: ')
  assert '\n' not in said
  assert not out.exists()
