# SPDX-License-Identifier: Apache-2.0
"""collab.evaluate: each token once, each class by its name, one line."""

import json

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

import collab
from collab import evaluate
from collab.data import tokenizer_training
from collab.inference.run import Run
from collab.metrics import labels
from tests import test_generate, tiny
from tests.convert import checkpoints
from tests.models import small

LINES = 'one two', '', ' drei vier fünf\t', 'nine eight seven six', 'one'


@pytest.fixture(scope='module')
def words(tmp_path_factory):
  path = tmp_path_factory.mktemp('words') / 'tokenizer.json'
  return tokenizer_training.train(iter(tiny.WORDS.values()), 300, path)


@pytest.fixture
def run(words):
  n = words.vocab_size
  model, params = test_generate.model(n), test_generate.parameters(n)
  config = ConfigDict(dict(task=dict(name='lm'), data=dict(row_length=8)))
  return Run(model, params, words, config, folder='DIR')


@pytest.fixture
def text(tmp_path):
  path = tmp_path / 'text'
  path.write_text(''.join(f'{line}\n' for line in LINES))
  return path


def test_perplexity_counts_each_token_once(run, text):
  """In windows of 8, 3 apart; lines are read as in training."""
  found = evaluate.perplexity(run, text, stride=3)
  tokenizer, ids = run.tokenizer, []
  for line in LINES:
    ids += [*tokenizer.encode(line.strip()), tokenizer.eos_id]
  before, nll, counted = [tokenizer.bos_id, *ids], 0.0, 0
  for start in range(0, len(ids), 3):
    tokens = np.int32([(before[start : start + 8] + [0] * 8)[:8]])
    logits = small.apply(run.model, run.params, dict(tokens=tokens))[0]
    log_p = jax.nn.log_softmax(logits)
    for i in range(start, min(start + 8, len(ids))):
      if i >= counted:
        nll -= float(log_p[i - start, ids[i]])
        counted = i + 1
  clean = ''.join(f'{line.strip()}\n' for line in LINES)
  counts = dict(tokens=len(ids), words=10 + 5, characters=len(clean))
  counts |= dict(bytes=len(clean) + 1, length=8, stride=3)
  assert {k: found[k] for k in counts} == counts
  np.testing.assert_allclose(np.log(found['perplexity']), nll / len(ids), 1e-5)
  np.testing.assert_allclose(np.log(found['word_perplexity']), nll / 15, 1e-5)
  for unit in ('character', 'byte'):
    bits = nll / np.log(2) / counts[f'{unit}s']
    np.testing.assert_allclose(found[f'bits_per_{unit}'], bits, 1e-5)


def test_the_command_prints_a_line_or_json(run, text, monkeypatch, capsys):
  monkeypatch.setattr(collab, 'load', lambda folder: run)
  evaluate.main(['DIR', f'--text={text}'])
  out = capsys.readouterr().out
  assert out.startswith('perplexity ')
  assert out.endswith(', length 8, stride 4\n')
  assert out.count('\n') == 1
  evaluate.main(['DIR', f'--text={text}', '--json'])
  found = json.loads(capsys.readouterr().out)
  assert evaluate.line(found) == out.strip()


PAIRS = [
  ('one two', 'two one', 4.5),
  ('three', 'four five', 0.5),
  ('five', 'five', 5.0),
  ('one', 'two three', 2.0),
]


def write(folder, names, columns, rows):
  """Files of a task of GLUE."""
  folder.mkdir(parents=True)
  for name in names:
    lines = ['\t'.join(map(str, row)) for row in (columns, *rows)]
    tiny.write_lines(folder / name, lines)


def test_stsb_correlates_cosines(tmp_path):
  columns = 'sentence1', 'sentence2', 'score'
  write(tmp_path / 'STS-B', ('train.tsv', 'dev.tsv'), columns, PAIRS)
  run = collab.load(checkpoints.with_words(tmp_path / 'bert'))
  texts = [text for pair in PAIRS for text in pair[:2]]
  a, b = run.encode(texts).astype(float).reshape(4, 2, -1).swapaxes(0, 1)
  norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
  cosines = (a * b).sum(-1) / norms
  want = labels.correlation_scores([pair[2] for pair in PAIRS], cosines)
  found = evaluate.stsb(run, str(tmp_path))
  assert found.pop('pairs') == 4
  assert found == pytest.approx(want, abs=1e-9)


MNLI = 'entailment', 'neutral', 'contradiction'


@pytest.mark.parametrize('names', [(), MNLI, MNLI[1:] + MNLI[:1]])
def test_classes_are_matched_by_name(names, tmp_path):
  columns = 'sentence1', 'sentence2', 'gold_label'
  rows = [(*pair[:2], MNLI[i % 3]) for i, pair in enumerate(PAIRS)]
  files = 'train.tsv', 'dev_matched.tsv', 'dev_mismatched.tsv'
  write(tmp_path / 'MNLI', files, columns, rows)
  folder = tmp_path / 'bert'
  checkpoints.with_words(folder, 'bert_ForSequenceClassification')
  if names:
    config = json.loads((folder / 'config.json').read_text())
    config['id2label'] = {str(i): name for i, name in enumerate(names)}
    config['label2id'] = {name: i for i, name in enumerate(names)}
    (folder / 'config.json').write_text(json.dumps(config))
  run = collab.load(folder)
  found = evaluate.glue(run, 'mnli', str(tmp_path), length=12)
  right = 0
  for first, second, label in rows:
    ids = run.tokenizer.encode_batch([first, second])
    tokens = [2, *ids[0], 3, *ids[1], 3]
    types = [0] * (len(ids[0]) + 2) + [1] * (len(ids[1]) + 1)
    batch = dict(tokens=np.int32([tokens]), types=np.int32([types]))
    batch['lengths'] = np.int32([len(tokens)])
    (outputs,) = run.model.apply({'params': run.params}, batch)
    right += (names or MNLI)[int(outputs.argmax())] == label
  assert found['accuracy_m'] == found['accuracy_mm'] == right / 4
  assert found['examples_m'] == 4


@pytest.mark.parametrize(
  'argv, message',
  [
    (['--text=x', '--stride=9'], r'stride=9; expected 1 to 8\.'),
    (['--text=x', '--length=32'], r'length=32; expected 1 to 31\.'),
    (['--text=x', '--length=-1'], 'length=-1; expected'),
    (['--text=absent'], 'absent'),
    (['--text='], 'Is a directory'),
    (['--glue=rte', '--data=DIR'], 'a language model, expected a text encoder'),
    (['--glue=rte'], 'go together'),
    (['--stsb=DIR', '--data=DIR'], 'go together'),
    (['--stsb=DIR'], 'a language model, expected a text encoder'),
    (['--stsb=DIR', '--stride=1'], '--stride=1 is for --text'),
    (['--stsb=DIR', '--length=1'], '--length=1 is not for --stsb'),
    (['--glue=x', '--data=DIR'], "invalid choice: 'x'"),
    ([], 'one of the arguments --text --glue --stsb is required'),
    (['--text=x', '--stsb=DIR'], 'not allowed with argument'),
  ],
)
def test_wrong_words(argv, message, run, monkeypatch, tmp_path):
  (tmp_path / 'x').write_text('one\n')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(collab, 'load', lambda folder: run)
  with pytest.raises((ValueError, OSError), match=message):
    evaluate.main(['DIR', *argv])


def test_an_empty_text(run, tmp_path):
  (tmp_path / 'empty').write_text('')
  with pytest.raises(ValueError, match='empty has no text'):
    evaluate.perplexity(run, tmp_path / 'empty')


def test_a_head_of_another_task(tmp_path):
  run = collab.load(checkpoints.with_words(tmp_path / 'bert'))
  with pytest.raises(ValueError, match=r"head='none' with outputs=0; rte"):
    evaluate.glue(run, 'rte', str(tmp_path))
