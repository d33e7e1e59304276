# SPDX-License-Identifier: Apache-2.0
"""Studies that take what they compare, or how, from rows of other studies."""

import gzip
import json
import math

import jax
import jax.numpy as jnp
import pytest

from collab import accounting, models
from experiments import kneser_ney, rates, study, texts
from experiments.studies import family_rates, ptb_rates
from tests.few import few


def add(folder, name, scores, metric):
  """Rows of a study of learning rates, of {arm: score}."""
  rows = [
    dict(arm=arm, seed=0, examples='', metrics={metric: score})
    for arm, score in scores.items()
  ]
  with (folder / f'{name}.jsonl').open('a') as file:
    file.writelines(json.dumps(row) + '\n' for row in rows)


@pytest.fixture
def empty(tmp_path, monkeypatch):
  monkeypatch.setattr(study, 'RESULTS', tmp_path)
  return tmp_path


def names(of):
  return [run.name for run in study.plan(of)]


def test_rates_go_on_until_the_best_is_inside():
  start = 2, 4, 8
  assert rates.tried(start, {}) == [2, 4, 8]
  assert rates.tried(start, {2: 5, 4: 6}) == [2, 4, 8]
  assert rates.tried(start, {2: 5, 4: 4, 8: 6}) == [2, 4, 8]
  assert rates.tried(start, {2: 3, 4: 4, 8: 6}) == [1, 2, 4, 8]
  assert rates.tried(start, {2: 5, 4: 4, 8: 3}) == [2, 4, 8, 16]
  found = {2: 5, 4: 4, 8: 3, 16: 2, 32: float('inf')}
  assert rates.tried(start, found) == [2, 4, 8, 16, 32]
  assert rates.best('mha', start, found) == 16
  with pytest.raises(ValueError, match='mha has to run with 1 before'):
    rates.best('mha', start, {2: 3, 4: 4, 8: 6})


def test_rates_of_any_size(empty):
  """5e-05 has a dash in it."""
  add(empty, 'tried', {'mha-5e-05': 1, 'mha-0.001': 2}, 'perplexity')
  assert rates.scores('tried', 'perplexity') == dict(mha={5e-5: 1, 1e-3: 2})


def test_family_has_the_best_rates(empty):
  with pytest.raises(ValueError, match=r'noise.*mha has to run with 0.004, '):
    study.plan('noise')
  assert len(names('family_rates')) == 3 * len(family_rates.NAMES)
  worse = {f'{x}-{rate:g}': 2 for x in family_rates.NAMES
           for rate in family_rates.RATES}  # fmt: skip
  best = {f'{x}-0.008': 1 for x in family_rates.NAMES}
  found = worse | best | {'sha-0.016': 0.5}
  add(empty, 'family_rates', found, 'bits_per_character')
  assert [x for x in names('family_rates') if '0.032' in x] == ['sha-0.032-s0']
  assert names('noise') == [f'mha-s{seed}' for seed in range(8)]
  with pytest.raises(ValueError, match=r'sha has to run with 0\.032 before'):
    study.plan('family')
  add(empty, 'family_rates', {'sha-0.032': float('nan')}, 'bits_per_character')
  runs = study.plan('family')
  assert len(runs) == 3 * (len(family_rates.NAMES) - 1)
  found = {run.arm.name: run.arm.overrides['optim.lr'] for run in runs}
  assert found.pop('sha') == 0.016
  assert set(found.values()) == {0.008}
  for of in ('family_cache', 'family_recipe'):
    assert study.plan(of)[0].arm.overrides['total_steps'] == 2000
  with pytest.raises(
    ValueError, match=r'family_m.*mha has to run with 0.004, '
  ):
    study.plan('family_m')  # it has rates of its own


@few(family_rates.NAMES, ['mha', 'sha', 'mla'], 'name')
def test_family_has_equal_parameters(name):
  """Without embeddings, to within 0.5 %."""

  def size(words):
    arm = family_rates.arm('', words, 1e-3)
    model = study.config(study.Run('', arm, 0, '', None)).model
    model = models.build(**model.to_dict(), vocab_size=11)
    batch = dict(tokens=jnp.zeros((1, 8), int))
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)['params']
    every = accounting.size(shapes)
    return every - 11 * model.dim

  assert size(name) == pytest.approx(size('mha'), rel=0.005)


def test_treebank_has_the_best_rate_and_dropout(empty):
  assert len(names('ptb_rates')) == 5
  with pytest.raises(ValueError, match=r'dropout0.2 has to run with 0.001, '):
    study.plan('ptb')
  found = {f'dropout0.2-{x:g}': 9 for x in ptb_rates.RATES}
  add(empty, 'ptb_rates', found | {'dropout0.2-0.004': 8}, 'perplexity')
  assert names('ptb_rates')[5:] == [
    f'dropout{x}-0.004-s0' for x in (0.1, 0.3, 0.4)
  ]
  with pytest.raises(ValueError, match='repeat its sweep'):
    study.plan('ptb')
  found = {f'dropout{x}-0.004': 9 for x in (0.1, 0.4)} | {'dropout0.3-0.004': 7}
  add(empty, 'ptb_rates', found, 'perplexity')
  run = study.plan('ptb')[0].arm.overrides
  assert (run['optim.lr'], run['model.dropout']) == (0.004, 0.3)


def test_treebank_keeps_its_words(tmp_path):
  """Closed vocabulary: <unk> is a word of the text, and no other is lost."""
  words = ['the', '<unk>', 'N', 'of'] * 3 + [f'w{i}' for i in range(300)]
  for split in ('train', 'valid', 'test'):
    with gzip.open(tmp_path / f'ptb.{split}.txt.gz', 'wt') as file:
      file.writelines(f' {" ".join(words)} \n' for _ in range(9))
  found = kneser_ney.measure(str(tmp_path), 'words', 308, 2)
  assert found['vocabulary'] == 308  # 303 words and five special ones
  assert found['words'] == found['tokens'] == 9 * (len(words) + 1)
  assert found['perplexity'] < 2


def test_fine_tuning_starts_from_the_runs_of_pretrain():
  made = {run.workdir for run in study.plan('pretrain')}
  runs = study.plan('finetune')
  starts = [run.arm.overrides.get('init_from') for run in runs]
  assert {x for x in starts if x} == made
  assert [
    run.arm.name for run, x in zip(runs, starts, strict=True) if not x
  ] == [f'{task}-none' for task in ('sst2', 'mrpc', 'stsb') for _ in range(3)]
  for run in runs[:18:3]:  # one seed of each attention
    study.config(run)


def test_languages_read_the_texts_that_are_made():
  runs = study.plan('languages')
  folders = {run.arm.overrides['data.path'] for run in runs}
  assert folders == {f'runs/texts/captions-{n}' for n in texts.PAIRS}
  study.config(runs[0])


@pytest.fixture
def data(tmp_path):
  """Data sets of a few lines, of which each names its file."""
  for name in ('train', 'valid', 'test'):
    (tmp_path / 'books').mkdir(exist_ok=True)
    (tmp_path / 'ptb').mkdir(exist_ok=True)
    with gzip.open(tmp_path / 'books' / f'{name}.txt.gz', 'wt') as file:
      file.writelines(f'{name} {i}\n' for i in range(6000))
    with gzip.open(tmp_path / 'ptb' / f'ptb.{name}.txt.gz', 'wt') as file:
      file.write(f'{name}\n')
  (tmp_path / 'multi30k').mkdir()
  for name in texts.SPLITS.values():
    for language in ('en', *texts.LANGUAGES):
      path = tmp_path / 'multi30k' / f'{name}.{language}'
      path.write_text(''.join(f'{name} {language} {i}\n' for i in range(600)))
  return tmp_path


def test_texts(data, monkeypatch, tmp_path):
  argv = ['texts', f'--data={data}', f'--runs={tmp_path}/runs']
  monkeypatch.setattr('sys.argv', argv)
  texts.main()
  made = tmp_path / 'runs' / 'texts'
  valid, test = (
    (made / 'books_rates' / f'{x}.txt').read_text().splitlines()
    for x in ('valid', 'test')
  )
  assert len(test) == texts.RATES
  assert not set(valid) & set(test)
  assert {line.split()[0] for line in valid + test} == {'valid'}
  with gzip.open(made / 'ptb_rates' / 'ptb.test.txt.gz', 'rt') as file:
    assert file.read() == 'valid\n'
  lines = [
    (made / 'captions-500' / f'train.{x}').read_text().splitlines()
    for x in ('source', 'target')
  ]
  assert len(lines[0]) == len(lines[1]) == 1500
  for source, target in zip(*lines, strict=True):
    tag, *words, number = source.split()
    assert (words, target) == (['train', 'en'], f'train {tag[:-1]} {number}')
  before = (made / 'books' / 'valid.txt').stat().st_mtime_ns
  texts.main()
  assert (made / 'books' / 'valid.txt').stat().st_mtime_ns == before


def test_kneser_ney_reads_the_rows_of_a_run(tmp_path):
  for split in ('train', 'valid', 'test'):
    lines = (f'{i} {i * i % 97} {i % 7}\n' for i in range(900))
    (tmp_path / f'{split}.txt').write_text(''.join(lines))
  arguments = str(tmp_path), 'bpe', 300, 3
  whole = kneser_ney.measure(*arguments, folder=str(tmp_path / 'a'))
  part = kneser_ney.measure(*arguments, 2048, str(tmp_path / 'a'))
  assert part['trained'] == 2048 < whole['trained']
  assert part['perplexity'] > whole['perplexity']
  bits = part['bits_per_character'] / whole['bits_per_character']
  nll = math.log(part['perplexity']) / math.log(whole['perplexity'])
  assert bits == pytest.approx(nll)
  with pytest.raises(ValueError, match='--tokens=2000; expected a multiple of'):
    kneser_ney.measure(*arguments, 2000, str(tmp_path / 'a'))
  with pytest.raises(ValueError, match='--tokens=-2048; expected at least 0'):
    kneser_ney.measure(*arguments, -2048, str(tmp_path / 'a'))
