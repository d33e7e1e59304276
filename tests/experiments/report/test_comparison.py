# SPDX-License-Identifier: Apache-2.0
"""The page of several runs, how they are found, and what is refused."""

import json
import shutil

import pytest

from collab.runtime import workdir
from experiments.report import comparison, runs
from tests.experiments.report import pages

# Several ----------------------------------------------------------------------


@pytest.fixture
def sweep(trained, tmp_path):
  """Two arms of two and three seeds, and a run that is not finished."""
  scores = dict(mha=(20, 24), mhe_mul=(21, 22, 23))
  for name, values in scores.items():
    for seed, bleu in enumerate(values):
      folder = tmp_path / 'sweep' / f'{name}-s{seed}'
      folder.mkdir(parents=True)
      for file in ('run.json', 'result.json', 'metrics.jsonl'):
        shutil.copy(trained / file, folder)
      config = workdir.read(folder)['config'] | dict(seed=seed)
      config['init_from'] = f'runs/first-s{seed}'
      attention = config['model']['attention'] | dict(name=name)
      config['model'] |= dict(attention=attention)
      pages.change(folder / 'run.json', config=config)
      metrics = dict(bleu=bleu, same=1, signature='nrefs:1')
      pages.change(folder / 'result.json', metrics=metrics)
  shutil.copy(trained / 'model.json', tmp_path / 'sweep' / 'mha-s0')
  late = shutil.copytree(folder, tmp_path / 'sweep' / 'mhe_mul-s3')
  (late / 'result.json').unlink()
  pages.change(late / 'run.json', config=config | dict(seed=3, init_from=''))
  return tmp_path / 'sweep'


def test_sweep(sweep, monkeypatch):
  pages.call(monkeypatch, sweep)
  found = pages.check(sweep / 'report.html')
  assert found.all('h1') == ['6 runs of wmt14']
  assert '5 of 6 runs are finished.' in found.text
  cells = [data for tag, data in found.texts if tag in ('td', 'th')]
  arm = cells.index('mha')
  assert cells[:3] == ['arm', 'seeds', 'bleu']  # what is the same tells nothing
  assert cells[arm : arm + 3] == ['mha', '2', '22 ± 2.8']
  arm = cells.index('mhe_mul, init_from=runs/first-s')
  assert cells[arm + 1 : arm + 3] == ['3', '22 ± 1']
  assert 'val perplexity' in found.all('h3')
  assert cells.count('not known') == 2  # the cost of arms without model.json


@pytest.mark.parametrize(
  'value, shown',
  [
    ('nan', 'nan'),
    pytest.param(float('nan'), 'nan', marks=pytest.mark.slow),
    pytest.param('inf', 'inf', marks=pytest.mark.slow),
    pytest.param(None, 'nan', marks=pytest.mark.slow),
  ],
)
def test_seed_that_diverged_is_shown(sweep, monkeypatch, value, shown):
  """By the scores of all seeds; also a metric that one has not."""
  for name in ('mhe_mul-s0', 'mha-s0'):
    metrics = dict(same=1) if value is None else dict(bleu=value, same=1)
    pages.change(sweep / name / 'result.json', metrics=metrics)
  row = {'step': 3, 'train/loss': 'nan', 'val/perplexity': 'inf'}
  with (sweep / 'mhe_mul-s0' / 'metrics.jsonl').open('a') as file:
    file.write(json.dumps(row) + '\n')
  pages.call(monkeypatch, sweep)
  cells = pages.check(sweep / 'report.html').all('td')
  assert f'{shown}, 22, 23' in cells
  assert f'{shown}, 24' in cells


def test_all_seeds_diverged(sweep, monkeypatch):
  for path in sweep.glob('*/result.json'):
    pages.change(path, metrics=dict(bleu='nan'))
  pages.call(monkeypatch, sweep)
  assert 'nan, nan, nan' in pages.check(sweep / 'report.html').all('td')


def test_names_of_tasks_are_text(sweep, monkeypatch):
  for folder in sorted(sweep.iterdir())[:2]:
    config = workdir.read(folder)['config']
    config['task'] |= dict(subtask=f'"{pages.EVIL}')
    pages.change(folder / 'run.json', config=config)
    (folder / 'model.json').unlink(missing_ok=True)
  pages.call(monkeypatch, sweep)
  found = pages.check(sweep / 'report.html')
  assert f'Results of wmt14 "{pages.EVIL}' in found.all('h2')
  assert 'Results of wmt14' in found.all('h2')


def test_arms_are_told_apart_by_what_differs(sweep):
  found = [runs.read(folder) for folder in runs.find([sweep])]
  arms = comparison.of_arms(found)
  assert {name: len(some) for name, some in arms.items()} == {
    'mha': 2,
    'mhe_mul, init_from=runs/first-s': 3,
    'mhe_mul': 1,
  }


def test_conversions_are_told_apart(sweep):
  """By how, and from what was trained so, but not by the seed of the source."""
  for seed, (seen, rows) in enumerate((('', 0), ('', 0), ('train', 7))):
    facts = dict(source=f'runs/first-s{seed}', calibration=seen, rows=rows)
    path = sweep / f'mhe_mul-s{seed}' / 'conversion.json'
    path.write_text(json.dumps(facts))
    config = workdir.read(path.parent)['config'] | dict(init_from='')
    pages.change(path.parent / 'run.json', config=config)
  found = [runs.read(folder) for folder in runs.find([sweep])]
  converted = 'mhe_mul, source=runs/first-s'
  assert {k: len(x) for k, x in comparison.of_arms(found).items()} == {
    'mha': 2,
    converted: 2,
    f'{converted}, calibration=train, rows=7': 1,
    'mhe_mul': 1,
  }


def test_a_run_that_changed_on_its_way_is_no_seed_of_the_others(sweep):
  change = dict(step=2, field='accumulate', was=1, now=2)
  pages.change(sweep / 'mha-s0' / 'result.json', changes=[change])
  found = [runs.read(folder) for folder in runs.find([sweep])]
  arms = comparison.of_arms(found)
  alike = [{run.folder.name for run in some} for some in arms.values()]
  assert {'mha-s0'} in alike


def test_workdirs_are_found_where_they_are(sweep):
  every = sorted(sweep.iterdir())
  assert runs.find([sweep]) == every
  assert runs.find([sweep.parent]) == every
  assert runs.find([*every[:2], every[0]]) == every[:2]


# Bad input --------------------------------------------------------------------


def without_model(run):
  (run / 'model.json').unlink()


def attention(value):
  def change(run):
    config = json.loads((run / 'run.json').read_text())['config']
    config['model']['attention'] = value
    pages.change(run / 'run.json', config=config)

  return change


def spoil(name, text):
  return lambda run: (run / name).write_text(text)


@pytest.mark.parametrize(
  'spoilt, args, message',
  [
    (None, ['nowhere'], 'There is no folder .*nowhere'),
    (None, ['.'], 'neither a workdir .* nor a folder of workdirs'),
    (None, ['tiny', 'copy', '--text=x'], '--text is for one run, got 2'),
    (without_model, ['tiny', '--text=x'], 'No attention maps: .*model.json is'),
    (None, ['tiny', '--out=no/where.html'], 'no/where.html: there is no'),
    (spoil('run.json', '{'), ['tiny'], 'run.json is no JSON'),
    (spoil('result.json', '{}'), ['tiny'], 'result.json is damaged: '),
    (spoil('result.json', '[]'), ['tiny'], 'result.json holds a list'),
    (spoil('conversion.json', '3'), ['tiny'], 'conversion.json holds a int'),
    (spoil('metrics.jsonl', 'x\n'), ['tiny'], 'metrics.jsonl, line 1: no row'),
    (spoil('metrics.jsonl', '[]\n'), ['tiny'], 'metrics.jsonl, line 1: no row'),
    (spoil('metrics.jsonl', '3\n'), ['tiny'], 'metrics.jsonl, line 1: no row'),
    (
      spoil('metrics.jsonl', '{"step": 1}\n{"step": NaN}\n'),
      ['tiny'],
      'metrics.jsonl, line 2 is damaged: step is nan, expected int',
    ),
    (
      attention([]),
      ['tiny'],
      r'run.json is damaged: attention is .*, expected',
    ),
  ],
  ids=lambda x: getattr(x, '__name__', str(x)),  # the same in all processes
)
def test_one_line(run, monkeypatch, capsys, spoilt, args, message):
  shutil.rmtree(run / 'checkpoints')  # nothing of them is read in vain
  if 'copy' in args:
    shutil.copytree(run, run.parent / 'copy')
  if args == ['.']:
    args = ['tiny/tensorboard']
  if spoilt:
    spoilt(run)
  monkeypatch.chdir(run.parent)
  with pytest.raises(SystemExit, match=f'report: .*{message}') as error:
    pages.call(monkeypatch, *args)
  assert '\n' not in error.value.code
  assert not [*run.parent.rglob('*.html')]
  assert capsys.readouterr().out == ''
