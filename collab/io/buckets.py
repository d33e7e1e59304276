# SPDX-License-Identifier: Apache-2.0
"""The one door to files that may be in a bucket: a path, or gs://BUCKET/NAME.

A bucket has no folders, renames, locks or appends. An object is written whole,
so that it is complete or absent, and may be written on the condition that it is
still the one that was read.
"""

import atexit
import functools
import importlib.util
import os
from pathlib import Path
import re
import shutil
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from etils import epath

PATIENCE = 20  # seconds of retries of a conditional write
_URL = re.compile(r'[a-z][a-z0-9+]*://')


def is_url(path: 'str | os.PathLike') -> bool:
  """Returns whether a path is that of an object, or of several."""
  return bool(_URL.match(os.fspath(path)))


def at(path: 'str | os.PathLike') -> 'Path | epath.Path':
  """Returns a pathlib.Path, or for a URL an epath.Path, with the same methods.

  Raises:
    ValueError: it is no URL of a bucket, or a package for them is missing.
  """
  text = os.fspath(path)
  if not is_url(text):
    return Path(path)
  if not re.match('gs://[^/]', text):
    raise ValueError(f'{text}: expected a path, or a URL gs://BUCKET/NAME.')
  _prepare(text)
  from etils import epath

  return epath.Path(text)


def absolute(path: 'str | os.PathLike') -> 'Path | epath.Path':
  """Returns the same place, whatever the current folder."""
  return at(path) if is_url(path) else Path(path).absolute()


def move(source: 'Path | epath.Path', target: 'Path | epath.Path') -> None:
  """Renames a folder; in a bucket it is copied, and then removed."""
  if not is_url(source):
    source.rename(target)
    return
  _copy(source, target)
  source.rmtree()


def staging(path: 'str | os.PathLike') -> Path:
  """Returns a folder here to write to: itself, or for a URL a temporary one."""
  if not is_url(path):
    return Path(path)
  folder = tempfile.mkdtemp(prefix='collab-')
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return Path(folder)


def upload(folder: Path, target: 'epath.Path', sizes: dict) -> None:
  """Copies the files of a folder that have grown into a bucket.

  Args:
    folder: here.
    target: where the files of the folder go.
    sizes: {path: bytes of it that are in the bucket}; is updated.
  """
  for path in sorted(p for p in folder.rglob('*') if p.is_file()):
    if path.stat().st_size != sizes.get(path):
      data = path.read_bytes()
      (target / str(path.relative_to(folder))).write_bytes(data)
      sizes[path] = len(data)


def download(source: 'epath.Path', target: Path) -> None:
  """Copies an object, or all objects of a folder, to a path that is free."""
  if not source.is_dir():
    with source.open('rb') as theirs, target.open('wb') as ours:
      shutil.copyfileobj(theirs, ours)
    return
  target.mkdir()
  for inner in source.iterdir():
    download(inner, target / inner.name)


def versions(url: str) -> list[tuple[str, int]]:
  """Lists (name, generation) of an object, or of all in a folder."""
  bucket, name = _split(url)
  prefix = f'{name}/' if name else ''
  blobs = list(bucket.client.list_blobs(bucket, prefix=prefix))
  if not blobs:
    blobs = filter(None, [bucket.get_blob(name)])
  return sorted((blob.name, blob.generation) for blob in blobs)


def read(path: 'epath.Path') -> tuple[str, int]:
  """Returns the text of an object and its generation; ('', 0) if missing."""
  from google.api_core import exceptions

  bucket, name = _split(path)
  while blob := bucket.get_blob(name):
    generation = blob.generation
    try:
      data = blob.download_as_bytes(if_generation_match=generation)
      return data.decode(), generation
    except (exceptions.NotFound, exceptions.PreconditionFailed):
      pass  # it was written in between
  return '', 0


def swap(path: 'epath.Path', text: str, generation: int) -> int | None:
  """Writes an object if it is still of a generation, 0 if it is missing.

  Args:
    path: of the object.
    text: differs from what other processes write.
    generation: of the object when it was read.

  Returns:
    Its new generation, or None if another process has written it.
  """
  from google.api_core import exceptions
  from google.cloud.storage import retry

  bucket, name = _split(path)
  blob = bucket.blob(name)
  try:
    blob.upload_from_string(
      text,
      if_generation_match=generation,
      retry=retry.DEFAULT_RETRY.with_timeout(PATIENCE),
      timeout=PATIENCE,
    )
  except exceptions.PreconditionFailed:
    # A retry finds what the attempt before it has written.
    now, generation = read(path)
    return generation if now == text else None
  return blob.generation


def append(path: str, text: str) -> None:
  """Appends to a text file, or object, that others append to as well."""
  if not is_url(path):
    with Path(path).open('a') as file:
      file.write(text)
    return
  place = at(path)
  while True:
    old, generation = read(place)
    if swap(place, old + text, generation) is not None:
      return


def _copy(source, target):
  if not source.is_dir():
    source.copy(target)
    return
  for inner in source.iterdir():
    _copy(inner, target / inner.name)


def _split(path):
  """Returns the bucket of a URL, and the name in it."""
  url = os.fspath(path)
  bucket, _, name = url.removeprefix('gs://').partition('/')
  return _client().bucket(bucket), name.rstrip('/')


@functools.cache
def _client():
  from google.cloud import storage

  return storage.Client()


@functools.cache
def _prepare(url):
  if not importlib.util.find_spec('gcsfs'):
    raise ValueError(f"{url} needs gcsfs: pip install 'collab[gcs]'")
  os.environ.setdefault('EPATH_USE_TF', '0')  # installed or not
  import fsspec

  # Other processes write as well, so that a kept list would be wrong.
  fsspec.config.conf.setdefault('gcs', {})['use_listings_cache'] = False
