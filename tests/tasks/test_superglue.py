# SPDX-License-Identifier: Apache-2.0
"""SuperGLUE's sub-tasks: heads, groups, and evaluation as of test_glue."""

import jax
import numpy as np
import pytest

from collab import models
from collab.data.examples import Example
from collab.tasks import superglue
from tests import tiny
from tests.data.test_superglue_files import write
from tests.tasks import test_glue
from tests.tasks.test_glue import (
  check_evaluation,  # noqa: F401, a fixture
  check_not_finite,
  few,  # noqa: F401, a fixture
)


def task(subtask, folder, **kwargs):
  return test_glue.task(subtask, folder, build=superglue.build, **kwargs)


@pytest.mark.parametrize('subtask', superglue.SUPERGLUE.subtasks)
def test_samples(subtask, tmp_path, check_evaluation):  # noqa: F811
  it = task(subtask, tmp_path)
  tokens = it.batch(0)['tokens']
  assert tokens.shape == ((6, 2, 23) if subtask == 'copa' else (6, 23))
  check_evaluation(it)


@pytest.mark.parametrize('subtask', superglue.SUPERGLUE.subtasks)
def test_published_files(subtask, tmp_path):
  files = write(tmp_path / 'files')
  it = task(subtask, tmp_path, path=str(files), batch_size=1)
  fake = test_glue.Fake(it._subtask.outputs, it._subtask.head)
  scores, examples = tiny.evaluate(it, fake, {}, 'test')
  assert scores == tiny.evaluate(it, fake, {}, 'val')[0]
  assert 0 <= scores['score'] <= 1


def test_choices_with_an_encoder(tmp_path):
  it = task('copa', tmp_path)
  assert it.model_kwargs['head'] == 'choice'
  model = models.build('encoder', **test_glue.MODEL, **it.model_kwargs)
  batch = it.batch(0)
  init = jax.jit(model.init)
  params = init(jax.random.key(0), batch)['params']
  total, weight, aux = it.loss(model, params, batch, {})
  assert float(weight) == 6
  assert 2 < float(total) < 8  # about 6 log 2
  assert 0 <= float(aux['accuracy']) <= 6
  assert 0 <= tiny.evaluate(it, model, params, 'val')[0]['score'] <= 1


def test_by_entity():
  """The most probable of a question, the first of equals."""

  def example(group, name):
    return Example((), 0, group, (name, ('Bo', 'the Ann')))

  rows = [example(0, 'Ann'), example(0, 'Cy'), example(1, 'Cy')]
  rows += [example(1, 'Bo'), example(2, 'Cy'), example(2, 'Bo')]
  outputs = np.array([[0, 1], [0, 0.5], [3, 1], [0, 0], [1, 1], [2, 2]])
  scores = superglue.by_entity(outputs, rows)
  assert scores['exact_match'] == pytest.approx(2 / 3)
  assert scores['f1'] == pytest.approx(2 / 3)


def test_a_passage_without_entities_stays_in_the_mean():
  rows = [Example((), 1, 0, ('Bo', ('Bo',))), Example((), 0, 1, ('', ('Al',)))]
  scores = superglue.by_entity(np.array([[0, 1], [0, 1]]), rows)
  assert scores == dict(exact_match=0.5, f1=0.5, score=0.5)


@pytest.mark.parametrize('wrong', [np.nan, np.inf])
@pytest.mark.parametrize('subtask', superglue.SUPERGLUE.subtasks)
def test_outputs_that_are_not_finite_have_no_score(subtask, wrong, tmp_path):
  check_not_finite(task(subtask, tmp_path), wrong)


def test_by_question():
  pairs = [(1, 'a'), (0, 'a'), (1, 'b'), (1, 'b')]
  rows = [Example((), label, group) for label, group in pairs]
  outputs = np.array([[0, 1], [1, 0], [0, 1], [1, 0]])
  scores = superglue.by_question(outputs, rows)
  assert scores['exact_match'] == 0.5
  assert scores['f1a'] == pytest.approx(0.8)
