# SPDX-License-Identifier: Apache-2.0
"""train.py from start to end: what it leaves, and on other devices."""

import json
import os
import signal

import jax
import numpy as np
import pytest

from collab.metrics import bleu
from collab.runtime import identity, workdir
from collab.training import evaluation, logs
from tests import tiny
from tests.faults import lab as labs
import train

STEPS = 12
FIELDS = (
  'command date config_hash task variant seed steps seconds parameters '
  'attention_parameters versions metrics'
)


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  return tiny.write_corpus(tmp_path_factory.mktemp('corpus'))


@pytest.fixture(scope='module')
def whole(corpus, cache, tmp_path_factory):
  """A run that nothing interrupts: its workdir and what it printed."""
  folder = tmp_path_factory.mktemp('runs') / 'whole'
  code, out, err = tiny.train(tiny.command(corpus, folder), cache)
  assert code == 0, err
  return folder, out, err


# A run ------------------------------------------------------------------------


def test_result(whole, corpus):
  folder, out, _ = whole
  got = labs.result(folder)
  assert set(got) == set(FIELDS.split())
  config = tiny.config(corpus)
  assert got['config_hash'] == identity.config_hash(config)
  assert got['command'].startswith('python ')
  assert f'train.py --config={tiny.CONFIG} --workdir={folder}' in got['command']
  assert (got['task'], got['variant']) == ('wmt14', 'mhe_mul')
  assert (got['seed'], got['steps']) == (0, STEPS)
  assert 0 < got['seconds'] < 300
  D, d, M = 16, 8, 32
  attention = 3 * (D * D + 3 * D * d + 3 * D + 3 * d + D)  # with biases
  norms, mlps = 5 * 2 * D, 2 * (2 * D * M + M + D)
  assert got['attention_parameters'] == attention
  assert got['parameters'] == attention + norms + mlps + 300 * D
  assert {'jax', 'flax', 'python', 'devices', 'cpu'} <= set(got['versions'])
  scores = got['metrics']
  assert {'nll', 'perplexity', 'accuracy', 'exact', 'chrf'} <= set(scores)
  assert 0 <= scores['bleu'] <= 100
  assert 'version:' in scores['bleu_signature']
  assert 'bleu_of_copying' in scores
  assert str(folder) in out.splitlines()[-1]


def test_examples(whole):
  """What the score is the sum of, for intervals over examples."""
  folder, *_ = whole
  counts = json.loads((folder / 'examples.json').read_text())['bleu']
  score = bleu.of_counts(np.sum(counts, 0))
  assert score == labs.result(folder)['metrics']['bleu']


def test_it_learns_and_says_so(whole, cache):
  folder, out, err = whole
  got = tiny.rows(folder)
  rows = [row for row in got if 'train/loss' in row]
  val = [row for row in got if 'val/nll' in row]
  assert [row['step'] for row in rows] == list(range(1, STEPS + 1))
  assert [row['step'] for row in val] == [4, 8, 12]
  assert rows[-1]['train/loss'] < rows[0]['train/loss'] - 0.3
  assert val[-1]['val/nll'] < val[0]['val/nll'] - 0.1
  rates = [row['train/lr'] for row in rows]
  np.testing.assert_allclose(rates[:4], np.arange(1, 5) / 4 * 3e-3, rtol=1e-5)
  clocked = logs.read_rows(folder / 'metrics.jsonl')[0]
  assert clocked['tokens_per_second'] > 0 < clocked['time/seconds']
  assert clocked['mfu'] > 0 < clocked['resident_peak_bytes']
  assert 0 <= clocked['input_wait'] < 1
  progress = [line for line in err.splitlines() if line.startswith('step ')]
  assert len(progress) == STEPS
  words = 'step 12/12', 'loss', 'lr', 'tokens_per_second', 'mfu', 'peak_bytes'
  for word in (*words, 'input_wait', 'left'):
    assert word in progress[-1]
  start, end = out.split('The first')
  words = 'devices', 'parameters', 'of mha', 'one token more', 'pairs'
  for word in (*words, 'three forward passes', 'measured', 'resident set'):
    assert word in start
  # Another test may have kept the same program.
  assert f' s, kept in {cache}' in start or f' s from {cache}' in start
  assert 'median of the log' in end
  assert 'waits for input' in end
  assert 'peak resident set' in end


def test_what_it_leaves(whole):
  folder, *_ = whole
  assert {10 - 1, STEPS} <= labs.steps(folder) <= {3, 6, 9, STEPS}
  assert os.listdir(folder / 'tensorboard')
  for name in ('run.json', 'tokenizer.json', 'parameters.txt'):
    assert (folder / name).stat().st_size > 0
  hidden = [p for p in folder.rglob('*') if 'tmp' in p.name]
  assert not hidden


def test_eval_only(whole, cache):
  """Of the workdir alone: the same scores, and nothing else is written."""
  folder, *_ = whole
  before = labs.result(folder)
  rows = (folder / 'metrics.jsonl').read_bytes()
  files = {p for p in folder.rglob('*') if p.is_file()}
  (folder / 'result.json').unlink()
  code, out, err = tiny.train([f'--workdir={folder}', '--eval_only'], cache)
  assert (code, err) == (0, '')
  assert '12 of 12 done' in out
  got = labs.result(folder)
  assert got['metrics'] == before['metrics']
  assert got['config_hash'] == before['config_hash']
  assert got['command'] == before['command']
  assert (folder / 'metrics.jsonl').read_bytes() == rows
  assert {p for p in folder.rglob('*') if p.is_file()} == files


@pytest.mark.slow
def test_profile(whole, corpus, cache, tmp_path):
  """A trace that opens, of these steps alone; the numbers stay the same."""
  command = tiny.command(corpus, tmp_path, total_steps=6)
  code, out, err = tiny.train([*command, '--profile=3:5'], cache)
  assert code == 0, err
  [path] = tmp_path.glob('profile/plugins/profile/*/*.xplane.pb')
  space = jax.profiler.ProfileData.from_file(str(path))
  events = [e for x in space.planes for line in x.lines for e in line.events]
  calls = {
    (e.start_ns, e.end_ns)
    for e in events
    if e.name.startswith('PjitFunction(') and 'train_step' in e.name
  }
  within = {b for a in calls for b in calls - {a} if a[0] <= b[0] <= a[1]}
  assert len(calls - within) == 2
  assert f'from step 3 on is in {tmp_path}/profile: pip install' in out
  assert tiny.rows(tmp_path)[:3] == tiny.rows(whole[0])[:3]


# Devices ----------------------------------------------------------------------


def check_close(folder, expected):
  got = tiny.rows(folder)
  assert len(got) >= 4
  for row, other in zip(got, expected, strict=False):
    assert row.keys() == other.keys()
    for name, value in row.items():
      assert value == pytest.approx(other[name], rel=1e-3, abs=1e-6), name


def check_devices(fsdp, corpus, cache, whole, tmp_path, tensor=1):
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8'
  split = dict(fsdp=fsdp, tensor=tensor)
  command = tiny.command(corpus, tmp_path, total_steps=4, **split)
  code, out, err = tiny.train(command, cache, XLA_FLAGS=flags)
  assert code == 0, err
  mesh = dict(data=8 // fsdp // tensor, **split)
  assert f'8 x cpu, {mesh}' in out
  check_close(tmp_path, tiny.rows(whole[0]))


@pytest.mark.slow
def test_eight_devices(corpus, cache, whole, tmp_path):
  """The batch over all of them, the state split over pairs: same numbers."""
  check_devices(2, corpus, cache, whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('fsdp', [1, 8])
def test_eight_devices_otherwise(fsdp, corpus, cache, whole, tmp_path):
  check_devices(fsdp, corpus, cache, whole, tmp_path)


@pytest.mark.slow
def test_eight_devices_of_which_pairs_split_heads(
  corpus, cache, whole, tmp_path
):
  check_devices(2, corpus, cache, whole, tmp_path, tensor=2)


@pytest.mark.slow
def test_eight_devices_then_one(corpus, cache, whole, tmp_path):
  """A run split over eight goes on without them, and the workdir stays its."""
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8'
  command = tiny.command(corpus, tmp_path, fsdp=8)
  process = tiny.start(command, cache, XLA_FLAGS=flags)
  labs.wait_for_row(process, tmp_path, 4)
  process.send_signal(signal.SIGTERM)
  code, _, err = tiny.finish(process)
  assert code == 0, err
  kept = (tmp_path / 'run.json').read_bytes()
  code, _, err = tiny.train([f'--workdir={tmp_path}'], cache)
  assert code == 1
  assert 'fsdp=8 does not divide the 1 devices; legal are 1.' in err
  command = tiny.command(corpus, tmp_path, fsdp=1, model__dim=32)
  code, _, err = tiny.train(command, cache)
  assert code == 1
  assert 'of another config: model.dim was 16, is 32.' in err
  code, out, err = tiny.train(tiny.command(corpus, tmp_path, fsdp=1), cache)
  assert code == 0, err
  assert "1 x cpu, {'data': 1, 'fsdp': 1, 'tensor': 1}" in out
  assert f' s from {cache}, compiled before' in out  # by `whole`
  check_close(tmp_path, tiny.rows(whole[0]))
  assert len(tiny.rows(tmp_path)) == len(tiny.rows(whole[0]))
  assert (tmp_path / 'run.json').read_bytes() == kept


# In training/test_devices.py as well, with less around it.
@pytest.mark.slow
def test_micro_batches(corpus, tmp_path, monkeypatch):
  """An update of two micro-batches is one of all rows (dropout aside)."""
  monkeypatch.setattr(evaluation, 'build', tiny.evaluation_of(nll=1.0))
  for n in (1, 2):
    config = tiny.config(
      corpus, accumulate=n, model__dropout=0.0, total_steps=4
    )
    workdir.claim(config, tmp_path / f'{n}')
    train.run(config, str(tmp_path / f'{n}'))
  check_close(tmp_path / '2', tiny.rows(tmp_path / '1'))
