# SPDX-License-Identifier: Apache-2.0
"""What was sealed is read as it was, or refused."""

import json

import pytest

from collab.io import sealed


def fill(folder, *lines):
  (folder / 'lines').write_text('\n'.join(lines))
  return dict(count=len(lines))


def read(folder, content):
  return (folder / 'lines').read_text().split('\n'), content['count']


def test_a_value_comes_back_or_is_refused():
  kept = json.loads(json.dumps(sealed.seal('table', dict(b=[1, 2.5], a=None))))
  assert sealed.unseal('table', kept) == dict(a=None, b=[1, 2.5])
  kept['table']['b'][0] = 2
  with pytest.raises(OSError, match='checksum of the table differs'):
    sealed.unseal('table', kept)


def test_a_folder_is_made_once(tmp_path):
  place = tmp_path / 'new' / 'cache'
  assert sealed.folder(place, fill, read, 'a', 'b') == (['a', 'b'], 2)
  assert sealed.folder(place, fill, read, 'c') == (['a', 'b'], 2)
  assert sealed.content(place)['files'].keys() == {'lines'}


def test_of_two_that_make_it_the_first_stays(tmp_path):
  place = tmp_path / 'cache'

  def overtaken(folder, *lines):
    assert sealed.folder(place, fill, read, 'first') == (['first'], 1)
    return fill(folder, *lines)

  assert sealed.folder(place, overtaken, read, 'second') == (['first'], 1)
  assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize(
  'name, text', [('lines', 'a\nB'), ('content.json', '{}')]
)
def test_a_damaged_folder_is_made_anew(name, text, tmp_path, capsys):
  place = tmp_path / 'cache'
  sealed.folder(place, fill, read, 'a', 'b')
  (place / name).write_text(text)
  with pytest.raises((OSError, LookupError)):
    sealed.content(place)
  assert sealed.folder(place, fill, read, 'c') == (['c'], 1)
  assert f'{place} is damaged' in capsys.readouterr().out
  assert list(tmp_path.iterdir()) == [place]
