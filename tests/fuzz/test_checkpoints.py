# SPDX-License-Identifier: Apache-2.0
"""Checkpoints from elsewhere are data: read, or refused in one line.

Nothing in them is imported or executed, and no name in them leads out of their
folder.
"""

import json
import pathlib
import shutil
import sys

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from collab.convert.huggingface import checkpoints, folders
from collab.io import json_text
from tests.convert.checkpoints import GOLDEN
from tests.few import few
from tests.fuzz.damage import (
  Refused,
  damaged,
  fuzz,
  json_files,
  other_json,
  outcome,
)

CASES = ('bert_ForMaskedLM', 'gpt2_Model', 'vit_Model', 'marian_Model')
INDEX = json.loads((GOLDEN / 'bert_ForPreTraining' / folders.INDEX).read_text())


@pytest.fixture
def copy(tmp_path_factory):
  """name of a case -> a copy of its folder, the same for all examples."""

  def of(case):
    folder = tmp_path_factory.getbasetemp() / 'checkpoints' / case
    shutil.copytree(GOLDEN / case, folder, dirs_exist_ok=True)
    return folder

  return of


def check(folder):
  found = outcome(checkpoints.load, folder)
  if isinstance(found, Refused):
    assert str(folder) in found
  return found


@few(CASES, ['marian_Model'])
@fuzz(25)
@given(st.data())
def test_config(case, copy, data):
  folder = copy(case)
  config = json.loads((folder / folders.CONFIG).read_text())
  (folder / folders.CONFIG).write_bytes(data.draw(other_json(config)))
  check(folder)


@fuzz(60)
@given(st.data())
def test_bytes_of_config_and_index(copy, data):
  """Of which nothing but JSON's rules is known."""
  name, case = data.draw(
    st.sampled_from(
      [
        (folders.CONFIG, 'bert_ForPreTraining'),
        (folders.INDEX, 'bert_ForPreTraining'),
      ]
    )
  )
  folder = copy(case)
  good = (folder / name).read_bytes()
  (folder / name).write_bytes(data.draw(damaged(good)))
  found = outcome(json_text.read_object, folder / name)
  assert isinstance(found, dict) or str(folder / name) in found


@fuzz(60)
@given(st.data())
def test_index(copy, data):
  folder = copy('bert_ForPreTraining')
  (folder / folders.INDEX).write_bytes(data.draw(json_files(INDEX)))
  found = outcome(folders.read_tensors, folder)
  if isinstance(found, Refused):
    assert str(folder) in found
  else:
    assert all(isinstance(x, np.ndarray) for x in found.values())


@fuzz(60)
@given(st.data())
def test_tensors(copy, data):
  """The header of safetensors is JSON, which the library checks."""
  folder = copy('gpt2_Model')
  good = (folder / folders.WEIGHTS).read_bytes()
  size = 8 + int.from_bytes(good[:8], 'little')
  header = data.draw(damaged(good[:size]) | other_header(good[8:size]))
  (folder / folders.WEIGHTS).write_bytes(header + good[size:])
  check(folder)


def other_header(header):
  def sized(text):
    return len(text).to_bytes(8, 'little') + text

  return other_json(json.loads(header)).map(sized)


def test_nothing_is_imported_or_run(copy, monkeypatch):
  """Not the code that Transformers would run if it is trusted."""
  folder = copy('bert_Model')
  config = json.loads((folder / folders.CONFIG).read_text())
  config |= dict(
    auto_map=dict(AutoModel='evil.Model', AutoConfig='evil.Config'),
    custom_pipelines=dict(x=dict(impl='evil.Pipeline')),
    trust_remote_code=True,
    torch_dtype='__import__("os").abort()',
  )
  (folder / folders.CONFIG).write_text(json.dumps(config))
  (folder / 'evil.py').write_text('raise SystemExit')
  (folder / 'pytorch_model.bin').write_bytes(b'cos\nabort\n(tR.')
  monkeypatch.syspath_prepend(str(folder))
  found = checkpoints.load(folder)
  assert found.model['name'] == 'encoder'
  assert 'evil' not in sys.modules


@pytest.mark.parametrize(
  'name',
  ['../x.safetensors', '/tmp/x.safetensors', 'a/../../x', '..', 'a\0b', '~/x'],
)
def test_no_name_leads_out_of_the_folder(name, copy, monkeypatch):
  folder = copy('bert_ForPreTraining')
  index = json.loads((folder / folders.INDEX).read_text())
  index['weight_map'] = dict.fromkeys(index['weight_map'], name)
  (folder / folders.INDEX).write_text(json.dumps(index))
  opened = []
  monkeypatch.setattr(folders, 'read_file', opened.append)
  with pytest.raises(ValueError, match='expected the name of a file beside it'):
    folders.read_tensors(pathlib.Path(folder))
  assert not opened
