# SPDX-License-Identifier: Apache-2.0
"""~ is the home folder wherever a path begins."""

import pytest

from collab.io import paths
from configs import wmt14


@pytest.fixture(autouse=True)
def home(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')


@pytest.mark.parametrize(
  'given, wanted',
  [
    ('~', '/home/me'),
    ('~/data', '/home/me/data'),
    ('train=~/a.en,~/a.de', 'train=/home/me/a.en,/home/me/a.de'),
    ('data~', 'data~'),
    ('a/~/b', 'a/~/b'),
    ('~nobody-of-this-name/x', '~nobody-of-this-name/x'),
    ('', ''),
  ],
)
def test_home(given, wanted):
  assert paths.expand(given) == wanted


def test_home_in_every_path_of_a_config():
  c = wmt14.get_config('sample')
  places = ('path', 'folder', 'vocabulary')
  c.data.update(dict.fromkeys(places, '~/x'), files=('val=~/a,~/b', 'c'))
  c.init_from = '~/run'
  paths.expand_all(c.lock())
  assert [c.data[name] for name in places] == ['/home/me/x'] * 3
  assert c.data.files == ('val=/home/me/a,/home/me/b', 'c')
  assert c.init_from == '/home/me/run'
  same = wmt14.get_config('sample')
  paths.expand_all(same)
  assert same == wmt14.get_config('sample')
