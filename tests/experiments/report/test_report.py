# SPDX-License-Identifier: Apache-2.0
"""The pages: whole, without anything from elsewhere, and safe."""

from html import parser
import json
import re
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab import models, tasks
from collab.training import checkpoint, files, logs, workdir
from collab.training import report as ending
from experiments.report import __main__ as report
from experiments.report import comparison, gallery, maps, runs
from tests import tiny

VOID = {'meta', 'img', 'br', 'path', 'image'}
EVIL = '<script>alert("x")'


class Page(parser.HTMLParser):
  """What a page is made of; fails if its tags do not match."""

  def __init__(self, html):
    super().__init__()
    self.tags, self.texts, self._open = [], [], []
    self.feed(html)
    self.close()
    assert self._open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    if self._open and self._open[-1] not in ('script', 'style'):
      self.texts.append((self._open[-1], data))

  @property
  def text(self):
    return ' '.join(data for _, data in self.texts)

  def all(self, name):
    return [data for tag, data in self.texts if tag == name]


def check(path):
  """What holds for any page; returns it."""
  html = path.read_text('utf-8')
  found = Page(html)
  assert len(html) < 2e6
  names = [tag for tag, _ in found.tags]
  assert names.count('script') == names.count('h1') == 1
  assert not {'link', 'iframe', 'object', 'base'} & {*names}
  ids = [attrs['id'] for _, attrs in found.tags if 'id' in attrs]
  assert len(ids) == len({*ids})
  for tag, attrs in found.tags:
    for url in (attrs.get('src'), attrs.get('href')):
      inside = url and url[0] == '#' and url[1:] in ids
      assert url is None or inside or url.startswith('data:image/png;base64,')
    assert not any(name.startswith('on') for name in attrs)
    if tag == 'img':
      assert attrs['alt']
    if tag == 'svg':
      assert attrs.get('aria-label') or attrs.get('aria-hidden')
  urls = re.findall(r'url\(([^)]*)\)', html)
  assert all(url.startswith('data:') for url in urls)
  assert '@import' not in html
  return found


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """The workdir of a run, as train.py leaves it; nothing was learnt."""
  corpus = tiny.write_corpus(tmp_path_factory.mktemp('corpus'))
  folder = tmp_path_factory.mktemp('runs') / 'tiny'
  config = tiny.config(corpus, total_steps=2, checkpoint__average=1)
  workdir.claim(config, folder)
  task = tasks.build(
    **config.task, data=config.data, workdir=folder, seed=0, shard=(0, 1)
  )
  fields = config.model.to_dict() | task.model_kwargs
  files.save_json(folder / 'model.json', fields)
  model, inputs = models.build(**fields), task.inputs(task.batch(0))
  shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes
  )
  checkpoints = checkpoint.Checkpoints(folder, keep=1)
  checkpoints.save(2, dict(params=params))
  checkpoints.close()
  writer = logs.Writer(folder)
  for step, loss in ((1, 3.0), (2, 2.5)):
    row = {'train/loss': loss, 'train/lr': step / 1000}
    writer.write(step, row | dict(tokens_per_second=7.5))
    writer.write(step, {'val/perplexity': 10 * loss, 'val/words': 9})
  writer.close()
  scores = dict(perplexity=25.0, bleu=12.345, bleu_signature='nrefs:1')
  ending.end(config, folder, model, params, 2, scores)
  return folder


@pytest.fixture
def run(trained, tmp_path):
  """A copy that a test may spoil."""
  return shutil.copytree(trained, tmp_path / 'tiny')


def call(monkeypatch, *args):
  monkeypatch.setattr(sys, 'argv', ['report', *map(str, args)])
  report.main()


def change(path, **new):
  """Changes fields of a JSON file."""
  path.write_text(json.dumps(json.loads(path.read_text()) | new))


# A run ------------------------------------------------------------------------


def test_run(run, monkeypatch, capsys):
  call(monkeypatch, run)
  said = capsys.readouterr()
  assert said.out == f'{run / "report.html"}\n'
  found = check(run / 'report.html')
  assert found.all('h1') == ['wmt14 with mhe_mul, seed 0']
  assert found.all('h2') == [
    *('Results', 'Cost', 'Learning curves'),
    *('Attention', 'Heads alike', 'Config'),
  ]
  assert found.all('summary') == [
    *('encoder 0', 'decoder 0', 'decoder 0 cross'),
    *('Versions', 'All fields'),
  ]
  result = json.loads((run / 'result.json').read_text())
  assert 'Finished 2 steps: bleu 12.35 on the test set.' in found.text
  assert result['date'] in found.text
  assert result['command'] in found.all('pre')
  assert found.all('h3')[:3] == [  # what does not change is no curve
    *('train loss', 'val perplexity', 'train learning rate')
  ]
  heads = [attrs for tag, attrs in found.tags if tag == 'button']
  assert len(heads) == 3 * 2
  assert [x['aria-pressed'] for x in heads] == ['true', 'false'] * 3


def test_own_text_is_translated(trained, tmp_path, monkeypatch):
  out = tmp_path / 'page.html'
  call(monkeypatch, trained, '--text=one two', f'--out={out}')
  found = check(out)
  assert 'The given text, ' in found.text
  assert 'and its translation, ' in found.text
  assert {'<bos>', '<eos>'} <= {*found.all('text')}


def test_without_checkpoint_the_page_says_so(run, monkeypatch, capsys):
  shutil.rmtree(run / 'checkpoints')
  (run / 'result.json').unlink()
  call(monkeypatch, run)
  why = r'No attention maps: .*/checkpoints has no checkpoint\.'
  assert re.fullmatch(f'report: {why}\n', capsys.readouterr().err)
  found = check(run / 'report.html')
  assert re.search(why, found.text)
  assert 'Heads alike' not in found.all('h2')
  assert 'Not finished: 2 of 2 steps so far.' in found.text
  assert 'Validation, the last so far' in found.text


def test_run_that_has_not_begun(run, monkeypatch):
  for path in run.iterdir():
    if path.name != 'run.json':
      shutil.rmtree(path) if path.is_dir() else path.unlink()
  call(monkeypatch, run)
  found = check(run / 'report.html')
  assert 'Not finished: 0 of 2 steps so far.' in found.text
  assert 'Not known: ' in found.text  # no model.json, no cost


def test_names_are_text(run, monkeypatch):
  shutil.rmtree(run / 'checkpoints')
  (run / 'model.json').unlink()
  evil = run.rename(run.parent / EVIL)
  change(evil / 'run.json', command=EVIL, versions={EVIL: EVIL})
  metrics = {EVIL: EVIL, 'bleu': 1}
  change(evil / 'result.json', metrics=metrics, date=EVIL, seconds=EVIL)
  rows = [{'step': i, f'val/{EVIL}': i, f'train/{EVIL}': 1} for i in (1, 2)]
  lines = ''.join(f'{json.dumps(row)}\n' for row in rows)
  (evil / 'metrics.jsonl').write_text(lines)
  call(monkeypatch, evil)
  found = check(evil / 'report.html')
  assert EVIL in found.all('pre')
  assert EVIL in found.all('th')
  assert EVIL in found.all('h3')
  other = shutil.copytree(evil, evil.parent / 'other')
  call(monkeypatch, evil, other, f'--out={other / "two.html"}')
  assert EVIL in check(other / 'two.html').all('pre')


def test_tokens_are_text():
  words = [EVIL, '"&']
  layer = maps.Layer('encoder 0', np.full((2, 2, 2), 0.5), words, words)
  html = gallery.show(maps.Example(EVIL, {}, {}), [layer])
  found = Page(html)
  assert 'script' not in [tag for tag, _ in found.tags]
  assert f'{EVIL}.' in found.text
  assert found.all('text') == [f'{EVIL[:9]}…', '"&'] * 2


def test_classes_look_at_patches():
  weights = np.full((2, 5, 5), 0.1)
  weights[:, :, 0] = 0.6
  weights[1, 0] = 0.1, 0.1, 0.1, 0.1, 0.6
  layer = maps.Layer('encoder 0', weights, list('abcde'), list('abcde'))
  picture = np.zeros((4, 4, 3), np.uint8)
  html = gallery.show(maps.Example('', {}, {}, picture), [layer])
  Page(html)
  assert html.count('<image class="heat') == 1
  assert 'class="under"' in html
  grids = gallery._patches(weights)
  np.testing.assert_allclose(grids[0], 1 / 6)
  np.testing.assert_allclose(grids[1], [[1 / 6, 1 / 6], [1 / 6, 1]])


@pytest.mark.parametrize(
  'value, text',
  [
    (1234567, '1,234,567'),
    (218123.4, '218,123'),
    (0.123456, '0.1235'),
    (12.3456, '12.35'),
    ([1.0, 0.123456], '1, 0.1235'),
    ('nan', 'nan'),
    (True, 'True'),
  ],
)
def test_numbers(value, text):
  assert runs.number(value) == text


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
      change(folder / 'run.json', config=config)
      metrics = dict(bleu=bleu, same=1, signature='nrefs:1')
      change(folder / 'result.json', metrics=metrics)
  shutil.copy(trained / 'model.json', tmp_path / 'sweep' / 'mha-s0')
  late = shutil.copytree(folder, tmp_path / 'sweep' / 'mhe_mul-s3')
  (late / 'result.json').unlink()
  change(late / 'run.json', config=config | dict(seed=3, init_from=''))
  return tmp_path / 'sweep'


def test_sweep(sweep, monkeypatch):
  call(monkeypatch, sweep)
  found = check(sweep / 'report.html')
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


def test_arms_are_told_apart_by_what_differs(sweep):
  found = [runs.read(folder) for folder in runs.find([sweep])]
  arms = comparison.of_arms(found)
  assert {name: len(some) for name, some in arms.items()} == {
    'mha': 2,
    'mhe_mul, init_from=runs/first-s': 3,
    'mhe_mul, init_from=': 1,
  }


def test_workdirs_are_found_where_they_are(sweep):
  every = sorted(sweep.iterdir())
  assert runs.find([sweep]) == every
  assert runs.find([sweep.parent]) == every
  assert runs.find([*every[:2], every[0]]) == every[:2]


# Bad input --------------------------------------------------------------------


def spoil(name, text):
  return lambda run: (run / name).write_text(text)


@pytest.mark.parametrize(
  'change, args, message',
  [
    (None, ['nowhere'], 'There is no folder .*nowhere'),
    (None, ['.'], 'neither a workdir .* nor a folder of workdirs'),
    (None, ['tiny', 'copy', '--text=x'], '--text is for one run, got 2'),
    (
      None,
      ['tiny', '--out=no/where.html'],
      'no/where.html: there is no',
    ),
    (spoil('run.json', '{'), ['tiny'], 'run.json is no JSON'),
    (spoil('result.json', '{}'), ['tiny'], 'result.json is damaged: it has no'),
    (spoil('metrics.jsonl', 'x\n'), ['tiny'], 'metrics.jsonl, line 1: no row'),
  ],
  ids=['folder', 'workdir', 'text', 'out', 'run', 'result', 'metrics'],
)
def test_one_line(run, monkeypatch, capsys, change, args, message):
  shutil.rmtree(run / 'checkpoints')  # nothing of them is read in vain
  if 'copy' in args:
    shutil.copytree(run, run.parent / 'copy')
  if args == ['.']:
    args = ['tiny/tensorboard']
  if change:
    change(run)
  monkeypatch.chdir(run.parent)
  with pytest.raises(SystemExit, match=f'report: .*{message}') as error:
    call(monkeypatch, *args)
  assert '\n' not in error.value.code
  assert not [*run.parent.rglob('*.html')]
  assert capsys.readouterr().out == ''
