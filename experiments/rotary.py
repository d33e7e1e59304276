# SPDX-License-Identifier: Apache-2.0
r"""Measures what a smaller cache costs a decoder with rotary positions.

  python -m experiments.rotary --model=MODEL.gguf --train=FILE \
      --tests wikitext-2=FILE books=FILE --save

The attention of SmolLM2-135M-Instruct (Apache-2.0) is converted by each method
of collab/convert/decompose/rotary_methods.py to a half and a quarter of its
cache, and by averaging all key heads to a third. Nothing is trained. All
methods get the moments of the same texts. The perplexity is that of the first
tokens of each test text, in windows that do not overlap; `losses` are those of
the windows. Seconds are those of the processor.

--save writes each row to experiments/results/rotary.jsonl as it is finished.
Rows of the same command that are there are not made again.
"""

from collections.abc import Collection, Iterator, Mapping
import json
import pathlib
import time

import jax
import numpy as np
import optax

from collab import attention, checks, command, models
from collab.convert import calibration, intercept, reparametrize, source
from collab.convert.decompose import (
  input_statistics,
  rotary_methods,
  rotated,
)
from collab.convert.decompose.mha import read
from collab.io import atomic, text_lines
from experiments import results, study

SHARES = 0.5, 0.25
CHARACTERS = 16  # at most, of a token on average
RESULTS = study.RESULTS / 'rotary.jsonl'


def run(
  path: str,
  train: str,
  tests: list[str],
  rows: int,
  length: int,
  windows: int,
  have: Collection = (),
) -> Iterator[dict]:
  """Yields a row for the original, and one for each method and size.

  Those are left out whose (method, cache) is in `have`.
  """
  found = source.read(path)
  words, texts = source.words(found), {}
  for test in tests:
    name, equals, file = test.partition('=')
    if not (equals and file) or name in texts:
      raise ValueError(f'--tests {test}; expected NAME=FILE, each name once.')
    text = text_lines.whole(pathlib.Path(file))[: CHARACTERS * windows * length]
    ids = np.int32(words.encode(text))
    checks.at_least(f'tokens of {test}', len(ids), windows * length)
    texts[name] = ids[: windows * length].reshape(windows, length)
  seen = calibration.read(found, train, rows, size=4, length=length)
  start = time.process_time()
  moments = input_statistics.collect(
    seen.model, found.params, seen.batches, attended=True
  )
  about = dict(
    looked_at=sum(x['tokens'].size for x in seen.batches),
    looking=round(time.process_time() - start, 1),
    length=length,
    tokens=windows * (length - 1),
  )
  layers = reparametrize.find(found.model, found.params)
  whole = layers[0].module.cache_size(found.model['dim'])

  def row(method, model, params, layer, **more):
    size = layer.cache_size(found.model['dim'])
    lost = losses(model, params, texts)
    more |= {k: float(np.exp(x.mean())) for k, x in lost.items()}
    more['losses'] = {k: x.round(5).tolist() for k, x in lost.items()}
    return dict(method=method, cache=size) | more | about

  wanted = {
    (method, size := int(share * whole)): (
      'mla',
      dict(cache_size=size, method=method),
    )
    for method in rotary_methods.METHODS
    for share in SHARES
  }
  wanted['mean', whole // layers[0].module.kv_heads] = 'gqa', dict(kv_heads=1)
  if ('original', whole) not in have:
    yield row('original', found.model, found.params, layers[0].module)
  for (method, size), (name, fields) in wanted.items():
    if (method, size) in have:
      continue
    start = time.process_time()
    model, params = convert(found, layers, moments, name, fields)
    seconds = round(time.process_time() - start, 1)
    *_, layer = intercept.layers(model, params)
    layer = attention.build(**layer[2])
    yield row(method, model, params, layer, seconds=seconds)


def convert(
  found: source.Source,
  layers: list,
  moments: Mapping,
  name: str,
  fields: Mapping,
) -> tuple[dict, dict]:
  """Converts all layers without measuring them; returns model and parameters.

  Args:
    found: the model.
    layers: its reparametrize.Layers.
    moments: {path: Moments}.
    name: of a function in rotated.VARIANTS.
    fields: its arguments.
  """
  params, built = found.params, []
  for path, _, old, _ in layers:
    mha = read(intercept.get(params, path), old.scale, grouped=True)
    make = rotated.VARIANTS[name]
    tree, own = make(mha, moments[path], old.rope, **fields)
    params = intercept.put(params, path, jax.tree.map(np.float32, tree))
    built.append(own)
  own = {key: tuple(x[key] for x in built) for key in built[0]}
  return found.model | dict(
    attention=layers[0].kept | own | dict(name=name)
  ), params


def losses(
  model: Mapping, params: Mapping, texts: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Computes the mean loss of a token of each row [B, L] of the texts."""
  built = models.build(**model)
  params = jax.device_put(params)  # else each call copies them

  @jax.jit
  def of_row(params, row):
    logits = built.apply({'params': params}, dict(tokens=row[None, :-1]))[0]
    loss = optax.softmax_cross_entropy_with_integer_labels
    return loss(logits, row[1:]).mean()

  return {
    name: np.array([of_row(params, row) for row in rows], np.float64)
    for name, rows in texts.items()
  }


def main() -> None:
  parser = command.Parser(__spec__, __doc__)
  add = parser.add_argument
  add('--model', required=True, help='file of llama.cpp')
  add('--train', required=True, help='text to look at')
  add('--tests', required=True, nargs='+', metavar='NAME=FILE', help='to score')
  add('--rows', type=int, default=80, help='lines to look at')
  add('--length', type=int, default=512, help='tokens of a window')
  add('--windows', type=int, default=12, help='of each test text')
  add('--save', action='store_true', help=f'in {RESULTS.name}')
  args = parser.parse_args()
  about = results.about(
    f'{parser.prog} --model=MODEL.gguf --train=FILE '
    '--tests wikitext-2=FILE books=FILE '
    f'--rows={args.rows} --length={args.length} --windows={args.windows}'
  )
  old = results.rows(RESULTS, command=str, method=str, cache=int)
  same = [row for row in old if row['command'] == about['command']]
  lines = [json.dumps(row) + '\n' for row in same]
  have = {(row['method'], row['cache']) for row in same}
  given = args.rows, args.length, args.windows
  for row in run(args.model, args.train, args.tests, *given, have):
    lines.append(json.dumps(about | dict(seed=0) | row) + '\n')
    print(lines[-1], end='', flush=True)
    if args.save:
      atomic.write_text(RESULTS, ''.join(lines))


if __name__ == '__main__':
  with command.errors_in_a_line('rotary'):
    main()
