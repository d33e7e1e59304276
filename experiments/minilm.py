# SPDX-License-Identifier: Apache-2.0
r"""Measures what re-parametrisation without fine-tuning does to embeddings.

  python -m experiments.minilm --model=MODEL_DIR --glue=DIR

MODEL_DIR is all-MiniLM-L6-v2 (Apache-2.0); DIR has GLUE's STS-B. Calibration
uses sentences of its training set. For each key width, the model is converted
by weights alone and by looking at inputs; "keys and values" get a budget of as
many parameters, which narrows the values of heads, too. On the dev set two
things are measured: the mean cosine of the embeddings to the original's, and
Spearman's correlation of the pairs' cosines with the gold scores. An embedding
is what `Run.encode` makes by the model's own files: the mean over tokens,
scaled to length one.
"""

from collections.abc import Iterator
import dataclasses
import json
import tempfile
import time

import jax
import numpy as np

import collab
from collab import command, evaluate, models
from collab.convert import calibration, reparametrize, source
from collab.data.readers import glue
from collab.metrics import labels
from experiments import results, study

WIDTHS = 384, 192, 128, 96, 64, 32
RESULTS = study.RESULTS / 'minilm.jsonl'


def run(folder: str, data: str, rows: int, pairs: int) -> Iterator[dict]:
  """Yields a row for the original, and one for each key width and method."""
  found = source.read(folder)
  parts = glue.local('stsb', data, 'fatal').readers
  train = [text for x in parts['train']() for text in x.texts]
  dev = list(parts['dev']())[:pairs]
  with tempfile.NamedTemporaryFile('w', suffix='.txt') as file:
    file.write('\n'.join(train))
    file.flush()
    seen = calibration.read(found, file.name, rows=rows)
  texts = [text for x in dev for text in x.texts]
  opened = collab.load(folder)
  original = opened.encode(texts)
  gold = [x.label for x in dev]
  yield dict(key_width=0, way='original', **scores(original, original, gold))
  for k in WIDTHS:
    size = 0
    for way in ('plain', 'data-aware', 'keys and values'):
      inputs = None if way == 'plain' else seen
      fields, budget = dict(name='collab', shared_dim=k), None
      if way == 'keys and values':  # with the parameters of the other methods
        fields, budget = dict(name='collab'), ('parameters', size)
      start = time.monotonic()
      new = reparametrize.convert(
        found.model, found.params, fields, inputs, budget
      )
      seconds = round(time.monotonic() - start, 1)
      model = models.build(**new.model)
      converted = dataclasses.replace(opened, model=model, params=new.params)
      got = converted.encode(texts)
      size = sum(row['parameters'] for row in new.rows)
      yield dict(
        key_width=k,
        way=way,
        widths=new.model['attention']['shared_dim'],
        values=new.model['attention'].get('value_dims'),
        **scores(got, original, gold),
        parameters=sum(x.size for x in jax.tree.leaves(new.params)),
        attention_parameters=size,
        seconds=seconds,
      )


def scores(got: np.ndarray, original: np.ndarray, gold: list) -> dict:
  """Computes cosines to the original, and Spearman's correlation."""
  correlation = labels.correlation_scores(gold, evaluate.cosines(got))
  return dict(
    cosine=float((got * original).sum(-1).mean()),
    spearman=correlation['spearman'],
    sentences=len(got),
  )


def main() -> None:
  parser = command.Parser(__spec__, __doc__)
  add = parser.add_argument
  add('--model', required=True, help='of the checkpoint')
  add('--glue', required=True, help='folder of STS-B')
  add('--rows', type=int, default=1000, help='to look at')
  add('--pairs', type=int, default=1500, help='of the dev set')
  add('--save', action='store_true', help=f'in {RESULTS.name}')
  args = parser.parse_args()
  about = results.about(
    f'{parser.prog} --model=MODEL_DIR --glue=DIR --rows={args.rows} '
    f'--pairs={args.pairs}'
  )
  lines = []
  for row in run(args.model, args.glue, args.rows, args.pairs):
    print(json.dumps(row), flush=True)
    lines.append(json.dumps(about | dict(seed=0) | row) + '\n')
  if args.save:
    RESULTS.write_text(''.join(lines))


if __name__ == '__main__':
  with command.errors_in_a_line('minilm'):
    main()
