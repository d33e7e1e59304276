# SPDX-License-Identifier: Apache-2.0
"""The steps at which a run logs, evaluates, saves and is traced."""

import pytest

from collab.runtime import plan
from tests import tiny


@pytest.mark.parametrize(
  'what, steps', [('log', [1, 3, 6, 7]), ('eval', [5, 7]), ('checkpoint', [7])]
)
def test_due(what, steps):
  every = dict(every__log=3, every__eval=5, every__checkpoint=7)
  config = tiny.config('corpus', total_steps=7, **every)
  assert [x for x in range(1, 8) if plan.due(config, what, x)] == steps


def test_traced():
  config = tiny.config('corpus', total_steps=7)
  assert plan.traced(config, '2:5', False) == range(2, 5)
  assert plan.traced(config, '1:8', False) == range(1, 8)  # all of them
  assert not plan.traced(config, '', True)


@pytest.mark.parametrize(
  'profile',
  [
    '5', '5:', ':5', '0:3', '3:3', '4:2', '-1:3', '2:9', '1:2:3', '1.5:3',
    '²:3', '1:10000000000', ' 1:3',
  ],
)  # fmt: skip
def test_traced_refuses(profile):
  config = tiny.config('corpus', total_steps=7)
  with pytest.raises(ValueError, match='expected FIRST:END') as e:
    plan.traced(config, profile, False)
  assert str(e.value).startswith(f'--profile={profile};')
  assert str(e.value).endswith('of the steps 1 to 7.')


@pytest.mark.parametrize(
  'name, value',
  [
    ('optim__lr', float('nan')),
    ('task__alpha', float('inf')),
    ('accumulate', 0),
    ('data__row_length', 0),
    ('seed', 2**32),
    ('seed', -1),
  ],
)
def test_impossible_values_are_named(name, value):
  config = tiny.config('corpus', **{name: value})
  field = name.replace('__', '.')
  with pytest.raises(ValueError, match=f'^{field}={value}; expected'):
    plan.check(config)


def test_nothing_is_traced_of_an_evaluation():
  config = tiny.config('corpus', total_steps=7)
  with pytest.raises(ValueError, match='--eval_only trains nothing'):
    plan.traced(config, '2:5', True)
