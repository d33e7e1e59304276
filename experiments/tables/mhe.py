# SPDX-License-Identifier: Apache-2.0
"""MHE against its baselines: 2310.07911, the tables of scores, PRR and PEoP.

The paper's scores could not be recovered, so there is no column of them. Ours
are small models of other data sets, and on GLUE a MiniLM that was converted and
not trained from scratch. The scale differs; the tables of the tasks say more.
PRR is the score over MHA's; for a perplexity or bits it is 1 - (ppl - ppl_MHA)
/ ppl_MHA. PEoP is our reading of the paper: the relative gain over SHA's score,
divided by the relative increase of attention's parameters. It is high where few
parameters buy much. p is against MHA; for BLEU it is sacreBLEU's. What is not
in the table was not run.
"""

import textwrap
from typing import NamedTuple

from experiments import metric
from experiments import table as tables
from experiments.tables import glue_reparametrised

ATTENTIONS = 'mha', 'skv', 'mqa', 'el', 'sha', 'mhe_add', 'mhe_mul', 'collab'


class Task(NamedTuple):
  """A task in the table: what the paper ran, and what we did.

  Attributes:
    title: name of the task.
    ours: our data set.
    studies: our studies; none if we have no run.
    of: metric of the task.
    prefix: prefix of the names of arms.
    baseline: the arm with multi-head attention.
  """

  title: str
  ours: str = ''
  studies: tuple = ()
  of: metric.Metric | None = None
  prefix: str = ''
  baseline: str = 'mha'


def _glue(name, of):
  ours = f'{name.upper()}, MiniLM that is converted'
  return Task('GLUE', ours, ('glue',), of, f'{name}-', 'original')


def _pretrained(name):
  of, ours = glue_reparametrised.METRICS[name], f'{name.upper()}, pre-trained'
  return Task('GLUE', ours, ('finetune',), of, f'{name}-')


TASKS = [
  Task('WMT-14', 'Multi30k', ('translation',), metric.BLEU),
  Task('WikiText-103', 'books', ('noise', 'family_recipe'), metric.BITS),
  Task('PTB', 'Penn Treebank', ('ptb',), metric.PERPLEXITY),
  *map(_pretrained, ('sst2', 'mrpc', 'stsb')),
  *(_glue(name, of) for name, of in glue_reparametrised.METRICS.items()),
  Task('(not in the paper)', 'Fashion-MNIST', ('vision',), metric.TOP1),
  *map(Task, ('SuperGLUE', 'SQuAD')),
]


def prr(score: float, mha: float, lower: bool = False) -> float:
  """Computes the performance retention ratio."""
  share = tables.ratio(score, mha)
  return 2 - share if lower else share


def peop(one: tuple, sha: tuple, lower: bool = False) -> float:
  """Computes the performance elasticity of parameters, (score, parameters)."""
  gain = tables.ratio(one[0], sha[0]) - 1
  more = tables.ratio(one[1], sha[1]) - 1
  return tables.ratio(-gain if lower else gain, more)


def table() -> tables.Table:
  rows, measured = [], {}
  for task in TASKS:
    found = {}
    if task.studies:
      arms = {task.prefix + name: name for name in ATTENTIONS[1:]}
      arms = {task.prefix + task.baseline: 'mha'} | arms
      measured[task] = found = tables.measure(task.studies, task.of, arms)
    rows += [_row(task, name, found) for name in found or ['']]

  def draw(figure):
    shown = {k: found for k, found in measured.items() if 'mha' in found}
    panels = figure.subplots(1, max(1, len(shown)), sharey=True, squeeze=False)
    for axis, (task, found) in zip(panels[0], shown.items(), strict=False):
      places = [ATTENTIONS.index(name) for name in found]
      values = [100 * _prr(one, found, task) for one in found.values()]
      axis.plot(values, places, 'o')
      axis.axvline(100, color='#888888', lw=1, zorder=0)
      axis.margins(x=0.15)
      axis.set_title(textwrap.fill(task.ours, 14), fontsize=8)
      tables.label_rows(axis, ATTENTIONS)
    figure.supxlabel('PRR, %', fontsize=10)

  title = 'Head embeddings against their baselines'
  return tables.Table(title, __doc__, rows, draw)


def _row(task, name, found):
  one, sha = found.get(name), found.get('sha')
  retained = gain = ''
  if one and 'mha' in found:
    retained = f'{100 * _prr(one, found, task):.1f}'
  if one and sha and one.attention != sha.attention:
    pairs = [(x.interval.mean, x.attention) for x in (one, sha)]
    gain = f'{peop(*pairs, task.of.lower):.3f}'
  return {
    'paper': task.title,
    'ours': task.ours,
    'score': task.of.title if task.of else '',
    'attention': name,
    **tables.cells(one, task.of),
    'PRR, %': retained,
    'PEoP': gain,
  }


def _prr(one, found, task):
  base = found['mha'].interval.mean
  return prr(one.interval.mean, base, task.of.lower)
