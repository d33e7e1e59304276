# SPDX-License-Identifier: Apache-2.0
"""The page of a run: whole, with nothing from elsewhere, and safe."""

import json
import re
import shutil

import numpy as np
import pytest

from experiments.report import charts, gallery, maps, runs
from tests.experiments.report import pages
from tests.experiments.report.pages import EVIL


def test_run(run, monkeypatch, capsys):
  data = json.loads((run / 'run.json').read_text())['config']['data']['path']
  pages.call(monkeypatch, run, f'--data={data}')
  said = capsys.readouterr()
  assert said.out == f'{run / "report.html"}\n'
  found = pages.check(run / 'report.html')
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


@pytest.mark.slow
def test_own_text_is_translated(trained, tmp_path, monkeypatch):
  out = tmp_path / 'page.html'
  pages.call(monkeypatch, trained, '--text=one two', f'--out={out}')
  found = pages.check(out)
  assert 'The given text, ' in found.text
  assert 'and its translation, ' in found.text
  assert {'<bos>', '<eos>'} <= {*found.all('text')}


def test_without_checkpoint_the_page_says_so(run, monkeypatch, capsys):
  shutil.rmtree(run / 'checkpoints')
  (run / 'result.json').unlink()
  pages.call(monkeypatch, run)
  why = r'No attention maps: .*/checkpoints has no checkpoint\.'
  assert re.fullmatch(f'report: {why}\n', capsys.readouterr().err)
  found = pages.check(run / 'report.html')
  assert re.search(why, found.text)
  assert 'Heads alike' not in found.all('h2')
  assert 'Not finished: 2 of 2 steps so far.' in found.text
  assert 'Validation, the last so far' in found.text


def test_run_that_has_not_begun(run, monkeypatch):
  for path in run.iterdir():
    if path.name != 'run.json':
      shutil.rmtree(path) if path.is_dir() else path.unlink()
  pages.call(monkeypatch, run)
  found = pages.check(run / 'report.html')
  assert 'Not finished: 0 of 2 steps so far.' in found.text
  assert 'Not known: ' in found.text  # no model.json, no cost


@pytest.mark.parametrize(
  'fields, words',
  [
    (dict(encoder_layers=1000000), 'encoder_layers is 1000000, expected 1 to'),
    (dict(decoder_layers='x'), "decoder_layers is 'x', expected 1 to 10,000"),
    (dict(attention=[1]), 'is of no model: '),
    (dict(attention=dict(name='mha', num_heads=0)), 'is of no model: '),
  ],
)
def test_damaged_model_is_said_on_the_page(run, monkeypatch, fields, words):
  pages.change(run / 'model.json', **fields)
  pages.call(monkeypatch, run)
  found = pages.check(run / 'report.html')
  for what in ('Not known: ', 'No attention maps: '):
    assert re.search(f'{what}[^ ]*/model.json:? {words}', found.text)
  other = shutil.copytree(run, run.parent / 'other')
  pages.call(monkeypatch, run, other, f'--out={other / "two.html"}')
  assert 'not known' in pages.check(other / 'two.html').text


@pytest.mark.parametrize(
  'link', [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_nothing_is_written_outside_the_run(run, monkeypatch, tmp_path, link):
  """Its config may name another folder for tokens, or its own be a link."""
  elsewhere = tmp_path / 'elsewhere'
  elsewhere.mkdir()
  config = json.loads((run / 'run.json').read_text())['config']
  config['data'] |= dict(folder='' if link else str(elsewhere))
  pages.change(run / 'run.json', config=config)
  shutil.rmtree(run / 'data')
  if link:
    (run / 'data').symlink_to(elsewhere)
  pages.call(monkeypatch, run, f'--data={config["data"]["path"]}')
  found = pages.check(run / 'report.html')
  assert not any(elsewhere.iterdir())
  assert link == ('which is not in the workdir' in found.text)


def test_names_are_text(run, monkeypatch):
  shutil.rmtree(run / 'checkpoints')
  (run / 'model.json').unlink()
  evil = run.rename(run.parent / EVIL)
  pages.change(evil / 'run.json', command=EVIL, versions={EVIL: EVIL})
  metrics = {EVIL: EVIL, 'bleu': 1}
  pages.change(evil / 'result.json', metrics=metrics, date=EVIL, seconds=EVIL)
  names = f'val/{EVIL}', f'val/{EVIL}/x', f'train/{EVIL}'
  rows = [dict.fromkeys(names, i) | dict(step=i) for i in (1, 2)]
  lines = ''.join(f'{json.dumps(row)}\n' for row in rows)
  (evil / 'metrics.jsonl').write_text(lines)
  pages.call(monkeypatch, evil)
  found = pages.check(evil / 'report.html')
  assert EVIL in found.all('pre')
  assert EVIL in found.all('th')
  assert EVIL in found.all('h3')
  other = shutil.copytree(evil, evil.parent / 'other')
  pages.call(monkeypatch, evil, other, f'--out={other / "two.html"}')
  assert EVIL in pages.check(other / 'two.html').all('pre')


def test_tokens_are_text():
  words = [EVIL, '"&']
  layer = maps.Layer('encoder 0', np.full((2, 2, 2), 0.5), words, words)
  html = gallery.show(maps.Example(EVIL, {}, {}), [layer])
  found = pages.Page(html)
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
  pages.Page(html)
  assert html.count(charts.picture(picture)) == 1
  assert html.count('class="under"') == 3  # one in large
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


def test_table_of_heads_that_are_alike():
  """0 and 1 are the same, 2 is another; a layer below has one like 2."""
  one, two = np.eye(4)[:2], np.eye(4)[2:]
  words, columns = list('ab'), list('wxyz')
  layers = [
    maps.Layer('encoder 0', np.stack([one, one, two]), words, columns),
    maps.Layer('encoder 1', two[None], words, columns),
  ]
  found = pages.Page(gallery.alike(layers))
  cells = [x.replace('\N{NO-BREAK SPACE}', ' ') for x in found.all('td')]
  assert cells == ['0.33', '1.00 (0, 1)', '0.00 (0, 2)', '0.33', '0.33']
  assert found.all('h3') == ['encoder']
