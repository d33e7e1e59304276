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

  ... --steps=300 --rate=RATE --windows=48 --methods original svd pca

fine-tunes all parameters of each converted model, and of the original, on the
same rows of the text that was looked at: Adam, one row a step.

--save writes each row to experiments/results/rotary.jsonl as it is finished, or
to rotary_tuned.jsonl. Rows of the same command that are there are not made
again.
"""

from collections.abc import Collection, Iterator, Mapping
import functools
import json
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

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
ROW = 256  # tokens of a row to train on
RESULTS = study.RESULTS / 'rotary.jsonl'
TUNED = study.RESULTS / 'rotary_tuned.jsonl'


class Tuning(NamedTuple):
  """How long to fine-tune, and the highest learning rate."""

  steps: int = 0
  rate: float = 0.0


def run(
  path: str,
  train: str,
  tests: list[str],
  rows: int,
  length: int,
  windows: int,
  methods: Collection,
  shares: Collection,
  tuning: Tuning,
  have: Collection,
) -> Iterator[dict]:
  """Yields a row for each method at each share of the cache.

  Those are left out whose (method, cache) is in `have`.
  """
  checks.at_least('--length', length, 2)
  checks.at_least('--windows', windows, 1)
  found = source.read(path)
  words, texts = source.words(found), {}
  for test in tests:
    name, equals, file = test.partition('=')
    if not (name and equals and file) or name in texts:
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
  if not getattr(layers[0].module, 'kv_heads', 0):
    raise ValueError(f'The attention of {path} is not gqa that rotates.')
  whole = layers[0].module.cache_size(found.model['dim'])

  if tuning.steps:
    text = text_lines.whole(pathlib.Path(train))
    every = np.int32(words.encode(text))
    every = every[: len(every) // ROW * ROW].reshape(-1, ROW)
    checks.at_least(f'rows of {train}', len(every), tuning.steps)
    order = np.random.default_rng(0).permutation(len(every))
    every = every[order[: tuning.steps]]
    about |= dict(steps=tuning.steps, rate=tuning.rate, row=ROW)

  def row(method, model, params, layer, **more):
    size = layer.cache_size(found.model['dim'])
    if tuning.steps:
      start = time.process_time()
      params = tuned(model, params, every, tuning.rate)
      more['tuning'] = round(time.process_time() - start, 1)
    lost = losses(model, params, texts)
    more |= {k: float(np.exp(x.mean())) for k, x in lost.items()}
    more['losses'] = {k: x.round(5).tolist() for k, x in lost.items()}
    return dict(method=method, cache=size) | more | about

  wanted = {
    (method, size := int(share * whole)): (
      'mla',
      dict(cache_size=size, method=method),
    )
    for share in shares
    for method in methods
    if method in rotary_methods.METHODS
  }
  if 'mean' in methods:
    size = whole // layers[0].module.kv_heads
    wanted['mean', size] = 'gqa', dict(kv_heads=1)
  if 'original' in methods and ('original', whole) not in have:
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


def tuned(
  model: Mapping, params: Mapping, rows: np.ndarray, rate: float
) -> dict:
  """Trains all parameters by Adam, a step for each row of tokens [N, L].

  The rate rises over a tenth of the steps, and falls to 0 as a cosine.
  """
  built, steps = models.build(**model), len(rows)
  schedule = optax.warmup_cosine_decay_schedule(0, rate, steps // 10, steps)
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.95)
  )

  def loss(params, row):
    logits = built.apply({'params': params}, dict(tokens=row[None, :-1]))[0]
    each = optax.softmax_cross_entropy_with_integer_labels(logits, row[1:])
    return each.mean()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, row):
    updates, state = optimizer.update(jax.grad(loss)(params, row), state)
    return optax.apply_updates(params, updates), state

  params = jax.tree.map(jnp.array, params)  # copies, as `step` takes them
  state = optimizer.init(params)
  for row in tqdm(rows, 'steps', disable=None):
    params, state = step(params, state, row)
  return params


def main() -> None:
  parser = command.Parser(__spec__, __doc__)
  add = parser.add_argument
  add('--model', required=True, help='file of llama.cpp')
  add('--train', required=True, help='text to look at')
  add('--tests', required=True, nargs='+', metavar='NAME=FILE', help='to score')
  add('--rows', type=int, default=80, help='lines to look at')
  add('--length', type=int, default=512, help='tokens of a window')
  add('--windows', type=int, default=12, help='of each test text')
  every = ['original', *rotary_methods.METHODS, 'mean']
  add('--methods', nargs='+', default=every, choices=every, metavar='METHOD')
  add('--shares', nargs='+', type=float, default=SHARES, help='of the cache')
  add('--steps', type=int, default=0, help='to fine-tune')
  add('--rate', type=float, default=1e-4, help='highest learning rate')
  add('--save', action='store_true', help='in experiments/results')
  args = parser.parse_args()
  words = (
    f'{parser.prog} --model=MODEL.gguf --train=FILE --tests '
    + ' '.join(f'{test.partition("=")[0]}=FILE' for test in args.tests)
    + f' --rows={args.rows} --length={args.length} --windows={args.windows}'
  )
  path, tuning = RESULTS, Tuning()
  if args.steps:
    path, tuning = TUNED, Tuning(args.steps, args.rate)
    words += f' --steps={args.steps} --rate={args.rate}'
  about = results.about(words)
  old = results.rows(path, command=str, method=str, cache=int)
  lines = [json.dumps(row) + '\n' for row in old]
  have = {
    (row['method'], row['cache'])
    for row in old
    if row['command'] == about['command']
  }
  given = args.rows, args.length, args.windows, args.methods, args.shares
  for row in run(args.model, args.train, args.tests, *given, tuning, have):
    lines.append(json.dumps(about | dict(seed=0) | row) + '\n')
    print(lines[-1], end='', flush=True)
    if args.save:
      atomic.write_text(path, ''.join(lines))


if __name__ == '__main__':
  with command.errors_in_a_line('rotary'):
    main()
