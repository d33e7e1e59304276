# SPDX-License-Identifier: Apache-2.0
"""SuperGLUE: its sub-tasks, for the classification task of glue.py."""

from collections.abc import Sequence
import functools

import numpy as np

from collab.data.examples import Example
from collab.data.readers import superglue
from collab.metrics import labels
from collab.tasks.glue import ACCURACY, Benchmark, Family, Subtask, gold


def by_question(
  outputs: np.ndarray, rows: Sequence[Example]
) -> dict[str, float]:
  """Scores MultiRC, where several answers of a question may be right."""
  groups = [example.group for example in rows]
  return labels.answer_scores(gold(rows), outputs.argmax(-1), groups)


def by_entity(outputs: np.ndarray, rows: Sequence[Example]) -> dict[str, float]:
  """Scores ReCoRD by a question's most probable entity; see `labels`.

  Among equally probable entities the first is used.
  """
  best = {}
  for example, margin in zip(rows, outputs[:, 1] - outputs[:, 0], strict=True):
    if example.group not in best or margin > best[example.group][0]:
      best[example.group] = margin, *example.extra
  return labels.entity_scores([row[1:] for row in best.values()])


def by_class_f1(
  outputs: np.ndarray, rows: Sequence[Example]
) -> dict[str, float]:
  """Scores CommitmentBank, whose F1 is the mean over the classes."""
  return labels.f1_scores(gold(rows), outputs.argmax(-1), 'macro')


BOOLS = ('False', 'True')
SUPERGLUE = Family(
  superglue,
  dict(
    boolq=Subtask(ACCURACY, 'same', classes=BOOLS),
    cb=Subtask(by_class_f1, 'relation', 3, classes=superglue.CB),
    copa=Subtask(ACCURACY, 'choice', head='choice'),
    multirc=Subtask(by_question, 'answers', classes=BOOLS),
    record=Subtask(by_entity, 'entities', classes=BOOLS),
    rte=Subtask(ACCURACY, 'same', classes=superglue.RTE),
    wic=Subtask(ACCURACY, 'same', classes=BOOLS),
    wsc=Subtask(ACCURACY, 'family', classes=BOOLS),
  ),
)

build = functools.partial(Benchmark, family=SUPERGLUE)
