# SPDX-License-Identifier: Apache-2.0
"""Names of the Hugging Face Hub, in place of a folder."""

import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest

from collab.convert import source
from collab.convert.huggingface import hub
from tests.convert.checkpoints import GOLDEN, load


def test_a_name_is_of_nothing_here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert hub.is_name(pathlib.Path('org/model-1.5_B'))
  for other in ('model', '/org/model', 'a/b/c', '../model', 'org/.x', 'a b/c'):
    assert not hub.is_name(pathlib.Path(other)), other
  (tmp_path / 'org').mkdir()  # a folder of runs, say
  assert not hub.is_name(pathlib.Path('org/model-1.5_B'))


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """The cache of huggingface_hub with org/model, and no network."""
  pytest.importorskip('huggingface_hub')
  constants = 'huggingface_hub.constants'
  monkeypatch.setattr(f'{constants}.HF_HUB_CACHE', str(tmp_path))
  monkeypatch.setattr(f'{constants}.HF_HUB_OFFLINE', True)
  folder, commit = tmp_path / 'models--org--model', '0' * 40
  shutil.copytree(GOLDEN / 'bert_Model', folder / 'snapshots' / commit)
  (folder / 'refs').mkdir()
  (folder / 'refs' / 'main').write_text(commit)


@pytest.mark.usefixtures('cache')
def test_a_model_by_its_name():
  found = source.read('org/model')
  assert found.folder == 'org/model'
  want = load('bert_Model').params
  jax.tree.map(np.testing.assert_array_equal, found.params, want)


@pytest.mark.usefixtures('cache')
def test_a_name_that_is_not_there():
  words = 'org/other is no folder here; from the Hub: '
  with pytest.raises(ValueError, match=words) as info:
    source.read('org/other')
  assert '\n' not in str(info.value)


def test_without_huggingface_hub(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  words = 'org/model is no folder here. .*pip install .* hf download org/model'
  with pytest.raises(ValueError, match=words) as info:
    source.read('org/model')
  assert '\n' not in str(info.value)
