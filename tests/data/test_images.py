# SPDX-License-Identifier: Apache-2.0
"""Every layout of images is read, and every bad input is one clear line."""

import gzip
import io
import json

import numpy as np
from PIL import Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from collab.data.readers import encoded_images, images
from tests.data.test_sources import refused

RNG = np.random.default_rng(0)


def idx(array):
  head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, '>i4').tobytes()
  return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def write(tmp_path):
  """Writes idx files of the layout of MNIST; `changes` replace some."""

  def write(pack=gzip.compress, ending='.gz', train=23, test=5, changes=()):
    for prefix, n in dict(train=train, t10k=test).items():
      pictures = RNG.integers(0, 256, (n, 7, 7))
      files = {
        'images-idx3-ubyte': idx(pictures),
        'labels-idx1-ubyte': idx(np.arange(n) % 3),
      }
      for name, content in files.items():
        path = tmp_path / f'{prefix}-{name}{ending}'
        path.write_bytes(pack(content))
    for name, content in dict(changes).items():
      (tmp_path / f'{name}{ending}').write_bytes(content)
    return tmp_path

  return write


def read(path, channels=1, **fields):
  fields = dict(corpus='', held_out=4) | fields
  return images.read(path=str(path), channels=channels, **fields)


@pytest.mark.parametrize('pack, ending', [(gzip.compress, '.gz'), (bytes, '')])
def test_idx_round_trip(write, pack, ending):
  pictures = RNG.integers(0, 256, (23, 7, 7))
  name = 'train-images-idx3-ubyte'
  folder = write(pack, ending, changes={name: pack(idx(pictures))})
  source = read(folder)
  assert source.classes == ('0', '1', '2')
  assert {k: len(x) for k, x in source.splits.items()} == dict(
    train=19, val=4, test=5
  )
  # Held out at equal distances: each training image is in one of the two.
  held = [4, 10, 16, 22]
  rest = np.delete(np.arange(23), held)
  for split, rows in dict(train=rest, val=held).items():
    found = source.splits[split]
    np.testing.assert_array_equal(found.images[..., 0], pictures[rows])
    np.testing.assert_array_equal(found.labels, np.array(rows) % 3)
  image, label = source.splits['val'][1]
  assert (image.mode, image.size, label) == ('L', (7, 7), 1)


@pytest.mark.parametrize('keep', [-9, 20, 0])
def test_idx_truncated_gzip(write, keep):
  content = gzip.compress(idx(RNG.integers(0, 256, (23, 7, 7))))[:keep]
  name = 'train-images-idx3-ubyte'
  folder = write(changes={name: content or b'not gzip'})
  refused(f'{name}.gz: damaged', lambda: read(folder))


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('train-images-idx3-ubyte', idx(np.zeros((23, 7, 7)))[:-1], '1126 values'),
    ('train-images-idx3-ubyte', idx(np.zeros((22, 7, 7))), '22 images and'),
    ('t10k-labels-idx1-ubyte', idx(np.zeros(6)), '5 images ... 6 labels'),
    (
      't10k-labels-idx1-ubyte',
      idx(np.zeros((5, 1))),
      "begins with '00000802', expected '00000801'",
    ),
    ('t10k-labels-idx1-ubyte', b'\0\0\x08\x01\0', 'begins with'),
    ('t10k-labels-idx1-ubyte', b'', "begins with ''"),
    ('t10k-labels-idx1-ubyte', idx(np.full(5, 3)), 'the label 3, which no'),
    (
      'train-images-idx3-ubyte',
      bytes([0, 0, 8, 3]) + np.array([-2, -3, 3], '>i4').tobytes() + bytes(18),
      '18 values, but its header says -2 x -3 x 3',
    ),
    (
      'train-images-idx3-ubyte',
      bytes([0, 0, 8, 3]) + np.array([0, -3, 3], '>i4').tobytes(),
      '0 values, but its header says 0 x -3 x 3',
    ),
  ],
)
def test_idx_of_another_format(write, name, content, message):
  folder = write(bytes, '', changes={name: content})
  refused(f'{name} {message}'.split(' ')[0], lambda: read(folder))
  refused(message, lambda: read(folder))


def test_idx_files_that_are_missing_or_twofold(write):
  folder = write()
  path = folder / 't10k-labels-idx1-ubyte'
  path.write_bytes(b'')
  refused('has both t10k-labels-idx1-ubyte and', lambda: read(folder))
  path.unlink()
  (folder / f'{path.name}.gz').unlink()
  refused('has neither t10k-labels-idx1-ubyte', lambda: read(folder))


@pytest.mark.parametrize('split', ['train', 'test'])
def test_empty_idx_split(write, split):
  folder = write(**{split: 0})
  refused(f"the split '{split}' has no images", lambda: read(folder))


@pytest.mark.parametrize('n', [-1, 0, 23])
def test_held_out_of_range(write, n):
  folder = write()
  refused(f'held_out={n}; expected 1 to 22', lambda: read(folder, held_out=n))


def test_channels(write):
  folder = write()
  refused('images of 1 channel; ... have 3', lambda: read(folder, channels=3))
  refused('data.mean has 2 values', lambda: read(folder, channels=2))


# Folders ----------------------------------------------------------------------


def png(color, size=(5, 7), kind='PNG', mode='RGB'):
  file = io.BytesIO()
  Image.new(mode, size, color).save(file, kind)
  return file.getvalue()


@pytest.fixture
def folder(tmp_path):
  """train/{ant,bee} of 7 images each, val of 2 each."""
  for split, n in dict(train=7, val=2).items():
    for label, color in dict(bee='blue', ant='red').items():
      (tmp_path / split / label).mkdir(parents=True)
      for i in range(n):
        ending, kind = (('png', 'PNG'), ('JPEG', 'JPEG'))[i % 2]
        path = tmp_path / split / label / f'{i}.{ending}'
        path.write_bytes(png(color, kind=kind))
  (tmp_path / 'train' / 'bee' / 'README').write_text('not an image')
  return tmp_path


def test_folders(folder):
  source = read(folder, channels=3, held_out=2)
  assert source.classes == ('ant', 'bee')
  sizes = {k: len(x) for k, x in source.splits.items()}
  assert sizes == dict(train=12, val=2, test=4)
  for split, labels in dict(val=[0, 1], test=[0, 0, 1, 1]).items():
    found = [source.splits[split][i] for i in range(sizes[split])]
    assert [label for _, label in found] == labels
    for image, label in found:
      red, _, blue = np.asarray(image)[3, 3]
      assert image.size == (5, 7)
      assert (int(blue) > int(red)) == bool(label)
  [image, _] = read(folder, channels=1, held_out=2).splits['test'][0]
  assert image.mode == 'L'


def test_folders_with_all_splits(folder):
  (folder / 'val').rename(folder / 'test')
  refused('held_out=0', lambda: read(folder, channels=3, held_out=0))
  (folder / 'val' / 'bee').mkdir(parents=True)
  refused("'val' has no images", lambda: read(folder, channels=3))
  (folder / 'val' / 'bee' / 'x.png').write_bytes(png('blue'))
  source = read(folder, channels=3, held_out=0)
  sizes = {k: len(x) for k, x in source.splits.items()}
  assert sizes == dict(train=14, val=1, test=4)
  assert source.splits['val'][0][1] == 1


def test_unknown_class(folder):
  (folder / 'val' / 'cat').mkdir()
  refused("val has the class 'cat', which", lambda: read(folder, channels=3))


@pytest.mark.parametrize(
  'content',
  [png('red')[:-30], b'', b'no image'],
  ids=['truncated', 'empty', 'other'],
)
def test_damaged_image(folder, content):
  path = folder / 'val' / 'bee' / '0.png'
  path.write_bytes(content)
  test = read(folder, channels=3).splits['test']
  refused(f'{path} does not decode ... damaged=skip', lambda: test[2])
  source = read(folder, channels=3, damaged='skip')
  found = [source.splits['test'][i] for i in range(4)]
  assert [x is None for x in found] == [False, False, True, False]
  assert source.damaged == {str(path)}
  refused(
    "data.damaged='drop'; there are error, skip",
    lambda: read(folder, channels=3, damaged='drop'),
  )


def test_hidden_names_are_no_classes_and_no_images(folder):
  before = read(folder, channels=3)
  for split in ('train', 'val'):
    (folder / split / '.ipynb_checkpoints').mkdir()
    (folder / split / '.ipynb_checkpoints' / '0.png').write_bytes(png('green'))
    (folder / split / 'ant' / '._0.png').write_bytes(b'no image')
    (folder / split / '.DS_Store').write_bytes(b'x')
  after = read(folder, channels=3)
  assert after.classes == before.classes == ('ant', 'bee')
  assert {k: len(x) for k, x in after.splits.items()} == dict(
    train=10, val=4, test=4
  )
  assert after.ignored == before.ignored == {'README': 1}


def test_files_that_are_no_images_are_counted(folder):
  (folder / 'train' / 'ant' / 'x.webp').write_bytes(png('red', kind='WEBP'))
  (folder / 'train' / 'ant' / 'deeper').mkdir()
  (folder / 'train' / 'ant' / 'deeper' / 'x.png').write_bytes(png('red'))
  (folder / 'val' / 'loose.PNG').write_bytes(png('red'))
  source = read(folder, channels=3)
  assert source.ignored == {'README': 1, '.webp': 1, '.png': 2}
  assert len(source.splits['test']) == 4


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('name', ['x.webp', 'deeper/x.png', ''])
def test_a_class_without_images(folder, split, name):
  path = folder / split / 'ant' / name
  for image in (folder / split / 'ant').iterdir():
    image.unlink()
  if name:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(png('red'))
  refused(
    f"{folder / split} has the class 'ant' without an image",
    lambda: read(folder, channels=3),
  )


def test_images_of_one_class_are_labelled_by_the_classes_of_training(folder):
  for image in (folder / 'val' / 'ant').iterdir():
    image.unlink()
  (folder / 'val' / 'ant').rmdir()
  test = read(folder, channels=3).splits['test']
  assert [test[i][1] for i in range(len(test))] == [1, 1]


def seen(folder, image, channels=1, **options):
  """What is read of an image that Pillow has written."""
  path = folder / 'train' / 'ant' / '0.png'
  image.save(path, options.pop('format', 'PNG'), **options)
  found, _ = read(folder, channels, held_out=2).splits['train'][0]
  return np.asarray(found).squeeze()


def test_grey_of_16_bits(folder):
  wide = np.linspace(0, 65535, 64).astype(np.uint16).reshape(4, 16)
  got = seen(folder, Image.fromarray(wide))
  assert got.ravel()[:4].tolist() == [0, 4, 8, 12]
  np.testing.assert_array_equal(got, wide >> 8)
  got = seen(folder, Image.fromarray(wide), channels=3)
  np.testing.assert_array_equal(got, np.stack([wide >> 8] * 3, -1))
  # Pillow's mode I, which has 32 bits, in a file that says PNG by its name.
  image = Image.fromarray(wide.astype(np.int32))
  np.testing.assert_array_equal(seen(folder, image, format='TIFF'), wide >> 8)


@pytest.mark.parametrize(
  'pixels',
  [
    np.full((3, 5), 65536, np.int32),
    np.full((3, 5), -1, np.int32),
    np.full((3, 5), 0.5, np.float32),
  ],
)
def test_pixels_without_a_white(folder, pixels):
  refused(
    '0.png does not decode (pixels of mode ... expected 8 or 16 bits',
    lambda: seen(folder, Image.fromarray(pixels), format='TIFF'),
  )


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_what_is_transparent_is_white(folder, mode):
  image = Image.new('RGBA', (3, 2), (90, 90, 90, 0))
  image.putpixel((0, 0), (90, 90, 90, 255))
  image.putpixel((1, 0), (90, 90, 90, 51))
  got = seen(folder, image.convert(mode))
  assert got.tolist() == [[90, 222, 255], [255, 255, 255]]


def test_a_transparent_colour_is_white(folder):
  image = Image.new('L', (2, 1), 90)
  image.putpixel((0, 0), 7)
  assert seen(folder, image, transparency=90).tolist() == [7, 255]
  palette = image.convert('P')
  assert seen(folder, palette, transparency=90).tolist() == [7, 255]
  image = image.convert('RGB')
  assert seen(folder, image, transparency=(90,) * 3).tolist() == [7, 255]


@pytest.mark.parametrize('turn', range(1, 9))
def test_orientation(folder, turn):
  """What a camera says of its own turn; 6 and 8 are by a right angle."""
  pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
  exif = Image.Exif()
  exif[0x0112] = turn
  by = {
    1: pixels,
    2: np.fliplr(pixels),
    3: np.rot90(pixels, 2),
    4: np.flipud(pixels),
    5: pixels.T,
    6: np.rot90(pixels, -1),
    7: np.rot90(pixels, 2).T,
    8: np.rot90(pixels),
  }
  got = seen(folder, Image.fromarray(pixels), exif=exif)
  np.testing.assert_array_equal(got, by[turn])


def test_unreadable_is_not_damaged(folder):
  source = read(folder, channels=3, damaged='skip')
  (folder / 'val' / 'bee' / '0.png').unlink()
  with pytest.raises(FileNotFoundError):
    source.splits['test'][2]


def test_unknown_layouts(tmp_path):
  refused(
    'nowhere is no folder ... train-images-idx3-ubyte ... train/CLASS',
    lambda: read(tmp_path / 'nowhere'),
  )
  refused('has no images in a known layout', lambda: read(tmp_path))
  refused(
    "data.corpus='nope'; there are sample, imagenet2012",
    lambda: images.read(corpus='nope'),
  )


# The sample, and TFDS ---------------------------------------------------------


def test_tables_of_datasets(tmp_path):
  names = json.dumps(
    dict(info=dict(features=dict(label=dict(names=['no', 'yes']))))
  )

  def write(split, rows):
    cells = [dict(bytes=image, path=None) for image, _ in rows]
    found = pa.table(dict(image=cells, label=[label for _, label in rows]))
    found = found.replace_schema_metadata(dict(huggingface=names))
    pq.write_table(found, tmp_path / f'{split}-00000-of-00001.parquet')

  write('train', [(png('red'), 1), (png('blue'), 0), (png('lime'), 1)])
  with pytest.raises(ValueError, match='needs train and another split'):
    read(tmp_path, 3)
  write('validation', [(png('white'), 0), (b'damaged', 1)])
  source = read(tmp_path, 3, held_out=1)
  assert source.classes == ('no', 'yes')
  assert {k: len(x) for k, x in source.splits.items()} == dict(
    train=2, val=1, test=2
  )
  image, label = source.splits['test'][0]
  assert (image.getpixel((0, 0)), label) == ((255, 255, 255), 0)
  with pytest.raises(ValueError, match=r'parquet, row 2 does not decode'):
    source.splits['test'][1]
  write('validation', [(png('white'), 2)])
  with pytest.raises(ValueError, match='row 1: label=2; expected 0 to 1'):
    read(tmp_path, 3)
  write('validation', [(None, 1)])
  with pytest.raises(
    ValueError, match=r'row 1: image is \{.*, expected the by'
  ):
    read(tmp_path, 3)


def test_sample():
  source = images.read(corpus='sample', channels=1)
  parts = [x.images.tobytes() for x in source.splits.values()]
  again = images.read(corpus='sample', channels=1)
  assert parts == [x.images.tobytes() for x in again.splits.values()]
  assert [len(x) for x in source.splits.values()] == [1200, 197, 400]
  assert len(source.classes) == 10
  for split in source.splits.values():
    assert split.images.shape[1:] == (8, 8, 1)
    assert set(split.labels) == set(range(10))


class TinyImages(tfds.core.GeneratorBasedBuilder):
  """A TFDS data set like imagenet2012, but for its size."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = dict(
      image=tfds.features.Image(shape=(None, None, 3)),
      label=tfds.features.ClassLabel(names=['ant', 'bee']),
    )
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return dict(
      train=self._generate_examples(11), validation=self._generate_examples(3)
    )

  def _generate_examples(self, n):
    for i in range(n):
      image = io.BytesIO(png(('red', 'blue')[i % 2], (3 + i, 5)))
      yield i, dict(image=image, label=i % 2)


def test_tfds(tmp_path, monkeypatch):
  builder = tfds.builder(
    'tiny_images', data_dir=tmp_path, file_format='array_record'
  )
  builder.download_and_prepare()
  monkeypatch.setattr(encoded_images.prepared, 'builder', lambda *_: builder)
  monkeypatch.setitem(images.TFDS, 'tiny_images', 'validation')
  source = images.read(corpus='tiny_images', held_out=4)
  assert source.classes == ('ant', 'bee')
  assert {k: len(x) for k, x in source.splits.items()} == dict(
    train=7, val=4, test=3
  )
  seen = []
  for split in source.splits.values():
    for i in range(len(split)):
      image, label = split[i]
      assert np.asarray(image)[0, 0].tolist() == (
        [0, 0, 255] if label else [255, 0, 0]
      )
      seen.append(image.width)
  assert sorted(seen) == sorted([*range(3, 14), *range(3, 6)])
  monkeypatch.setitem(images.TFDS, 'tiny_images', 'test')
  refused(
    "prepared without 'test', only train, validation ... Prepare it once",
    lambda: images.read(corpus='tiny_images', held_out=4),
  )


def test_tfds_that_is_not_prepared(tmp_path, monkeypatch):
  refused(
    'cifar10 is not prepared ... data.path',
    lambda: images.read(corpus='cifar10', held_out=5000),
  )
