# SPDX-License-Identifier: Apache-2.0
r"""Compares compressions of a sentence encoder at equal numbers of parameters.

  python -m experiments.minilm --model=MODEL_DIR --glue=DIR --books=FILE --save
  python -m experiments.minilm --model=MODEL_DIR --glue=DIR --cost --save
  python -m experiments.minilm --model=MODEL_DIR --time --save

MODEL_DIR is all-MiniLM-L6-v2 (Apache-2.0); DIR has GLUE's STS-B. Nothing is
trained. All methods get the parameters in attention that `collab` has with one
of the key widths in WIDTHS, or the nearest number that they can have; those
that compress other parts save as many. They look at one of three disjoint
random samples of sentences of STS-B's training set, or of the paragraphs in
FILE, plain or .gz.

On the dev set two things are measured: the mean cosine of the embeddings to the
original's, and Spearman's correlation of the pairs' cosines with the gold
scores. An embedding is what `Run.encode` makes by the model's own files: the
mean over tokens, scaled to length one. --cost measures what the conversions
took, and --time how fast the models are, both for the methods and sizes that
have rows.

--save adds rows to experiments/results/minilm.jsonl, which keeps those that are
there; they are not made again.
"""

from collections.abc import Iterable, Iterator, Mapping
import concurrent.futures
import functools
import gzip
import json
import multiprocessing
import pathlib
import tempfile
import time

import jax
import numpy as np

import collab
from collab import accounting, checks, command, evaluate, models
from collab.convert import calibration, source
from collab.data.readers import glue
from collab.io import atomic, text_lines
from collab.metrics import labels
from collab.runtime import devices
from experiments import compressions, results, study
from experiments.compressions import METHODS, REFINED, Given

WIDTHS = 96, 32  # shared_dim of `collab`
RESULTS = study.RESULTS / 'minilm.jsonl'
SAMPLES = 3
FIRST = 'STS-B', 0  # which all methods have
PARAGRAPH = 80  # letters at least
SHAPES = (4, 128), (1, 512)  # B, T
ROUNDS = 15
CHANGED = 'attention', 'mlp_dim', 'num_layers'


def run(
  folder: str, data: str, books: str, rows: int, pairs: int, have: set
) -> Iterator[tuple[dict, dict]]:
  """Yields rows that are not in `have`, see `key`, and their examples."""
  checks.at_least('--pairs', pairs, 2)
  found = source.read(folder)
  original = collab.load(folder)
  dev = list(_read(data, 'dev'))[:pairs]
  texts, gold = [text for x in dev for text in x.texts], [x.label for x in dev]
  want = original.encode(texts)
  row = dict(method='original', size=0, texts='', seed=0)
  if key(row) not in have:
    yield row | sizes(found.model, found.params), scores(want, want, gold)
  domains = {'STS-B': sentences(data)}
  if books:
    lines = map(str.strip, text_lines.of_path(pathlib.Path(books)))
    domains['books'] = [x for x in lines if len(x) >= PARAGRAPH]
  for domain, lines in domains.items():
    checks.within(f'--rows of {domain}', rows, 1, len(lines) // SAMPLES)
  for domain, sample, methods in plan(domains):
    chosen = sampled(domains[domain], sample, rows)
    seen = _seen(found, chosen)
    for k in WIDTHS:
      (size,) = compressions.parameters(
        found.model, 'collab', 'shared_dim', [k]
      )
      given = Given(original, found.model, seen, chosen, int(size))
      for method, convert in methods.items():
        row = dict(method=method, size=given.size, texts=domain, seed=sample)
        if method == 'collab, weights alone' and (domain, sample) != FIRST:
          continue  # it is the same
        if method == 'a layer dropped' and k == max(WIDTHS):
          continue  # a layer has more parameters than are saved
        if key(row) in have:
          continue
        model, params = convert(given)
        got = compressions.opened(original, model, params).encode(texts)
        row |= dict(rows=len(chosen)) | sizes(model, params)
        row['fields'] = {x: model[x] for x in CHANGED}
        yield row, scores(got, want, gold)


def plan(domains: Iterable[str]) -> list[tuple[str, int, dict]]:
  """Lists domain, sample and methods of the rows."""
  every = [(domain, i, METHODS) for domain in domains for i in range(SAMPLES)]
  return [*every, (*FIRST, REFINED)]


def sentences(data: str) -> list[str]:
  """Returns the distinct sentences of STS-B's training set."""
  return sorted({text for x in _read(data, 'train') for text in x.texts})


def _read(data, part):
  return glue.local('stsb', data, 'fatal').readers[part]()


def sampled(lines: list[str], sample: int, rows: int) -> list[str]:
  """Returns one of disjoint random samples of lines."""
  order = np.random.default_rng(0).permutation(len(lines))
  return [lines[i] for i in order[sample * rows : (sample + 1) * rows]]


def _seen(found, texts):
  with tempfile.NamedTemporaryFile('w', suffix='.txt') as file:
    file.write('\n'.join(texts))
    file.flush()
    return calibration.read(found, file.name, rows=len(texts))


def key(row: Mapping) -> tuple:
  """Returns what identifies a row; older rows have no method."""
  names = 'method', 'size', 'texts', 'seed'
  return tuple(row.get(name) for name in names)


def sizes(model: Mapping, params: Mapping) -> dict:
  """Counts parameters of the model and of its attention."""
  return dict(
    parameters=sum(x.size for x in jax.tree.leaves(params)),
    attention_parameters=accounting.attention_parameters(models.build(**model)),
  )


def scores(got: np.ndarray, want: np.ndarray, gold: list) -> dict:
  """Returns of each pair the cosine to the original, its own, and the gold."""
  cosine = (got * want).sum(-1).reshape(-1, 2).mean(1)
  return dict(cosine=cosine, predicted=evaluate.cosines(got), gold=gold)


def costs(folder: str, texts: list, rows: list, have: set) -> Iterator[dict]:
  """Yields a row with the seconds and memory of each conversion.

  Each has a process of its own, since a process has only one peak; that of
  'original' converts nothing. The seconds are the processor's, and have the
  compilation in them.
  """
  spawn = multiprocessing.get_context('spawn')
  for row in _first(rows):
    new = dict(method=row['method'], size=row['size'], texts='cost', seed=0)
    if key(new) not in have:
      with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
        how = row['method'], row['size']
        yield new | pool.submit(_cost, folder, texts, *how).result()


def _cost(folder, texts, method, size):
  found, original = source.read(folder), collab.load(folder)
  given = Given(original, found.model, _seen(found, texts), texts, size)
  start = time.process_time()
  if method != 'original':
    (METHODS | REFINED)[method](given)
  seconds = round(time.process_time() - start, 1)
  (peak,) = devices.peak_bytes().values()
  return dict(seconds=seconds, peak_mib=round(peak / 2**20))


def times(folder: str, rows: list) -> Iterator[dict]:
  """Yields a row with the median milliseconds of each model.

  They take turns, and parameters are random.
  """
  found = source.read(folder)
  rng, runs = np.random.default_rng(0), {}
  for row in _first(rows):
    model = models.build(**found.model | _tuples(row.get('fields', {})))
    draw = lambda x: jax.numpy.float32(rng.normal(0, 0.05, x.shape))
    params = {'params': jax.tree.map(draw, models.shapes(model))}
    for B, T in SHAPES:
      batch = models.zeros(model.example(B, T))
      batch['lengths'] += T
      # Of constants, the compiler could compute some beforehand.
      f = functools.partial(jax.jit(model.apply), params, batch)
      runs[row['method'], row['size'], T] = f
  taken = {name: [] for name in runs}
  for turn in range(1 + ROUNDS):  # the first one compiles
    for name, f in runs.items():
      start = time.perf_counter()
      jax.block_until_ready(f())
      if turn:
        taken[name].append(1e3 * (time.perf_counter() - start))
  for row in _first(rows):
    new = dict(method=row['method'], size=row['size'], texts='time', seed=0)
    for _, T in SHAPES:
      median = np.median(taken[row['method'], row['size'], T])
      new[f'ms_{T}'] = round(float(median), 2)
    yield new


def _first(rows):
  """The rows of the first sample: one of each method and size."""
  return [x for x in rows if (x['texts'] or 'STS-B', x['seed']) == FIRST]


def _tuples(x):
  if isinstance(x, dict):
    return {k: _tuples(v) for k, v in x.items()}
  return tuple(map(_tuples, x)) if isinstance(x, list) else x


def save(row: dict, examples: dict | None) -> None:
  """Adds a row to the results, in place of one of the same key."""
  if examples:
    words = [row['method'], row['size'], row['texts'], row['seed']]
    name = '-'.join(str(x) for x in words if x != '').replace(', ', '-')
    row['examples'] = f'minilm/{name.replace(" ", "-")}.json.gz'
    text = json.dumps({k: np.round(x, 4).tolist() for k, x in examples.items()})
    path = study.RESULTS / row['examples']
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
  rows = [x for x in results.rows(RESULTS) if key(x) != key(row)] + [row]
  atomic.write_text(RESULTS, ''.join(json.dumps(x) + '\n' for x in rows))


def main() -> None:
  parser = command.Parser(__spec__, __doc__)
  add = parser.add_argument
  add('--model', required=True, help='of the checkpoint')
  add('--glue', help='folder of STS-B')
  add('--books', default='', help='text to look at, too, a paragraph a line')
  add('--rows', type=int, default=500, help='to look at')
  add('--pairs', type=int, default=1500, help='of the dev set')
  add('--cost', action='store_true', help='of the conversions')
  add('--time', action='store_true', help='of the models')
  add('--save', action='store_true', help=f'in {RESULTS.name}')
  args = parser.parse_args()
  if not (args.glue or args.time):
    raise ValueError('Expected --glue=DIR or --time.')
  rows = [row for row in results.rows(RESULTS) if 'method' in row]
  have = set(map(key, rows)) if args.save else set()
  words = f'{parser.prog} --model=MODEL_DIR'
  if args.time:
    words += ' --time'
    made = ((row, None) for row in times(args.model, rows))
  elif args.cost:
    words += f' --glue=DIR --rows={args.rows} --cost'
    texts = sampled(sentences(args.glue), 0, args.rows)
    made = ((row, None) for row in costs(args.model, texts, rows, have))
  else:
    words += f' --glue=DIR --books=FILE --rows={args.rows} --pairs={args.pairs}'
    made = run(args.model, args.glue, args.books, args.rows, args.pairs, have)
  about = results.about(words)
  for row, examples in made:
    if examples:
      correlation = labels.correlation_scores(
        examples['gold'], examples['predicted']
      )
      row |= dict(
        cosine=float(np.mean(examples['cosine'])),
        spearman=correlation['spearman'],
        pairs=len(examples['gold']),
      )
    print(json.dumps(row), flush=True)
    if args.save:
      save(about | row, examples)


if __name__ == '__main__':
  with command.errors_in_a_line('minilm'):
    main()
