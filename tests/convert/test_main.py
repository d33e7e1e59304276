# SPDX-License-Identifier: Apache-2.0
"""The command: workdirs that others start with, exports, and wrong input."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest

from collab import models
from collab.convert import __main__ as command
from collab.convert import calibration, output, source
from collab.training import workdir as workdirs
from tests.convert import checkpoints
from tests.convert.test_huggingface import batch_of, io
from tests.test_configs import get
from tests.test_experiments import shrink
import train

NAMES = {
  'README.md',
  'checkpoints',
  'conversion.json',
  'huggingface',
  'model.json',
  'run.json',
  'tokenizer.json',
}


def run(*words):
  command.main([str(word) for word in words])


@pytest.fixture
def bert(tmp_path):
  return checkpoints.with_words(tmp_path / 'bert')


@pytest.fixture
def text(tmp_path):
  path = tmp_path / 'text'
  path.write_text('one two three\n\nfour\ntwo five\n' * 5)
  return path


def test_a_converted_checkpoint_is_a_workdir(bert, text, tmp_path, capsys):
  out = tmp_path / 'new' / 'out'
  fields = ('--attention=collab', '--shared_dim=5,7', '--sweeps=3')
  run(bert, out, *fields, f'--calibration={text}')
  assert {path.name for path in out.iterdir()} == {*NAMES, 'errors.png'}
  shown, card = capsys.readouterr().out, (out / 'README.md').read_text()
  table = [line for line in shown.splitlines() if line.startswith('|')]
  assert len(table) == 5
  assert '\n'.join(table) in card
  assert '--shared_dim=5,7' in card
  facts = json.loads((out / 'conversion.json').read_text())
  assert [row['shared_dim'] for row in facts['layers']] == [5, 7]
  found = source.read(out)
  assert found.model['attention']['shared_dim'] == (5, 7)
  batch, _ = batch_of(next(iter(io('bert_Model'))))
  models.build(**found.model).apply({'params': found.params}, batch)
  with pytest.raises(ValueError, match='is collab; Transformers has only mha'):
    run(out, tmp_path / 'back', '--to=huggingface')
  assert not (tmp_path / 'back').exists()


def test_what_is_unchanged_goes_back_to_the_byte(bert, tmp_path):
  run(bert, tmp_path / 'out')
  run(tmp_path / 'out', tmp_path / 'back', '--to=huggingface')
  checkpoints.identical(
    checkpoints.read(tmp_path / 'back'), checkpoints.read(bert)
  )
  for name in ('config.json', 'tokenizer.json'):
    old, new = ((x / name).read_text() for x in (bert, tmp_path / 'back'))
    assert json.loads(old) == json.loads(new)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run of two steps on GLUE's sample."""
  folder = tmp_path_factory.mktemp('run')
  config = workdirs.claim(shrink(get('glue', 'rte,sample')), folder)
  return folder, train.run(config, str(folder))


def test_a_converted_run_is_evaluated_and_goes_on(trained, tmp_path):
  """The paper's procedure: fine-tune, decompose, fine-tune again."""
  folder, scores = trained
  out = tmp_path / 'out'
  run(
    folder, out, '--attention=collab', '--shared_dim=64', '--calibration=train',
    '--rows=64', '--sweeps=1',
  )  # fmt: skip
  config = workdirs.claim(None, out)
  assert config.model.attention.shared_dim == 64
  again = train.run(config, str(out), eval_only=True)
  assert again == pytest.approx(scores, abs=0.01)  # full width: the same model
  assert train.run(config, str(out)).keys() == scores.keys()
  assert not (out / 'huggingface').exists()
  with pytest.raises(ValueError, match='did not come from a checkpoint'):
    run(out, tmp_path / 'back', '--to=huggingface')


def test_a_run_starts_with_a_converted_one(trained, tmp_path):
  folder, _ = trained
  run(folder, tmp_path / 'out', '--attention=mqa')
  config = get('glue_mqa', 'rte,sample')
  config.init_from = str(tmp_path / 'out')
  new = tmp_path / 'new'
  train.run(workdirs.claim(shrink(config), new), str(new))
  assert source.read(new).model['attention']['name'] == 'mqa'


# Wrong input ------------------------------------------------------------------


@pytest.mark.parametrize(
  'words, message',
  [
    (['--attention=mqa', '--kv=1'], 'gqa has no field kv'),
    (['--attention=mqa', 'more'], 'Unexpected more; fields are given as'),
    (['--attention=collab', '--budget=size=3'], 'size=3; expected error=E'),
    (['--attention=collab', '--shared_dim=0'], 'width 0; expected 1 to 12'),
    (['--attention=mqa', '--calibration=train'], 'has no training data'),
    (['--attention=mqa', '--calibration=absent'], 'absent'),
    (['--attention=mqa', '--rows=x'], 'invalid int value'),
    (['--to=huggingface', '--attention=mqa'], 'writes a model as it is'),
  ],
)
def test_wrong_words(bert, tmp_path, words, message):
  with pytest.raises((ValueError, OSError), match=message) as info:
    run(bert, tmp_path / 'out', *words)
  assert '\n' not in str(info.value)
  assert {path.name for path in tmp_path.iterdir()} == {'bert'}


def test_empty_text(bert, tmp_path):
  (tmp_path / 'text').write_text('\n \n')
  with pytest.raises(ValueError, match='text has no text'):
    run(bert, tmp_path / 'out', f'--calibration={tmp_path}/text')


def test_no_model(tmp_path):
  with pytest.raises(ValueError, match=r'neither a workdir .* nor a checkpoin'):
    run(tmp_path, tmp_path / 'out')


def test_nothing_is_written_over(bert, tmp_path):
  (tmp_path / 'out').mkdir()
  with pytest.raises(ValueError, match='out exists; give a new folder'):
    run(bert, tmp_path / 'out')


def test_an_interrupt_leaves_nothing(bert, tmp_path, monkeypatch):
  def interrupted(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(output, '_report', interrupted)
  with pytest.raises(KeyboardInterrupt):
    run(bert, tmp_path / 'out')
  assert {path.name for path in tmp_path.iterdir()} == {'bert'}


# Calibration ------------------------------------------------------------------


def test_calibration_reads_each_text_once(bert, text):
  seen = calibration.read(source.read(bert), text, size=4)
  shapes = [batch['tokens'].shape for batch in seen.batches]
  assert shapes == [(4, 4), (4, 4), (4, 8)]
  lengths = np.concatenate([batch['lengths'] for batch in seen.batches])
  assert lengths.tolist() == [3] * 5 + [4] * 5 + [5] * 2
  for batch in seen.batches:
    assert (batch['tokens'][:, 0] == 2).all()  # [CLS]
    padding = np.arange(batch['tokens'].shape[1]) >= batch['lengths'][:, None]
    np.testing.assert_array_equal(batch['tokens'] == 0, padding)
  drawn = calibration.read(source.read(bert), text, rows=7, size=4, seed=1)
  assert len(drawn.batches) == 1
  again = calibration.read(source.read(bert), text, rows=7, size=4, seed=1)
  jax.tree.map(np.testing.assert_array_equal, again.batches, drawn.batches)


def test_calibration_of_a_run_that_has_no_pooler(bert, text):
  """Its head, mlm or span, did without."""
  found = source.read(bert)
  params = {k: x for k, x in found.params.items() if k != 'pooler'}
  model = found.model | dict(head='mlm')
  seen = calibration.read(found._replace(model=model, params=params), text)
  x, pooled = seen.model.apply({'params': params}, seen.batches[0])
  assert np.isfinite(x).all()
  assert pooled is None


def test_help_names_what_there_is():
  text = pathlib.Path(command.__file__).read_text()
  for name in ('shared_dim', 'kv_heads', 'latent_dim', 'offset', 'pooling'):
    assert re.search(rf'--{name}\b', text)
