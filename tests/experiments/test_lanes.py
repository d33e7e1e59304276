# SPDX-License-Identifier: Apache-2.0
"""Runs that are trained as one program are those of train.py."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collab.runtime import workdir as workdirs
from collab.training import optim
from experiments import lanes, study
from experiments.study import Arm
import train

FIELDS = {
  'total_steps': 6,
  'optim.name': 'adamw',
  'optim.lr': 4e-3,
  'optim.warmup_steps': 2,
  'every.log': 2,
  'every.eval': 6,
  'every.checkpoint': 6,
  'model.dropout': 0.1,
  'model.dim': 16,
  'model.num_layers': 1,
  'model.mlp_dim': 24,
  'data.vocab_size': 265,
  'data.row_length': 12,
  'data.batch_size': 3,
  'data.eval_stride': 12,
}
SLOW = FIELDS | {'optim.lr': 1e-3}


@pytest.fixture
def run(tmp_path):
  """Makes a Run of an arm of a tiny language model."""
  text = 'one two three four five six seven\n' * 40
  for split in ('train', 'valid', 'test'):
    (tmp_path / f'{split}.txt').write_text(text)

  def make(name, fields, seed=0, folder='lanes', config='decoder.py:sample'):
    fields = fields | {'data.path': str(tmp_path)}
    arm = Arm(name, f'configs/{config}', fields)
    return study.Run(name, arm, seed, str(tmp_path / folder / name), None)

  return make


def read(run, name):
  return json.loads((pathlib.Path(run.workdir) / name).read_text())


def losses(run):
  path = pathlib.Path(run.workdir) / 'metrics.jsonl'
  rows = map(json.loads, path.read_text().splitlines())
  return {x['step']: x['train/loss'] for x in rows if 'train/loss' in x}


def test_a_lane_is_the_run_of_train_py(run):
  """Other seeds and rates share the program, and keep their values."""
  runs = [run('a', FIELDS), run('b', SLOW, seed=3_000_000_000)]
  assert lanes.groups(runs) == [runs]
  assert lanes.train(runs) == []
  lane = runs[1]
  assert study.finished(lane)['lanes'] == 2
  one = lane._replace(workdir=f'{lane.workdir}-alone')
  config = study.config(one)
  with workdirs.owned(config, one.workdir, False):
    train.run(config, one.workdir)
  got, want = read(lane, 'result.json'), read(one, 'result.json')
  assert got['metrics'] == pytest.approx(want['metrics'], rel=1e-5)
  assert got['config_hash'] == want['config_hash']
  assert losses(lane) == pytest.approx({6: losses(one)[6]}, rel=1e-5)
  mine, its = (read(x, 'examples.json')['nll'] for x in (lane, one))
  np.testing.assert_allclose(mine, its, rtol=1e-5)
  again = train.run(config, lane.workdir, eval_only=True)
  assert again == pytest.approx(want['metrics'], rel=1e-5)
  assert read(runs[0], 'result.json')['metrics'] != got['metrics']


def test_programs_are_of_equal_configs(run):
  a, b = run('a', FIELDS), run('b', FIELDS | {'model.mlp_dim': 32})
  assert lanes.groups([a, b]) == [[a], [b]]


@pytest.mark.parametrize(
  'fields, words',
  [
    (
      {'every.eval': 3, 'every.checkpoint': 3},
      "final='best' and checkpoint.average=1; expected 'last' and 1",
    ),
    ({'optim.end_lr': 1e-4}, 'end_lr=0.0001; expected more than 0, and 0'),
    ({'optim.lr': 0.0}, 'optim.lr=0.0, '),
  ],
)
def test_what_is_no_lane_is_refused(fields, words, run):
  with pytest.raises(ValueError, match=f'a cannot be a lane: .*{words}'):
    lanes.groups([run('a', FIELDS | fields)])


def test_a_diverged_lane_leaves_the_others_alone(run):
  good, bad = run('good', FIELDS), run('bad', FIELDS | {'optim.lr': 1e30})
  (told,) = lanes.train([good, bad])
  assert told.startswith('bad: At step ')
  assert study.finished(good)
  assert not study.finished(bad)


def test_so_does_one_that_cannot_be_saved(run, monkeypatch):
  """For a NaN in its last update, or in its validation."""
  save = lanes.checkpoint.Checkpoints.save

  def one_time(self, step, state, scores):
    monkeypatch.setattr(lanes.checkpoint.Checkpoints, 'save', save)
    raise FloatingPointError(f'Step {step} is not saved.')

  monkeypatch.setattr(lanes.checkpoint.Checkpoints, 'save', one_time)
  bad, good = run('bad', FIELDS), run('good', FIELDS, seed=1)
  assert lanes.train([bad, good]) == ['bad: Step 6 is not saved.']
  assert study.finished(good)
  assert not study.finished(bad)


def test_lanes_that_were_stopped_in_their_test_are_tested(run, monkeypatch):
  """All are saved before the first is tested, and none is trained again."""
  runs = [run('a', FIELDS), run('b', SLOW, seed=1)]
  with monkeypatch.context() as patch:
    patch.setattr(lanes.summary, 'end', interrupted)
    with pytest.raises(KeyboardInterrupt):
      lanes.train(runs)
  for one in runs:  # the process would have ended
    (pathlib.Path(one.workdir) / 'lock').unlink()
  before = list(map(losses, runs))
  monkeypatch.delattr(lanes, 'program')
  assert lanes.train(runs) == []
  assert all(map(study.finished, runs))
  assert list(map(losses, runs)) == before
  assert 'lanes' not in read(runs[0], 'result.json')


def interrupted(*_, **__):
  raise KeyboardInterrupt


def test_runs_with_rows_are_left_alone(tmp_path, monkeypatch, capsys):
  """As in a fresh clone, which has no workdirs."""
  path = tmp_path / 'tried.py'
  path.write_text(
    'from experiments.study import Arm\n'
    "ARMS = [Arm('a', 'configs/decoder.py:sample', seeds=(0, 1))]\n"
  )
  monkeypatch.setattr(study, 'RESULTS', tmp_path)
  (tmp_path / 'tried.jsonl').write_text(
    ''.join(
      json.dumps(
        dict(
          arm='a', seed=x.seed, examples='x', config_hash=study.config_hash(x)
        )
      )
      + '\n'
      for x in study.plan(str(path))
    )
  )
  with pytest.raises(SystemExit, match='0'):
    lanes.main([str(path), f'--runs={tmp_path}'])
  assert capsys.readouterr().out == '2 of 2 runs are finished.\n'


@pytest.mark.parametrize('name', optim.OPTIMIZERS)
def test_updates_are_linear_in_the_rate(name):
  params = dict(kernel=jnp.arange(12.0).reshape(3, 4), bias=jnp.ones(5))
  fields = dict(name=name, total_steps=4, schedule='cosine', warmup_steps=1)
  fields |= dict(weight_decay=0.1 * (name != 'adam'))

  def updates(lr):
    tx, _ = optim.build(lr=lr, **fields)
    return tx.update(params, tx.init(params), params)[0]

  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(3 * x, y, rtol=1e-5),
    updates(1e-3),
    updates(3e-3),
  )


def test_several_devices_are_refused(run, monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 2)
  with pytest.raises(ValueError, match='There are 2 devices; expected one'):
    lanes.train([run('a', FIELDS)])
