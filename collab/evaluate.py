# SPDX-License-Identifier: Apache-2.0
r"""Evaluates a model on files, without a config.

  python -m collab.evaluate DIR --text=FILE
  python -m collab.evaluate DIR --glue=mrpc --data=GLUE_DIR
  python -m collab.evaluate DIR --stsb=GLUE_DIR

DIR is the workdir of a run or of a conversion, a checkpoint of Transformers, or
a file of llama.cpp. One line is printed:

--text: perplexity of a language model. It reads windows of --length tokens,
--stride apart, in each of which those tokens count that the window before did
not reach. A tokenizer of this project reads line by line, as in training;
others read the file as a whole.
--glue: scores of a classifier on the dev set of a task of GLUE.
--stsb: correlation of the gold scores of STS-B's dev set with the cosines of an
encoder's embeddings; nothing is trained on it.
"""

import json
import pathlib
import sys

import numpy as np

import collab
from collab import checks, command, model_json, tasks
from collab.data import examples
from collab.inference.run import Run
from collab.io import text_lines
from collab.metrics import labels, tokens
from collab.tasks import glue as classification
from collab.tasks import lm

GLUE = classification.GLUE
LONGEST = dict(text=1024, glue=128)  # tokens, unless the run has its own
AT_A_TIME = 8192  # tokens of text


def perplexity(
  run: Run, path: str | pathlib.Path, length: int = 0, stride: int = 0
) -> dict[str, float]:
  """Computes the perplexity of a text.

  Args:
    run: a language model.
    path: path of a text file, plain or .gz.
    length: tokens of a window; 0 for those of the run's training, or LONGEST.
    stride: tokens from one window to the next; 0 for half of the length.

  Returns:
    dict of perplexity (of a token), word_perplexity (as in training, where an
    end of line is a word), bits_per_character and bits_per_byte; tokens, words,
    characters and bytes of the text; length and stride.

  Raises:
    ValueError: the model is of another kind, the text is empty or not UTF-8, or
      length or stride is impossible.
  """
  words, path = run.words('stream'), pathlib.Path(path)
  length = _length(run, 'text', length)
  stride = stride or (length + 1) // 2
  checks.within('stride', stride, 1, length)
  if words.ours:
    lines = [line.strip() for line in text_lines.of_path(path)]
    text = ''.join(f'{line}\n' for line in lines)
    ids = [i for x in words.encode_batch(lines) for i in [*x, words.eos_id]]
  else:
    text = text_lines.whole(path)
    ids = words.encode(text)
  if not ids:
    raise ValueError(f'{path} has no text.')
  ids = np.array(ids, words.dtype)
  number, strided = lm.strided(ids, length, stride, words.bos_id)
  documents = run.config.task.get('documents', '')

  def make(at):
    batch = strided(at)
    if not documents:
      return batch
    return batch | lm.packed(batch['tokens'], words.eos_id, documents)

  size = min(number, max(1, AT_A_TIME // length))
  windows = tasks.Pass.over(tokens.of_rows, np.arange(number), size, make)
  nll = float(run.compute(windows)['nll'].sum(dtype=float))
  counts = dict(
    tokens=len(ids),
    words=len(text.split()) + text.count('\n'),
    characters=len(text),
    bytes=len(text.encode()),
  )
  return dict(
    perplexity=tokens.perplexity(nll, counts['tokens']),
    word_perplexity=tokens.perplexity(nll, counts['words']),
    bits_per_character=nll / np.log(2) / counts['characters'],
    bits_per_byte=nll / np.log(2) / counts['bytes'],
    **counts,
    length=length,
    stride=stride,
  )


def glue(
  run: Run, subtask: str, data: str, length: int = 0
) -> dict[str, float]:
  """Computes the scores of a classifier on a task of GLUE.

  Args:
    run: an encoder with a head for as many classes as the task has. If it names
      its classes, they are matched by name, else they are taken to be in order.
    subtask: name of the task in configs/glue.py.
    data: folder of GLUE's folders.
    length: maximum number of tokens of a row; 0 for that of the run's training,
      or LONGEST.

  Returns:
    dict of the task's scores, of each dev set (MNLI has two), and examples.

  Raises:
    ValueError: there is no such task, its data is faulty, or the model has
      another head or other classes.
  """
  words = run.words('texts')
  checks.one_of('glue', subtask, GLUE.subtasks)
  task, model = GLUE.subtasks[subtask], run.model
  if (model.head, model.outputs) != (task.head, task.outputs):
    raise ValueError(
      f'{run.folder} has head={model.head!r} with outputs={model.outputs}; '
      f'{subtask} needs {task.head!r} with {task.outputs}.'
    )
  length = _length(run, 'glue', length)
  with checks.located(run.folder):
    order = model_json.places(run.meaning.classes, task.classes)
  parts, scores = GLUE.reader.local(subtask, data), {}
  for name, part in parts.val.items():
    rows = list(parts.readers[part]())
    encoded = examples.encode([x.texts for x in rows], words, length)
    found = run.compute(
      tasks.Pass.by_length(
        classification.outputs, encoded, np.arange(len(rows)), 64, length
      )
    )
    of_part = task.metric(found[:, order] if order else found, rows)
    of_part |= dict(examples=len(rows))
    scores |= {f'{k}_{name}' if name else k: x for k, x in of_part.items()}
  return scores | dict(length=length)


def stsb(run: Run, data: str) -> dict[str, float]:
  """Correlates the cosines of an encoder's embeddings with STS-B's gold scores.

  Args:
    run: a text encoder; see `Run.encode`.
    data: folder of GLUE's folders.

  Returns:
    dict of pearson, spearman, score (their mean) and pairs, of the dev set.

  Raises:
    ValueError: the model is of another kind, or the data is faulty.
  """
  run.words('texts')  # of another kind, it need not read the data
  rows = list(GLUE.reader.local('stsb', data).readers['dev']())
  found = cosines(run.encode([text for x in rows for text in x.texts]))
  scores = labels.correlation_scores(classification.gold(rows), found)
  return scores | dict(pairs=len(rows))


def cosines(embeddings: np.ndarray) -> np.ndarray:
  """Computes the cosine of rows 0 and 1, 2 and 3, ...: [2 N, D] -> [N]."""
  x = np.asarray(embeddings, np.float64)  # cosines may differ by little
  unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
  return (unit[0::2] * unit[1::2]).sum(-1)


def _length(run, kind, length):
  """Chooses the tokens of a row: as given, as in training, or LONGEST."""
  longest = run.model.longest
  own = run.config.data.get('row_length', min(LONGEST[kind], longest))
  checks.within('length', length or own, 1, longest)
  return length or own


def main(argv: list[str]) -> None:
  parser = command.Parser(__spec__, __doc__)
  add = parser.add_argument
  add('model_dir')
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument('--text', help='file of text, plain or .gz')
  what.add_argument('--glue', help='a task of GLUE', choices=GLUE.subtasks)
  what.add_argument('--stsb', help='folder of STS-B, as in GLUE')
  add('--data', help="folder of GLUE's folders, with --glue")
  add('--length', type=int, default=0, help='tokens of a window or row')
  add('--stride', type=int, default=0, help='default: half of the length')
  add('--json', action='store_true', help='print the result as JSON')
  args = parser.parse_args(argv)
  if bool(args.glue) != bool(args.data):
    raise ValueError('--glue=TASK and --data=DIR go together.')
  if args.stride and args.text is None:
    raise ValueError(f'--stride={args.stride} is for --text.')
  if args.length and args.stsb:
    raise ValueError(f'--length={args.length} is not for --stsb.')
  run = collab.load(args.model_dir)
  if args.text is not None:
    found = perplexity(run, args.text, args.length, args.stride)
  elif args.glue:
    found = glue(run, args.glue, args.data, args.length)
  else:
    found = stsb(run, args.stsb)
  print(json.dumps(found) if args.json else line(found))


def line(found: dict[str, float]) -> str:
  """Formats a result in one line."""
  return ', '.join(
    f'{name.replace("_", " ")} {x:,}'
    if isinstance(x, int)
    else f'{name.replace("_", " ")} {x:.4g}'
    for name, x in found.items()
  )


if __name__ == '__main__':
  with command.errors_in_a_line('evaluate'):
    main(sys.argv[1:])
