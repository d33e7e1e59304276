# SPDX-License-Identifier: Apache-2.0
"""The command: workdirs that others start with, exports, and wrong input."""

import io as io_module
import json
import pathlib
import re
import shutil
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
import tokenizers

import collab
from collab import model_json, models, translate
from collab.convert import __main__ as command
from collab.convert import calibration, output, source
from collab.data import tokenizer
from collab.model_json import Meaning
from collab.runtime import workdir as workdirs
from tests.convert import checkpoints
from tests.convert.test_huggingface import batch_of, io
from tests.test_configs import get
from tests.test_experiments import shrink
import train

pytestmark = pytest.mark.usefixtures('counted_once')

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
  run(out, tmp_path / 'back', '--to=huggingface')
  config = json.loads((tmp_path / 'back' / 'config.json').read_text())
  assert [layer['shared_dim'] for layer in config['collab']] == [5, 7]
  with pytest.raises(ValueError, match="model_type='collab_bert'; there are"):
    run(tmp_path / 'back', tmp_path / 'again')


def test_a_budget_divides_keys_and_values(bert, text, tmp_path, capsys):
  out = tmp_path / 'out'
  budget = ('--attention=collab', '--budget=parameters=0.7', '--sweeps=3')
  run(bert, out, *budget, f'--calibration={text}')
  assert 'value_dims' in capsys.readouterr().out
  facts = json.loads((out / 'conversion.json').read_text())
  found = source.read(out)
  ranks = tuple(tuple(row['value_dims']) for row in facts['layers'])
  assert found.model['attention']['value_dims'] == ranks
  batch, _ = batch_of(next(iter(io('bert_Model'))))
  models.build(**found.model).apply({'params': found.params}, batch)
  run(out, tmp_path / 'copy')
  jax.tree.map(
    np.testing.assert_array_equal,
    source.read(tmp_path / 'copy').params,
    found.params,
  )


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


@pytest.mark.slow
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


# A run starts with an imported classifier below, too.
@pytest.mark.slow
def test_a_run_starts_with_a_converted_one(trained, tmp_path):
  folder, _ = trained
  run(folder, tmp_path / 'out', '--attention=mqa')
  config = get('glue', 'rte,mqa,sample')
  config.init_from = str(tmp_path / 'out')
  new = tmp_path / 'new'
  train.run(workdirs.claim(shrink(config), new), str(new))
  assert source.read(new).model['attention']['name'] == 'mqa'


def test_a_copy_says_what_it_is(trained, tmp_path):
  """And --attention=mha is no copy of another attention."""
  folder, _ = trained
  run(folder, tmp_path / 'mha', '--attention=mha')
  assert source.read(tmp_path / 'mha').model['attention']['name'] == 'mha'
  run(folder, tmp_path / 'mqa', '--attention=mqa')
  with pytest.raises(ValueError, match=r'model is gqa, .*; expected mha,'):
    run(tmp_path / 'mqa', tmp_path / 'out', '--attention=mha')
  assert not (tmp_path / 'out').exists()
  run(tmp_path / 'mqa', tmp_path / 'out')
  assert 'with gqa' in (tmp_path / 'out' / 'README.md').read_text()
  assert source.read(tmp_path / 'out').model['attention']['kv_heads'] == 1


def test_a_decoder_goes_back_to_the_byte(tmp_path):
  """Its layers differ in windows and positions, which JSON has as lists."""
  old = checkpoints.GOLDEN / 'gemma3_text_TextModel'
  run(old, tmp_path / 'out')
  run(tmp_path / 'out', tmp_path / 'back', '--to=huggingface')
  checkpoints.identical(
    checkpoints.read(tmp_path / 'back'), checkpoints.read(old)
  )


# What numbers mean ------------------------------------------------------------


def test_a_run_keeps_its_tokenizer_and_its_classes(trained, tmp_path):
  folder, _ = trained
  words = tokenizer.load(folder / 'tokenizer.json')
  want = Meaning(words.fingerprint, ('other names', 'same names'))
  assert model_json.read(folder)[1] == want
  run(folder, tmp_path / 'out', '--attention=mqa')
  assert model_json.read(tmp_path / 'out')[1] == want


def swapped(folder, one, other):
  """Gives each of two words the id of the other."""
  path = folder / 'tokenizer.json'
  content = json.loads(path.read_text('utf-8'))
  ids = content['model']['vocab']
  ids[one], ids[other] = ids[other], ids[one]
  path.write_text(json.dumps(content), 'utf-8')


def test_a_run_goes_on_with_its_own_tokenizer(trained, tmp_path):
  """And so does what reads its data."""
  folder = shutil.copytree(trained[0], tmp_path / 'run')
  config = workdirs.claim(None, folder)
  swapped(folder, 'a', 'b')
  words = 'its model was trained with the tokenizer'
  with pytest.raises(ValueError, match=words):
    train.run(config, str(folder), eval_only=True)
  options = ('--attention=mqa', '--calibration=train')
  with pytest.raises(ValueError, match=words):
    run(folder, tmp_path / 'out', *options)
  assert not (tmp_path / 'out').exists()


NLI = ('CONTRADICTION', 'NEUTRAL', 'ENTAILMENT')
LABELS = dict(
  id2label={str(i): name for i, name in enumerate(NLI)},
  label2id={name: i for i, name in enumerate(NLI)},
)


@pytest.fixture
def classifier(tmp_path):
  """A BERT that says ENTAILMENT of all texts, in the order of its config."""
  case = 'bert_ForSequenceClassification'
  folder = checkpoints.with_words(tmp_path / 'classifier', case)
  config = json.loads((folder / 'config.json').read_text()) | LABELS
  (folder / 'config.json').write_text(json.dumps(config))
  tensors = checkpoints.read(folder)
  tensors['classifier.bias'] = np.float32([0, 0, 99])
  save_file(tensors, folder / 'model.safetensors')
  return folder


def write_mnli(folder):
  """Data of MNLI of which all is entailed."""
  (folder / 'MNLI').mkdir(parents=True)
  row = 'sentence1\tsentence2\tgold_label\n' + 'one\ttwo\tentailment\n' * 4
  for part in ('train', 'dev_matched', 'dev_mismatched'):
    (folder / 'MNLI' / f'{part}.tsv').write_text(row)
  return folder


def test_an_imported_classifier_is_scored_by_the_names_of_its_classes(
  classifier, tmp_path
):
  out, new = tmp_path / 'out', tmp_path / 'new'
  run(classifier, out)
  config = get('glue', 'mnli')
  path = str(write_mnli(tmp_path / 'glue'))
  config.data.update(path=path, batch_size=2, row_length=13)
  model = json.loads((out / 'model.json').read_text())
  keys = config.model.to_dict().keys() & model.keys()
  config.model.update({key: model[key] for key in keys})
  config.optim.update(lr=0.0, warmup_steps=0)
  config.update(total_steps=1, init_from=str(out))
  scores = train.run(workdirs.claim(config.lock(), new), str(new))
  assert scores['score'] == 1
  names = ('entailment', 'neutral', 'contradiction')
  assert model_json.read(new)[1].classes == names


def test_exports_have_the_names_of_the_classes(classifier, tmp_path):
  out = tmp_path / 'out'
  run(classifier, out)
  assert model_json.read(out)[1].classes == NLI
  run(out, tmp_path / 'same', '--to=huggingface')
  path = 'same/config.json'
  config = json.loads((classifier / 'config.json').read_text())
  assert json.loads((tmp_path / path).read_text()) == config
  fields, meaning = model_json.read(out)
  model_json.write(out, fields, meaning._replace(classes=('x', 'y', 'z')))
  run(out, tmp_path / 'other', '--to=huggingface')
  config = json.loads((tmp_path / 'other' / 'config.json').read_text())
  assert config['id2label'] == {'0': 'x', '1': 'y', '2': 'z'}
  assert config['label2id'] == dict(x=0, y=1, z=2)


def test_a_tokenizer_with_more_ids_than_the_model(text, tmp_path):
  """The golden models have 37."""
  more = [f'more{i}' for i in range(28)]
  folder = checkpoints.with_words(tmp_path / 'large', more=more)
  with pytest.raises(ValueError, match=r'has 38 ids, .*vocab_size=37\.$'):
    run(folder, tmp_path / 'out', '--attention=mqa', f'--calibration={text}')


@pytest.mark.parametrize(
  'damage',
  [
    lambda folder: swapped(folder, 'one', 'two'),
    lambda folder: checkpoints.with_words(folder / 'x', more=['six']).joinpath(
      'tokenizer.json'
    ).replace(folder / 'tokenizer.json'),
  ],
)  # fmt: skip
def test_another_tokenizer_than_the_models(damage, bert, text, tmp_path):
  out = tmp_path / 'out'
  run(bert, out)
  damage(out)
  with pytest.raises(ValueError, match=r'trained with the tokenizer .*; got'):
    run(out, tmp_path / 'new', '--attention=mqa', f'--calibration={text}')


def test_a_tokenizer_that_is_no_text(bert, tmp_path):
  (bert / 'tokenizer.json').write_bytes(b'{"a": "\xff"}')
  with pytest.raises(ValueError, match=r'bert/tokenizer\.json is no JSON'):
    run(bert, tmp_path / 'out')


# Translation ------------------------------------------------------------------


def longer_marian(folder):
  """The golden translator, for up to 64 tokens and without a tokenizer."""

  def change(tensors):
    return {k: x for k, x in tensors.items() if 'embed_positions' not in k}

  config = dict(max_position_embeddings=64)
  return checkpoints.variant(folder, 'marian_MTModel', change, **config)


def marian(folder):
  """A translator whose tokenizer.json is of the form that others have made."""
  longer_marian(folder)
  pieces = [('\u2581', -9.0)] + [(f'\u2581{c}', -2.0) for c in 'abcdefgh']
  pieces += [(f'x{i}', -20.0) for i in range(25)]
  pieces = [('</s>', 0.0), ('<unk>', -30.0), *pieces, ('<pad>', 0.0)]
  rules = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=1))
  rules.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
  rules.decoder = tokenizers.decoders.Metaspace()
  rules.add_special_tokens(['</s>', '<unk>', '<pad>'])
  rules.save(str(folder / 'tokenizer.json'))
  return folder


def test_a_converted_marian_translates(tmp_path, capsys, monkeypatch):
  """As its full pass says: <pad> begins a translation, and is not in it."""
  out = tmp_path / 'out'
  run(marian(tmp_path / 'marian'), out)
  capsys.readouterr()
  found = source.read(out)
  words = source.words(found)
  assert (words.bos_id, words.eos_id, words.pad_id) == (36, 0, 36)
  ids = [*words.encode('a'), words.eos_id]
  assert ids == [3, 0]
  apply = jax.jit(models.build(**found.model).apply)
  said = [36]
  while said[-1] != 0 and len(said) < 14:
    # Padded, which causal attention does not see: one program for all.
    target = np.int32([said + [0] * (13 - len(said))])
    batch = dict(source=np.int32([ids]), target_inputs=target)
    for side, x in (('source', batch['source']), ('target', target)):
      batch[f'{side}_segments'] = np.ones_like(x)
      batch[f'{side}_positions'] = np.arange(x.size, dtype=np.int32)[None]
    logits = apply({'params': found.params}, batch)[0, len(said) - 1]
    said.append(int(logits[:36].argmax()))
  stdin = types.SimpleNamespace(buffer=io_module.BytesIO(b'a\n\n'))
  monkeypatch.setattr('sys.stdin', stdin)
  translate.main([f'--workdir={out}', '--beam=1'])
  assert capsys.readouterr().out == f'{words.decode(said)}\n\n'
  assert words.decode(said)


@pytest.mark.parametrize(
  'case, task',
  [
    ('gpt2_LMHeadModel', 'lm'),
    ('gpt2_ForTokenClassification', 'pretrained'),
    ('marian_MTModel', 'wmt14'),
    ('marian_apart_MTModel', 'pretrained'),  # whose tokenizers are two
  ],
)
def test_what_a_checkpoint_does_without_training(case, task):
  assert source.read(checkpoints.GOLDEN / case).config.task.name == task


def test_a_marian_without_a_tokenizer(tmp_path, monkeypatch):
  run(checkpoints.GOLDEN / 'marian_MTModel', tmp_path / 'out')
  stdin = types.SimpleNamespace(buffer=io_module.BytesIO())
  monkeypatch.setattr('sys.stdin', stdin)
  with pytest.raises(ValueError, match=r'has no tokenizer\.json, nor source'):
    translate.main([f'--workdir={tmp_path / "out"}'])


def test_a_marian_with_sentence_pieces(tmp_path):
  """Its files come along, and the conversion translates as the checkpoint."""
  pytest.importorskip('sentencepiece', reason='needs the [convert] extra')
  from tests.data.test_sentencepieces import write

  out = tmp_path / 'out'
  folder = write(longer_marian(tmp_path / 'marian'), most=33)
  run(folder, out)
  texts = 'one two', '', 'seven'
  found = collab.load(out)
  assert found.tokenizer.vocab_size == 37
  want = found.translate(texts, beam=2)
  assert want[1] == ''
  assert any(want)
  assert collab.load(folder).translate(texts, beam=2) == want
  maps = found.attention_maps('one', 'eins')
  assert maps.tokens[-1] == '</s>'
  assert maps.target[0] == '<pad>'
  shape = 2, len(maps.target), len(maps.tokens)
  assert maps.weights['decoder/layer_0/cross'].shape == shape


# Wrong input ------------------------------------------------------------------


@pytest.mark.parametrize(
  'words, message',
  [
    (['--attention=mqa', '--kv=1'], 'gqa has no field kv'),
    (['--attention=mqa', 'more'], 'Unexpected more; fields are given as'),
    (['--attention=collab', '--budget=size=3'], 'size=3; expected error=E'),
    (['--attention=collab', '--budget=cache=x'], 'cache=x; expected error=E'),
    (['--attention=collab', '--shared_dim=0'], 'width 0; expected 1 to 12'),
    (['--attention=collab', '--shared_dim=4.5'], '4.5; expected int'),
    (['--attention=gqa', '--kv_heads=2,two'], "kv_heads='two'; expected int"),
    (['--attention=mhe_mul', '--offset=one'], "'one'; expected float"),
    (['--attention=mqa', '--calibration=train'], 'has no training data'),
    (['--attention=mqa', '--calibration=absent'], 'absent'),
    (['--attention=mqa', '--rows=x'], 'invalid int value'),
    (['--attention=mqa', '--rows=5'], '--rows=5 needs --calibration'),
    (['--attention=mqa', '--seed=-1'], '--seed=-1 needs --calibration'),
    (['--attention=mqa', '--name=collab'], 'Unexpected --name=collab'),
    (
      ['--attention=collab', '--shared_dim=8', '--shared_dim=4'],
      '--shared_dim is given twice',
    ),
    (['--to=huggingface', '--attention=mqa'], 'writes a model as it is'),
    (['--to=huggingface', '--calibration=x'], '=x needs --attention'),
  ],
)
def test_wrong_words(bert, tmp_path, words, message):
  with pytest.raises((ValueError, OSError), match=message) as info:
    run(bert, tmp_path / 'out', *words)
  assert '\n' not in str(info.value)
  assert {path.name for path in tmp_path.iterdir()} == {'bert'}


def test_empty_text(bert, tmp_path):
  (tmp_path / 'text').write_text('\n \n')
  words = '--attention=mqa', f'--calibration={tmp_path}/text'
  with pytest.raises(ValueError, match='text has no text'):
    run(bert, tmp_path / 'out', *words)


@pytest.mark.parametrize('word', ['--rows=0', '--rows=-3', '--length=0'])
def test_calibration_that_looks_at_nothing(bert, text, tmp_path, word):
  words = ['--attention=mqa', f'--calibration={text}', word]
  with pytest.raises(ValueError, match=f'^{word[2:]}; expected at least 1.$'):
    run(bert, tmp_path / 'out', *words)
  assert not (tmp_path / 'out').exists()


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

  monkeypatch.setattr(output, 'card', interrupted)
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
