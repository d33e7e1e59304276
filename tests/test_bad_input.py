# SPDX-License-Identifier: Apache-2.0
"""What a user can get wrong: one clear line, and nothing half-written."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from collab import models
from collab.data import pipeline
from collab.runtime import changes, identity, workdir
from collab.tasks import wmt14
from collab.training import evaluation
from tests import tiny
import train

pytestmark = pytest.mark.usefixtures('counted_once')


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  return tiny.write_corpus(tmp_path_factory.mktemp('corpus'))


# Instead of an evaluation, which takes time.
SCORES = tiny.evaluation_of(nll=1.0)


@pytest.fixture
def no_evaluation(monkeypatch):
  """Leaves out what takes time and is not looked at here."""
  monkeypatch.setattr(evaluation, 'build', SCORES)


def run(config, folder, eval_only=False):
  """As train.main, in this process."""
  config = workdir.claim(config, folder)
  try:
    return train.run(config, str(folder), eval_only)
  except Exception:
    workdir.abandon(folder)
    raise


def check_refused(config, folder, *words):
  """It fails with these words, and leaves the workdir to another config."""
  with pytest.raises((ValueError, TypeError, OSError)) as info:
    run(config, folder)
  for word in words:
    assert word in str(info.value)
  assert not (folder / 'run.json').exists()
  assert not (folder / 'result.json').exists()
  assert tiny.rows(folder) == []
  assert not list(folder.glob('checkpoints/*'))
  assert not [p for p in folder.rglob('*') if '.tmp' in p.name]


def copy(corpus, folder):
  folder.mkdir()
  for path in corpus.iterdir():
    (folder / path.name).write_bytes(path.read_bytes())
  return folder


def edit(path, change):
  """Applies `change` to the list of a file's lines."""
  lines = path.read_text('utf-8').splitlines()
  change(lines)
  tiny.write_lines(path, lines)


def check_line(code, err, *words):
  """Progress, then exactly one line that says what is wrong."""
  *progress, line = err.splitlines()
  assert all(text.startswith('step ') for text in progress), err
  assert code == 1
  assert line.startswith('train.py: ')
  assert 'Traceback' not in line
  for word in words:
    assert word in line


# On the command line ----------------------------------------------------------

SAMPLE = f'--config={tiny.ROOT}/{tiny.CONFIG}'


@pytest.mark.parametrize(
  'arguments, words',
  [
    ([], ['Give --config=', 'or --workdir=DIR']),
    ([SAMPLE, '--config.model.dimm=8'], ["field 'dimm'", 'Did you mean "dim"']),
    pytest.param(
      [SAMPLE, '--config.model.dim=wide'],
      ['config.model.dim=wide', 'int()'],
      marks=pytest.mark.slow,
    ),
    pytest.param(
      ['--config=missing.py'],
      ['missing.py', 'no such config', 'lm, mlm, squad'],
      marks=pytest.mark.slow,
    ),
    pytest.param(
      ['--config=missing.py', '--config.seed=1'],
      ['missing.py', 'no such config', 'lm, mlm, squad'],
      marks=pytest.mark.slow,
    ),
    pytest.param(
      [SAMPLE.replace(':sample', ':big')],
      ['mhe_mul.py:big', "'big'; there are sample, small"],
      marks=pytest.mark.slow,
    ),
    pytest.param(
      ['--confg=x'],
      ["Unknown command line flag 'confg'", 'Did you mean: config'],
      marks=pytest.mark.slow,
    ),
    pytest.param(
      [SAMPLE, 'x'], ['Unexpected arguments: x'], marks=pytest.mark.slow
    ),
  ],
)
def test_command_line(arguments, words, tmp_path):
  code, out, err = tiny.train(arguments, tmp_path / 'cache', cwd=tmp_path)
  check_line(code, err, *words)
  assert out == ''
  assert len(err.splitlines()) == 1
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'platform', ['cuda', pytest.param('abacus', marks=pytest.mark.slow)]
)
def test_no_such_device(platform, tmp_path):
  done = subprocess.run(
    [sys.executable, tiny.ROOT / 'train.py', SAMPLE, 'x'],
    env=os.environ | dict(JAX_PLATFORMS=platform),
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  if 'Unexpected arguments: x' in done.stderr:
    pytest.skip('this machine has one')
  line = done.stderr.splitlines()[-1]
  check_line(done.returncode, line, f'JAX_PLATFORMS={platform}: JAX finds no')
  assert not list(tmp_path.iterdir())


def test_rows_and_devices(corpus, cache, tmp_path):
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8'
  command = tiny.command(corpus, tmp_path, data__batch_size=9)
  code, _, err = tiny.train(command, cache, XLA_FLAGS=flags)
  check_line(code, err, 'batch of 9 rows', '8 devices', 'multiples of 8')
  assert not (tmp_path / 'run.json').exists()


def test_results_that_cannot_be_written(corpus, tmp_path):
  """Refused before the training."""
  folder = tmp_path / 'run'
  path = tmp_path / 'rows.jsonl'
  path.mkdir()
  words = f'--results={path}: expected a .jsonl file: .* Is a dir'
  with pytest.raises(ValueError, match=words):
    train.main(tiny.config(corpus), str(folder), False, str(path))
  assert [path.name for path in folder.iterdir()] == ['lock']


def test_workdir_that_is_not_a_folder(corpus):
  for config in (None, tiny.config(corpus)):
    with pytest.raises(ValueError, match='/dev/null is not a folder; expected'):
      workdir.claim(config, '/dev/null')


# Configs ----------------------------------------------------------------------


@pytest.mark.parametrize(
  'changes, words',
  [
    (
      {'model.attention': dict(name='mhb', num_heads=2)},
      ["No attention variant 'mhb'", 'mhe_add', 'mqa'],
    ),
    (
      {'model.attention': dict(name='sha', num_heads=2, key_features=8)},
      ['sha has no field key_features', 'num_heads'],
    ),
    ({'model.attention': dict(name='mla', num_heads=2)}, ['needs latent_dim']),
    ({'model.attention': {}}, ['model.attention={}', 'a name, one of collab']),
    (
      {'model.attention': dict(name='mha', num_heads='4')},
      ["model.attention: num_heads='4'; expected int"],
    ),
    (
      {'model.cross_attention': dict(num_heads=2)},
      ['model.cross_attention=', 'a name, one of'],
    ),
    (
      {'model.attention': dict(name='gqa', num_heads=2, kv_heads=('2',))},
      ["model.attention: kv_heads='2'; expected int"],
    ),
    (
      {'model.attention.num_heads': 3},
      ['num_heads=3 does not divide', '=16'],
    ),
    (
      {
        'model.decoder_attention': dict(
          name='gla', num_heads=2, latent_dim=6, kv_heads=3
        )
      },
      ['kv_heads=3 does not divide num_heads=2 and latent_dim=6'],
    ),
    (
      {'model.attention': dict(name='mha', num_heads=2, window=3)},
      ['model.cross_attention: window=3', 'expected no window'],
    ),
    (
      {
        'model.decoder_attention': dict(
          name='linformer', num_heads=2, length=9, projected_length=3
        )
      },
      ['model.decoder_attention: linformer is for encoders'],
    ),
    ({'model.remat': 'all'}, ["remat='all' is none of none, dots, full"]),
    ({'data.too_long': 'cut'}, ["data.too_long='cut'", 'drop, truncate']),
    ({'data.vocab_size': 100}, ['data.vocab_size=100', 'at least 261']),
    ({'data.row_length': 1}, ['data.row_length=1', 'at least 2']),
    ({'data.batch_size': 5000}, ['a batch has 5000']),
    ({'data.corpus': 'x', 'data.path': ''}, ["TFDS cannot open 'x'"]),
    ({'data.corpus': '', 'data.path': ''}, ['There is no data: give local']),
    ({'data.vocabulary': 'none.json'}, ['no tokenizer file none.json']),
    ({'optim.lr': float('nan')}, ['optim.lr=nan; expected a finite number']),
    ({'total_steps': -5}, ['total_steps=-5; expected at least 1']),
    ({'total_steps': 0}, ['total_steps=0; expected at least 1']),
    ({'optim.name': 'sgd'}, ["optim.name='sgd'", 'adam, adamw']),
    ({'optim.schedule': 'step'}, ["optim.schedule='step'", 'inverse_sqrt']),
    ({'fsdp': 2}, ['fsdp=2 does not divide the 1 devices', 'legal are 1']),
    ({'accumulate': 3}, ['accumulate=3', 'a divisor of the 8 rows']),
    ({'model.norm': 'last'}, ["norm='last'", 'post, pre']),
    ({'task.label_smoothing': 1.5}, ['label_smoothing must be', '1.5']),
    ({'skip_nonfinite': -1}, ['skip_nonfinite=-1', 'at least 0']),
    ({'seed': -1}, ['seed=-1', 'expected 0 to']),
    ({'model.dim': 0}, ['model.dim=0', 'at least 1']),
    ({'model.encoder_layers': 0}, ['model.encoder_layers=0', 'at least 1']),
    (
      {'model.decoder_layers': 10**6},
      ['model.decoder_layers=1000000', 'below'],
    ),
    ({'model.soft_cap': 0.0}, ['model.soft_cap=0.0; expected more than 0']),
    ({'model.max_length': -1}, ['model.max_length=-1', 'at least 1']),
    ({'model.dropout': 1.5}, ['model.dropout=1.5', 'below 1']),
    (
      {'model.epsilon': float('nan')},
      ['model.epsilon=nan; expected a finite number'],
    ),
    ({'model.dtype': 'int8'}, ["model.dtype='int8'", 'bfloat16']),
    ({'checkpoint.keep': 0}, ['checkpoint.average=2', 'checkpoint.keep=0']),
    ({'checkpoint.average': 3}, ['checkpoint.average=3', '2']),
    ({'every.checkpoint': 12}, ['checkpoint.average=2', '1']),
    ({'wandb': 'mine'}, ["wandb='mine'", 'pip install wandb']),
  ],
)
def test_config(changes, words, corpus, tmp_path):
  config = tiny.config(corpus)
  with config.unlocked():
    for name, value in changes.items():
      if name.endswith('attention'):
        config.model[name.removeprefix('model.')] = value
      else:
        config.update_from_flattened_dict({name: value})
  check_refused(config, tmp_path, *words)
  if all(name.startswith(('model.', 'optim.')) for name in changes):
    assert not list(tmp_path.iterdir())  # refused before data are prepared


def test_a_model_before_its_data():
  """Numbers that only they tell, also how large images are, are made up."""
  fields = dict(dim=8, num_layers=1, attention=dict(name='mha', num_heads=2))
  for name in ('decoder', 'encoder', 'vit'):
    models.check({}, name, **fields)


def test_sizes_are_integers():
  with pytest.raises(ValueError, match=r'model.dim=16.0; .*, an integer\.'):
    models.build('vit', dim=16.0, attention=dict(name='mha'))


@pytest.mark.slow
def test_goes_on_after_all_of_it(corpus, tmp_path, no_evaluation):
  """Into one workdir: mistakes, each with its words, then a run."""
  folder = copy(corpus, tmp_path / 'corpus')
  edit(folder / 'train.de', lambda lines: lines.pop())
  good, run_in = tiny.config(folder), tmp_path / 'run'
  check_refused(good, run_in, '200 lines', '199')
  edit(folder / 'train.de', lambda lines: lines.append('acht'))
  check_refused(tiny.config(folder, data__vocab_size=270, fsdp=2), run_in)
  check_refused(tiny.config(folder, model__attention__num_heads=3), run_in)
  run(good, run_in)
  assert tiny.rows(run_in)[-1]['step'] == 12
  assert (run_in / 'result.json').exists()
  wanted = wmt14.Translation(
    good.data, workdir=str(tmp_path / 'other'), seed=0, shard=(0, 1)
  )
  assert '270' not in str(wanted.describe()['vocabulary'])
  mine = (run_in / 'tokenizer.json').read_bytes()
  assert mine == (tmp_path / 'other' / 'tokenizer.json').read_bytes()


def test_workdir_of_another_config(corpus, tmp_path):
  config = tiny.config(corpus)
  workdir.claim(config, tmp_path)
  kept = (tmp_path / 'run.json').read_bytes()
  other = tiny.config(corpus, model__dim=32, data__files=('test=a,b',), seed=1)
  with pytest.raises(ValueError, match='another config') as info:
    workdir.claim(other, tmp_path)
  differences = str(info.value).split(': ', 1)[1]
  assert differences == (
    "data.files was (), is ('test=a,b',); model.dim was 16, is 32; "
    'seed was 0, is 1.'
  )
  assert (tmp_path / 'run.json').read_bytes() == kept
  assert workdir.claim(config, tmp_path) == config


def test_a_run_may_go_on_in_other_parts(corpus, tmp_path):
  """And one that began before there was skip_nonfinite."""
  config = tiny.config(corpus, fsdp=8)
  workdir.claim(config, tmp_path)
  path = tmp_path / 'run.json'
  kept = json.loads(path.read_text())
  del kept['config']['skip_nonfinite']
  path.write_text(json.dumps(kept))
  assert workdir.claim(None, tmp_path) == config
  other = tiny.config(corpus, fsdp=2, accumulate=4, skip_nonfinite=3)
  assert workdir.claim(other, tmp_path) == other
  assert workdir.claim(None, tmp_path) == config


def test_workdir_of_no_run(tmp_path):
  with pytest.raises(ValueError, match=' is missing: start the run with'):
    workdir.claim(None, tmp_path / 'nowhere')
  assert not list(tmp_path.iterdir())


def test_what_is_no_config(corpus, tmp_path):
  with pytest.raises(ValueError, match='--config gave 7, expected a Conf'):
    workdir.claim(7, tmp_path / 'new')
  config = tiny.config(corpus).copy_and_resolve_references()
  with config.unlocked():
    del config.optim
  with pytest.raises(ValueError, match=r"config: expected 'optim', got"):
    workdir.claim(config, tmp_path / 'new')
  assert not (tmp_path / 'new').exists()


def test_nothing_to_evaluate(corpus, tmp_path):
  config = workdir.claim(tiny.config(corpus), tmp_path)
  with pytest.raises(ValueError, match='has no checkpoint to evaluate'):
    train.run(config, str(tmp_path), eval_only=True)


# Data -------------------------------------------------------------------------


def test_missing_folder(corpus, tmp_path):
  where = corpus / 'not'
  layouts = ('train.en and train.de', 'val.*', 'train.tsv', '.gz', 'data.files')
  check_refused(
    tiny.config(where), tmp_path, f'{where} does not exist', *layouts
  )


@pytest.mark.parametrize(
  'missing, words',
  [
    (['train.de'], ['has train.en, but no train.de']),
    (['test.en', 'test.de'], ["no split 'test'", 'only train, val', 'test.*']),
    (['val.en', 'val.de'], ["no split 'val'", 'valid.*']),
    (['train.en', 'train.de'], ["no split 'train'", 'There: test.de, test.en']),
  ],
)
def test_missing_file(missing, words, corpus, tmp_path):
  """Refused before the training, even if it is only needed after it."""
  folder = copy(corpus, tmp_path / 'corpus')
  for name in missing:
    (folder / name).unlink()
  check_refused(tiny.config(folder), tmp_path / 'run', *words)


@pytest.mark.parametrize('split, n', [('train', 200), ('val', 11), ('test', 7)])
def test_sides_of_different_length(split, n, corpus, tmp_path):
  folder = copy(corpus, tmp_path / 'corpus')
  edit(folder / f'{split}.en', lambda lines: lines.pop(3))
  words = f'{split}.en has {n - 1} lines', f'{split}.de {n}', f'line {n} has no'
  check_refused(tiny.config(folder), tmp_path / 'run', *words)


@pytest.mark.parametrize('split', ['train', 'test'])
def test_invalid_utf8(split, corpus, tmp_path):
  folder = copy(corpus, tmp_path / 'corpus')
  path = folder / f'{split}.de'
  lines = path.read_bytes().split(b'\n')
  lines[4] = 'fünf'.encode('latin-1')
  path.write_bytes(b'\n'.join(lines))
  words = f'{path}, line 5', 'invalid UTF-8', '0xfc'
  check_refused(tiny.config(folder), tmp_path / 'run', *words)


def test_no_pairs_left(corpus, tmp_path):
  folder = copy(corpus, tmp_path / 'corpus')
  tiny.write_lines(folder / 'val.en', [''] * 11)
  words = 'the split val has no pairs'
  check_refused(tiny.config(folder), tmp_path / 'run', words)


def test_empty_lines_are_counted(corpus, tmp_path):
  folder = copy(corpus, tmp_path / 'corpus')

  def empty(*places):
    return lambda lines: [lines.__setitem__(i, '  ') for i in places]

  edit(folder / 'train.en', empty(0, 7))
  edit(folder / 'train.de', empty(7, 9, 199))
  for _ in range(2):  # the second time from the cache
    task = build(tiny.config(folder), tmp_path)
    said = task.describe()
    assert said['empty lines in train.en'] == 2
    assert said['empty lines in train.de'] == 3
    assert said['pairs'] == 200 - 4
    assert not [x for x in said if 'lines in val' in x]


def test_too_long_is_counted(corpus, tmp_path):
  """By the policy of the config: left out, or cut to the row."""
  folder = copy(corpus, tmp_path / 'corpus')
  edit(folder / 'train.en', lambda lines: lines.__setitem__(2, 'one ' * 30))
  said = {}
  for policy in ('drop', 'truncate'):
    config = tiny.config(folder, data__too_long=policy)
    task = build(config, tmp_path)
    said[policy] = task.describe()
    assert said[policy]['too_long_policy'] == policy
    longest = max(
      (task.batch(step)['source_positions'] + 1).max() for step in range(20)
    )
    assert longest <= 24
    assert (longest == 24) == (policy == 'truncate')
  assert said['drop']['too_long'] == said['truncate']['too_long'] == 1
  assert said['drop']['packed'] == 199
  assert said['truncate']['packed'] == 200


def test_a_test_sentence_that_is_too_long(corpus, tmp_path):
  """Refused before the training, not after it."""
  folder = copy(corpus, tmp_path / 'corpus')
  edit(folder / 'test.en', lambda lines: lines.__setitem__(2, '1' * 50))
  words = "sentence 3 of 'test' has 52 tokens", 'max_length=64', 'at most 36'
  check_refused(tiny.config(folder), tmp_path / 'run', *words)


def build(config, folder):
  return wmt14.Translation(
    config.data, workdir=str(folder), seed=0, shard=(0, 1)
  )


# While it runs ----------------------------------------------------------------


def spoil(monkeypatch, *steps):
  """Makes batches whose loss is NaN."""
  good = pipeline.PackedPairs.batch

  def batch(self, step):
    found = good(self, step)
    factor = np.float32(np.nan if step in steps else 1)
    return found | dict(weights=found['weights'] * factor)

  monkeypatch.setattr(pipeline.PackedPairs, 'batch', batch)


@pytest.fixture(scope='module')
def stopped(corpus, tmp_path_factory):
  """The workdir of a run that failed after three of its checkpoints."""
  folder = tmp_path_factory.mktemp('stopped') / 'run'
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluation, 'build', SCORES)
    spoil(patch, 10)
    with pytest.raises(FloatingPointError):
      run(tiny.config(corpus), folder)
  assert tiny.rows(folder)[-1]['step'] == 10
  return folder


def contents(folder):
  return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


OUT_OF_REACH = dict(
  missing=lambda path: None,
  empty=lambda path: path.mkdir(),
  file=lambda path: path.write_text(''),
  link=lambda path: path.symlink_to('volume'),
)


@pytest.mark.parametrize(
  'how, eval_only',
  [
    ('missing', True),
    pytest.param('empty', False, marks=pytest.mark.slow),
    pytest.param('file', True, marks=pytest.mark.slow),
    pytest.param('link', False, marks=pytest.mark.slow),
  ],
)
def test_checkpoints_out_of_reach(
  how, eval_only, stopped, tmp_path, monkeypatch, no_evaluation
):
  """Nothing is deleted or begun again; once they are back, the run goes on."""
  folder, away = tmp_path / 'run', tmp_path / 'away'
  shutil.copytree(stopped, folder)
  (folder / 'checkpoints').rename(away)
  OUT_OF_REACH[how](folder / 'checkpoints')
  before = contents(folder)
  config = workdir.claim(None, folder)
  with pytest.raises((ValueError, OSError)) as info:
    run(config, folder, eval_only)
  assert 'checkpoint' in str(info.value)
  assert '\n' not in str(info.value)
  after = contents(folder)
  assert {path: after.get(path) for path in before} == before
  assert {path.name for path in after.keys() - before.keys()} <= {
    'model.json',
    'parameters.txt',
  }
  path = folder / 'checkpoints'
  if how != 'missing':
    path.rmdir() if path.is_dir() else path.unlink()
  away.rename(path)
  monkeypatch.undo()
  monkeypatch.setattr(evaluation, 'build', SCORES)
  run(config, folder)
  assert tiny.rows(folder)[-1]['step'] == 12


@pytest.mark.slow
def test_killed_before_the_first_checkpoint(corpus, tmp_path, no_evaluation):
  """What is there of it is made again, to the same end."""
  config = tiny.config(corpus)
  with pytest.MonkeyPatch.context() as patch:
    spoil(patch, 1)
    with pytest.raises(FloatingPointError):
      run(config, tmp_path)
  assert [row['step'] for row in tiny.rows(tmp_path)] == [1]
  assert (tmp_path / 'run.json').exists()
  run(config, tmp_path)
  steps = [row['step'] for row in tiny.rows(tmp_path) if 'train/loss' in row]
  assert steps == list(range(1, 13))
  assert not (tmp_path / workdir.BEGUN).exists()


@pytest.mark.slow
def test_best_by_a_metric_that_is_none(corpus, tmp_path, no_evaluation):
  """Told at the first evaluation, and put right in the run that there is."""
  typo = tiny.config(corpus, checkpoint__best='-val/nnl')
  with pytest.raises(ValueError, match=r"'-val/nnl' is no .* are val/nll: "):
    run(typo, tmp_path)
  assert tiny.rows(tmp_path)[-1]['step'] == 4
  config = tiny.config(corpus, checkpoint__best='-val/nll')
  run(config, tmp_path)
  assert tiny.rows(tmp_path)[-1]['step'] == 12
  assert workdir.claim(None, tmp_path) == config
  result = json.loads((tmp_path / 'result.json').read_text())
  assert result['config_hash'] == identity.config_hash(config)
  assert 'changes' not in result


@pytest.mark.slow
def test_validation_that_is_nan(corpus, tmp_path, monkeypatch):
  """Ends the run at once, though steps may be skipped; it can go on."""
  nan = tiny.evaluation_of(nll=float('nan'))
  monkeypatch.setattr(evaluation, 'build', nan)
  config = tiny.config(corpus, skip_nonfinite=100)
  with pytest.raises(FloatingPointError, match=r'val/nll of the .* is nan'):
    run(config, tmp_path)
  assert tiny.rows(tmp_path)[-1] == {'step': 4, 'val/nll': 'nan'}
  assert (tmp_path / 'checkpoints' / '3').is_dir()
  monkeypatch.setattr(evaluation, 'build', SCORES)
  run(config, tmp_path)


@pytest.mark.slow
def test_more_steps(corpus, tmp_path, no_evaluation):
  """The run is that which had them from its start, and says that it had not."""
  short = tiny.config(corpus)
  long = tiny.config(corpus, total_steps=15)
  run(short, tmp_path / 'grown')
  run(long, tmp_path / 'grown')
  run(long, tmp_path / 'whole')
  assert tiny.rows(tmp_path / 'grown') == tiny.rows(tmp_path / 'whole')
  grown, whole = (
    json.loads((tmp_path / name / 'result.json').read_text())
    for name in ('grown', 'whole')
  )
  assert grown['config_hash'] == whole['config_hash']
  change = dict(step=12, field='total_steps', was=12, now=15)
  assert (grown['changes'], 'changes' in whole) == ([change], False)
  with pytest.raises(ValueError, match='total_steps was 15, is 20'):
    train.run(
      tiny.config(corpus, total_steps=20), str(tmp_path / 'grown'), True
    )


# Orbax ends writes that are under way after it has closed its event loop.
@pytest.mark.filterwarnings(
  'ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning'
)
@pytest.mark.parametrize(
  'gone', [pytest.param('.', marks=pytest.mark.slow), 'checkpoints']
)
def test_workdir_deleted_under_a_run(
  gone, corpus, tmp_path, monkeypatch, no_evaluation
):
  folder, batch = tmp_path / 'run', pipeline.PackedPairs.batch

  def delete(self, step):
    if step == 8:
      # First out of the way: a folder that is written to may not be removed.
      (folder / gone).resolve().rename(tmp_path / 'gone')
      shutil.rmtree(tmp_path / 'gone', ignore_errors=True)
    return batch(self, step)

  monkeypatch.setattr(pipeline.PackedPairs, 'batch', delete)
  monkeypatch.setattr(changes, 'check_data', lambda *args: None)
  with pytest.raises(OSError, match=r'was deleted|is gone') as info:
    run(tiny.config(corpus), folder)
  assert '\n' not in str(info.value)
  assert not (folder / gone).exists(), [*folder.rglob('*')]


@pytest.mark.slow
def test_steps_that_are_skipped(
  corpus, tmp_path, monkeypatch, no_evaluation, caplog
):
  """They change nothing but the count, and a run that goes on keeps it."""
  config = tiny.config(corpus, skip_nonfinite=2, every__log=5)
  spoil(monkeypatch, 4, 7)
  run(config, tmp_path / 'whole')
  told = [x for x in caplog.messages if 'It is skipped' in x]
  assert [x.split(' the loss is nan')[0] for x in told] == [
    'At step 5',
    'At step 8',
  ]
  assert told[1].endswith('It is skipped, 2 of 2.')
  task = build(config, tmp_path / 'whole')
  assert f'examples {", ".join(map(str, task.rows(4)))}. ' in told[0]
  whole = tiny.rows(tmp_path / 'whole')
  assert [row['train/skipped'] for row in whole if 'train/loss' in row] == [
    0,
    1,
    2,
    2,
  ]
  rates = [row['train/lr'] for row in whole if 'train/loss' in row]
  done = np.array([1, 5, 8, 10])  # updates, that one included
  np.testing.assert_allclose(
    rates, 3e-3 * np.minimum(done / 4, (4 / done) ** 0.5)
  )

  spoil(monkeypatch, 4, 7, 10)  # one more: stopped, mended, and gone on with
  with pytest.raises(
    FloatingPointError, match=r'At step 11 .* one too many for'
  ):
    run(config, tmp_path / 'parts')
  assert (tmp_path / 'parts' / 'checkpoints' / '9').is_dir()
  monkeypatch.undo()
  monkeypatch.setattr(evaluation, 'build', SCORES)
  spoil(monkeypatch, 4, 7)
  run(None, tmp_path / 'parts')
  assert tiny.rows(tmp_path / 'parts') == whole


def test_loss_that_is_not_finite(
  corpus, tmp_path, monkeypatch, no_evaluation, capsys
):
  """The step is named though it was seen later; what was good goes on."""
  spoil(monkeypatch, 6)
  changes = dict(every__log=5, every__checkpoint=4)
  config = tiny.config(corpus, **changes)
  with pytest.raises(
    FloatingPointError, match='At step 7 the loss is nan'
  ) as info:
    run(config, tmp_path)
  assert f'the checkpoints in {tmp_path} are from before it' in str(info.value)
  assert not (tmp_path / 'result.json').exists()
  names = os.listdir(tmp_path / 'checkpoints')
  assert names == ['4']
  assert tiny.rows(tmp_path)[-1]['step'] == 5
  monkeypatch.undo()
  monkeypatch.setattr(evaluation, 'build', SCORES)
  capsys.readouterr()
  run(None, tmp_path)
  assert '4 of 12 done' in capsys.readouterr().out
  assert [
    row['step'] for row in tiny.rows(tmp_path) if 'train/loss' in row
  ] == [
    1,
    5,
    10,
    12,
  ]


@pytest.mark.slow
def test_learning_rate_of_a_typo(corpus, cache, tmp_path):
  """Its row stays, and with it the config that the row is of."""
  command = tiny.command(corpus, tmp_path, optim__lr=1e30)
  code, _, err = tiny.train(command, cache)
  check_line(code, err, 'At step 2 the loss is nan', 'not finite in decoder')
  assert [row['step'] for row in tiny.rows(tmp_path)] == [1]
  with pytest.raises(ValueError, match=r'optim\.lr was 1e\+30, is 0\.003'):
    workdir.claim(tiny.config(corpus), tmp_path)
