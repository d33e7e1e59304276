# SPDX-License-Identifier: Apache-2.0
"""The command: one table of all variants of a config, and its picture."""

import pytest

from collab import accounting, attention
from collab.accounting import __main__ as command
from collab.accounting import family, plots
from tests.test_configs import get


def rows(text):
  """{variant: {column: text}} of the table in an output."""
  lines = [x for x in text.splitlines() if x.startswith('|')]
  cells = [[c.strip() for c in line.strip('|').split('|')] for line in lines]
  head, _, *body = cells
  return {row[0]: dict(zip(head, row, strict=True)) for row in body}


def test_table(tmp_path, capsys):
  command.main(['--config=configs/lm.py:small', f'--out={tmp_path}'])
  found = rows(capsys.readouterr().out)
  names = set(attention.names()) - {'linformer'}  # for encoders
  assert list(found) == family.ordered(names)
  assert rows((tmp_path / 'accounting.md').read_text()) == found
  assert (tmp_path / 'accounting.png').read_bytes()[1:4] == b'PNG'
  config = get('lm', 'small,collab')
  model = command.model(config)
  cost = accounting.attention_cost(model, config.data.row_length)
  assert found['collab']['parameters'] == f'{cost.parameters:,}'
  assert found['collab']['cache'] == accounting.si(cost.cache)
  assert found['collab']['A_h'] == 'diagonal'
  assert found['mha']['share'] == '1.000'
  assert found['mha']['T*'] == '-'
  assert found['sha']['T*'] == 'always'


def test_every_variant_has_a_place_in_the_family():
  known = sum(family.KINDS.values(), ())
  assert sorted(known) == attention.names()
  assert family.ordered(['mine:A', 'sha', 'mha']) == ['mha', 'sha', 'mine:A']
  assert family.kind('mine:A') == ''


def test_cost_is_the_sum_over_layers():
  model = command.model(get('lm', 'sample'))
  one = accounting.attention_cost(model.clone(num_layers=1), 7)
  both = accounting.attention_cost(model.clone(num_layers=2), 7)
  assert both == accounting.layer.Cost(*(2 * x for x in one))


def test_curves_of_many_variants_are_told_apart(tmp_path, monkeypatch):
  """Each has a look of its own, also where it lies upon others."""
  figures = []

  def savefig(figure, path, **options):
    figures.append(figure)

  monkeypatch.setattr('matplotlib.figure.Figure.savefig', savefig)
  model = command.model(get('lm', 'sample'))
  plots.draw({f'variant {i}': model for i in range(20)}, 'x', tmp_path / 'x')
  for axis in figures[0].axes:
    lines = axis.get_lines()
    assert len(lines) == 20
    # One kind has one colour.
    assert len({x.get_color() for x in lines}) == 1
    assert len({x.get_marker() for x in lines}) == 20
    widths = [x.get_linewidth() for x in lines]
    assert widths == sorted(set(widths), reverse=True)  # none hides another


@pytest.mark.slow
def test_own_fields(tmp_path, capsys):
  """Fields of the argument are the config's own; others keep theirs."""
  narrow = 'configs/vit_collab.py:small,shared_dim=16'
  command.main([f'--config={narrow}', '--length=50', f'--out={tmp_path}'])
  found = rows(capsys.readouterr().out)
  assert set(found) == set(attention.names())
  model = command.model(get('vit_collab', 'small,shared_dim=16'))
  parameters = accounting.attention_parameters(model)
  assert found['collab']['parameters'] == f'{parameters:,}'
  assert found['collab']['cache'] == ''


def test_words_of_the_config_are_those_of_all_variants():
  found, _ = command.variants('configs/glue.py', 'minilm,mqa,num_heads=6')
  assert found == {
    name: command.model(get('glue', f'minilm,num_heads=6,{name}'))
    for name in attention.names()
  }
  # But for the fields that only the config's own attention has.
  found, _ = command.variants('configs/glue_reparam.py', 'small,shared_dim=8')
  assert found['mqa'] == command.model(get('glue', 'small,mqa'))
  assert found['collab'] == command.model(
    get('glue', 'small,collab,shared_dim=8')
  )


@pytest.mark.parametrize(
  'arguments, words',
  [
    (
      ['--config=configs/none.py'],
      'configs/none.py: no such config; configs/ has',
    ),
    (
      ['--config=configs/lm.py', '--length=0'],
      'length=0; expected at least 1',
    ),
    (['--config=configs/lm.py:nothing'], "has 'nothing'; there are wikitext"),
    (
      ['--config=configs/lm.py', '--lenght=3'],
      'arguments: --lenght=3',
    ),
    (['--config=configs/lm.py', '--length=x'], "invalid int value: 'x'"),
    ([], 'arguments are required: --config'),
  ],
)
def test_bad_input(arguments, words, tmp_path):
  with pytest.raises(ValueError, match=words):
    command.main([*arguments, f'--out={tmp_path / "out"}'])
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  'x, text', [(0, '0'), (999, '999'), (12_345_678, '12.3 M'), (2e18, '2e+03 P')]
)
def test_si(x, text):
  assert accounting.si(x) == text
