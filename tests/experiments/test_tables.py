# SPDX-License-Identifier: Apache-2.0
"""Tables: the committed ones from committed results, others from made ones."""

import csv
import gzip
import hashlib
import json

from matplotlib.figure import Figure
import numpy as np
from PIL import Image
import pytest

from experiments import results_page, study, table
from experiments.tables import __main__ as tables
from experiments.tables import claims, mhe
from tests.few import few


def read(folder, name):
  """The rows of a .csv, dicts."""
  with (folder / f'{name}.csv').open() as file:
    return list(csv.DictReader(file))


@few(
  tables.NAMES, ['mhe', 'vision_width', 'measured_savings', 'noise_floor'],
  'name',
)  # fmt: skip
def test_committed_tables_come_from_committed_results(name, tmp_path):
  tables.make(name, tmp_path)
  package = tables.MODULES[name].split('.')[1]
  folder = study.ROOT / package
  for kind in ('md', 'csv'):
    kept, made = (x / f'{name}.{kind}' for x in (folder, tmp_path))
    assert kept.read_bytes() == made.read_bytes(), (
      'python -m experiments.tables'
    )
  text = (tmp_path / f'{name}.csv').read_bytes()
  with Image.open(folder / f'{name}.png') as image:
    assert image.info['Source'] == hashlib.sha256(text).hexdigest()


def write(folder, name, runs):
  """Results of a study; runs: {(arm, seed): (metrics, examples or None)}."""
  (folder / name).mkdir()
  rows = []
  for (arm, seed), (found, examples) in runs.items():
    path = f'{name}/{arm}-s{seed}.json.gz' if examples else ''
    row = dict(arm=arm, seed=seed, steps=7, metrics=found, examples=path)
    parameters = 1000 if arm == 'sha' else 4000
    rows.append(row | dict(parameters=9000, attention_parameters=parameters))
    if examples:
      text = json.dumps(examples).encode()
      (folder / path).write_bytes(gzip.compress(text))
  lines = [json.dumps(row) + '\n' for row in rows]
  (folder / f'{name}.jsonl').write_text(''.join(lines))


@pytest.fixture
def made(tmp_path, monkeypatch):
  """Translations of which all n-grams match, but for one arm's."""
  monkeypatch.setattr(study, 'RESULTS', tmp_path)
  good = [[8, 8, 8, 7, 6, 5, 8, 7, 6, 5]] * 40
  bad = [[8, 8, 4, 3, 2, 1, 8, 7, 6, 5]] * 40
  runs = {}
  for seed in (0, 1):
    runs['mha', seed] = dict(bleu=100.0), dict(bleu=good)
    runs['collab-96', seed] = dict(bleu=100.0), dict(bleu=good)
    runs['sha', seed] = dict(bleu=32.0), dict(bleu=bad)
  write(tmp_path, 'translation', runs)
  return tmp_path


def test_widths(made):
  tables.make('nmt_width', made)
  rows = {(x['attention'], x['key width']): x for x in read(made, 'nmt_width')}
  assert len(rows) == 5
  got = rows['collaborative', '96']
  assert (got['BLEU'], got['std'], got['seeds']) == ('100.00', '0.00', '2')
  assert (got['95 % from'], got['to']) == ('100.00', '100.00')
  assert (got['difference'], got['of the model']) == ('+0.00', '0.5')
  assert got['95 % of it'] == '+0.00 to +0.00'
  assert got['published, same share'] == '27.41'
  assert rows['collaborative', '48']['BLEU'] == 'not run'
  text = (made / 'nmt_width.md').read_text()
  assert 'The scale differs' in text
  assert '7 steps' in text
  assert 'over seeds and examples' in text


def test_mhe(made):
  tables.make('mhe', made)
  rows = read(made, 'mhe')
  found = {x['attention']: x for x in rows if x['ours'] == 'Multi30k'}
  assert set(found) == {'mha', 'sha'}
  score = 100 * np.exp(np.mean(np.log([4 / 8, 3 / 7, 2 / 6, 1 / 5])))
  assert float(found['sha']['mean']) == pytest.approx(score, abs=0.005)
  assert float(found['sha']['PRR, %']) == pytest.approx(score, abs=0.05)
  gain = (100 / score - 1) / (4000 / 1000 - 1)
  assert float(found['mha']['PEoP']) == pytest.approx(gain, abs=0.001)
  assert found['sha']['PEoP'] == ''
  assert float(found['sha']['p']) < 0.01
  (squad,) = (x for x in rows if x['paper'] == 'SQuAD')
  assert squad['mean'] == 'not run'


def test_claims_of_rows(made):
  """With equal and with far worse translations, and with none."""
  del made
  found = {
    (claim.evidence.arm, claim.evidence.baseline): x
    for claim, x in claims.compared().items()
  }
  assert found.keys() == {('collab-96', 'mha')}
  one = found['collab-96', 'mha']
  assert (one.difference, one.low, one.high, one.p) == (0, 0, 0, 1)


@pytest.mark.parametrize(
  'evidence, found, said',
  [
    (dict(margin=0.5), (0.1, -0.4, 0.6, 0.8), 'holds'),
    (dict(margin=0.5), (-0.1, -0.6, 0.4, 0.8), 'cannot tell at this scale'),
    (dict(margin=0.5), (-2, -3, -0.6, 0.01), 'does not hold'),
    ({}, (1, 0.5, 1.5, 0.04), 'holds'),
    ({}, (1, 0.1, 1.5, 0.06), 'cannot tell at this scale'),
    ({}, (1, -0.1, 2.1, 0.04), 'cannot tell at this scale'),
    ({}, (-1, -1.5, -0.5, 0.01), 'does not hold'),
    (dict(sign=-1), (-1, -1.5, -0.5, 0.01), 'holds'),
    (dict(sign=-1), (1, 0.5, 1.5, 0.01), 'does not hold'),
    ({}, (float('nan'),) * 4, 'cannot tell at this scale'),
    (dict(margin=1), (float('nan'),) * 4, 'cannot tell at this scale'),
  ],
)
def test_verdicts(evidence, found, said):
  x = claims.Paired(('translation',), claims.BLEU, 'a', 'b', **evidence)
  assert claims.verdict(x, claims.Result(*found)) == said


def test_page_has_the_tables():
  text = results_page.PAGE.read_text('utf-8')
  made = results_page.replaced(text)
  assert made == text, 'python -m experiments.results_page'
  with pytest.raises(ValueError, match=r'results.md has no <!-- made by'):
    results_page.replaced('')


def test_tables_of_the_page(made):
  del made
  lines = results_page.trained().split('\n')
  (sha,) = (x for x in lines if x.startswith('| SHA'))
  score = 100 * np.exp(np.mean(np.log([4 / 8, 3 / 7, 2 / 6, 1 / 5])))
  got = f'{score:.2f}* ({score:.2f} to {score:.2f})'
  assert sha == f'| SHA | 0.25 | {got} |  |'
  assert 'BLEU (seeds: 2)' in lines[0]


def test_ratios():
  assert mhe.prr(21, 20, lower=True) == pytest.approx(0.95)
  assert mhe.prr(19, 20) == pytest.approx(0.95)
  assert mhe.peop((30, 400), (20, 100)) == pytest.approx(1 / 6)
  assert mhe.peop((15, 200), (20, 100), lower=True) == pytest.approx(1 / 4)


def test_without_examples(tmp_path, monkeypatch):
  """Rows that train.py wrote: intervals over seeds, and it is said."""
  monkeypatch.setattr(study, 'RESULTS', tmp_path)
  runs = {('mha', s): (dict(top1=0.9 + s / 100), None) for s in (0, 1)}
  write(tmp_path, 'vision', runs)
  tables.make('vision_width', tmp_path)
  row = read(tmp_path, 'vision_width')[0]
  found = [row[x] for x in ('top-1, %', 'std', '95 % from', 'to')]
  assert found == ['90.50', '0.71', '90.00', '91.00']
  assert 'over seeds alone' in (tmp_path / 'vision_width.md').read_text()


OF_TRANSLATION = (
  'add_or_multiply', 'compute', 'direction', 'embedding_start', 'mhe',
  'mixing_start', 'nmt_savings', 'nmt_width', 'noise_floor',
)  # fmt: skip


def row_of(folder, attention='mha'):
  return next(x for x in read(folder, 'mhe') if x['attention'] == attention)


@few(['nan', 0.0, float('nan'), 'inf', None, []], ['nan'], 'value')
def test_score_of_a_run_that_diverged_is_shown(value, tmp_path, monkeypatch):
  """Also a missing one; and nothing that is divided by it stops the table."""
  monkeypatch.setattr(study, 'RESULTS', tmp_path)
  runs = {(arm, s): (dict(bleu=9.0), None) for arm in ('mha', 'sha')
          for s in (0, 1)}  # fmt: skip
  for arm in ('mha', 'sha'):
    runs[arm, 1] = ({} if value is None else dict(bleu=value)), None
    if value == 0:
      runs[arm, 0] = runs[arm, 1]
  write(tmp_path, 'translation', runs)
  for name in OF_TRANSLATION:
    tables.make(name, tmp_path)
  shown = {'inf': 'inf', 0.0: '0.00'}.get(value if value != [] else '', 'nan')
  assert row_of(tmp_path)['mean'] == shown
  assert row_of(tmp_path)['PRR, %'] == 'nan'
  assert row_of(tmp_path, 'sha')['p'] == ('1.000' if value == 0 else 'nan')
  assert shown in results_page.trained()


def test_examples_of_a_run_that_diverged(tmp_path, monkeypatch):
  monkeypatch.setattr(study, 'RESULTS', tmp_path)
  good = dict(nll=[1.0] * 9, tokens=[2] * 9)
  lost = dict(nll=['nan', 'inf'] + [1.0] * 7, tokens=[2] * 9)
  found = dict(words=18, perplexity=2.0)
  runs = {('mha', 0): (found, good), ('sha', 0): (found, lost)}
  write(tmp_path, 'ptb', runs)
  tables.make('mhe', tmp_path)
  rows = [x for x in read(tmp_path, 'mhe') if x['ours'] == 'Penn Treebank']
  assert [x['mean'] for x in rows] == ['1.6', 'nan']
  assert [x['p'] for x in rows] == ['', 'nan']


@pytest.mark.parametrize(
  'examples, words',
  [
    ({}, "mha-s0.json.gz is damaged: it has no perplexity of a word .*'nll'"),
    (dict(nll=[1, 'x'], tokens=[1, 1]), 'mha-s0.json.gz is damaged: '),
    (dict(nll=[[1], 1], tokens=[1, 1]), 'mha-s0.json.gz is damaged: '),
    (dict(nll=3, tokens=4), 'mha-s0.json.gz is damaged: '),
    (dict(nll=[1, 1], tokens=[1]), 'mha-s0.json.gz is damaged: '),
    (dict(nll=[1], tokens=[1]), 'mha-s0.json.gz has 1 examples, .*sha-s0.* 2'),
  ],
)
def test_damaged_examples_are_one_line(examples, words, tmp_path, monkeypatch):
  monkeypatch.setattr(study, 'RESULTS', tmp_path)
  found, good = dict(words=2), dict(nll=[1, 1], tokens=[1, 1])
  runs = {('mha', 0): (found, examples or dict(x=1)), ('sha', 0): (found, good)}
  write(tmp_path, 'ptb', runs)
  with pytest.raises(ValueError, match=words):
    tables.make('mhe', tmp_path)


def test_damaged_row_of_a_table_is_one_line(made):
  path = made / 'translation.jsonl'
  first, *others = path.read_text().splitlines()
  row = json.loads(others[0])
  del row['parameters']
  path.write_text('\n'.join([first, json.dumps(row), *others[1:]]))
  words = r'translation\.jsonl, line 2 is damaged: expected .parameters., got'
  with pytest.raises(ValueError, match=words):
    tables.make('nmt_width', made)


def test_unknown_table():
  with pytest.raises(ValueError, match='there are add_or_multiply, claims, '):
    tables.make('nothing')


def test_labels_of_curves_keep_apart():
  axis = Figure().subplots()
  axis.set(ylim=(0, 1))
  ends = dict(a=0.9, b=0.5, c=0.505, d=0.53)
  curves = {name: axis.plot([0, 1], [0, y])[0] for name, y in ends.items()}
  table.label_ends(axis, curves)
  found = {text.get_text(): text.xy[1] for text in axis.texts}
  assert list(found) == ['b, c', 'd', 'a']
  assert list(found.values()) == pytest.approx([0.5, 0.56, 0.9])
