# SPDX-License-Identifier: Apache-2.0
"""Objects of a bucket are written whole, by one, and copied here once."""

from pathlib import Path

import pytest

from collab.io import atomic, buckets, json_text, node_files


def test_paths_stay_paths(tmp_path):
  assert type(buckets.at(str(tmp_path))) is type(tmp_path)
  assert buckets.absolute('run') == Path('run').absolute()
  assert node_files.fetched('data') == Path('data')
  for wrong in ('s3://bucket/run', 'gs:///run'):
    with pytest.raises(ValueError, match='expected a path, or a URL gs://BUCK'):
      buckets.at(wrong)


def test_of_two_one_writes(bucket):
  path = bucket / 'object'
  assert buckets.read(path) == ('', 0)
  first = buckets.swap(path, 'mine', 0)
  assert buckets.swap(path, 'theirs', 0) is None
  assert buckets.read(path) == ('mine', first)
  assert buckets.swap(path, 'mine', 0) == first  # as a retry does
  second = buckets.swap(path, 'again', first)
  assert second > first
  assert buckets.swap(path, 'late', first) is None
  buckets.append(str(path), ', more')
  assert path.read_text() == 'again, more'


def test_json(bucket):
  atomic.save_json(bucket / 'x.json', dict(a=[1, 2]))
  assert json_text.read_object(bucket / 'x.json', a=list) == dict(a=[1, 2])
  with pytest.raises(ValueError, match=rf'^{bucket}/y\.json: FileNotFound'):
    json_text.read_object(bucket / 'y.json')


def test_a_folder_moves(bucket):
  (bucket / 'a' / 'x').write_text('1')
  (bucket / 'a' / 'b' / 'y').write_text('2')
  buckets.move(bucket / 'a', bucket / 'to' / 'c')
  assert not (bucket / 'a').exists()
  assert (bucket / 'to' / 'c' / 'x').read_text() == '1'
  assert (bucket / 'to' / 'c' / 'b' / 'y').read_text() == '2'


def test_only_what_has_grown_is_copied(bucket, tmp_path):
  sizes, file = {}, tmp_path / 'in' / 'file'
  file.parent.mkdir()
  file.write_text('1')
  buckets.upload(tmp_path, bucket, sizes)
  before = buckets.versions(str(bucket))
  buckets.upload(tmp_path, bucket, sizes)
  assert buckets.versions(str(bucket)) == before
  file.write_text('12')
  buckets.upload(tmp_path, bucket, sizes)
  assert (bucket / 'in' / 'file').read_text() == '12'


def test_a_copy_here_is_that_of_the_generation(bucket):
  (bucket / 'data' / 'in' / 'x').write_text('1')
  first = node_files.fetched(str(bucket / 'data'))
  assert (first / 'in' / 'x').read_text() == '1'
  (first / 'in' / 'x').write_text('kept')  # and is not copied again
  assert node_files.fetched(str(bucket / 'data')) == first
  assert (first / 'in' / 'x').read_text() == 'kept'
  (bucket / 'data' / 'in' / 'x').write_text('2')
  second = node_files.fetched(str(bucket / 'data'))
  assert (second / 'in' / 'x').read_text() == '2'
  one = node_files.fetched(str(bucket / 'data' / 'in' / 'x'))
  assert one.read_text() == '2'
  with pytest.raises(ValueError, match='has no such object or folder'):
    node_files.fetched(str(bucket / 'other'))


def test_what_is_mapped_stays_here(bucket):
  folder = node_files.folder('', str(bucket), 'data')
  assert folder == str(node_files.kept() / 'data')
  assert node_files.folder('', 'run', 'data') == 'run/data'
  with pytest.raises(ValueError, match=r'data\.folder=gs://.* of this machine'):
    node_files.folder(str(bucket), 'run', 'data')
