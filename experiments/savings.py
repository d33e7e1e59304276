# SPDX-License-Identifier: Apache-2.0
"""Makes tables of a score beside the parameters and the cache of attentions."""

from collections.abc import Iterable, Mapping

from collab import attention
from experiments import study
from experiments import table as tables
from experiments.metric import Metric

COLUMNS = 'parameters', 'cache'


def compare(
  title: str,
  text: str,
  studies: Iterable[str],
  metric: Metric,
  name: str,
  arms: Mapping[str, str],
) -> tables.Table:
  """Makes a Table of arms, with shares of what the first of them needs.

  Args:
    title, text: of the table.
    studies: names of the studies that the arms belong to.
    metric: metric.Metric.
    name: short name of its score.
    arms: {arm in the rows: its name here}.
  """
  labels = list(arms.values())
  found, shares = tables.measure(studies, metric, arms, labels[0]), {}
  if labels[0] in found:
    cache, full = _caches(studies, arms), found[labels[0]].attention
    shares = {
      label: (tables.ratio(x.attention, full), cache[label] / cache[labels[0]])
      for label, x in found.items()
    }
  rows = []
  for label in labels:
    share = [f'{x:.3f}' for x in shares.get(label, ())] or ['', '']
    row = dict(zip(('attention', *COLUMNS), (label, *share), strict=True))
    rows.append(row | tables.cells(found.get(label), metric, name))

  def draw(figure):
    axes = figure.subplots(1, 3, sharey=True, width_ratios=(2, 2, 3))
    for i, column in enumerate(COLUMNS):
      for place, label in enumerate(labels):
        if label in shares:
          x = shares[label][i]
          axes[i].barh(place, x, color='#b9c7de', height=0.7)
          axes[i].text(0.03, place, f'{x:.2f}', va='center', fontsize=9)
      axes[i].set_title(f"{column}, share of MHA's", fontsize=10)
      axes[i].set(xlim=(0, 1), xticks=[])
      axes[i].spines[['top', 'right', 'bottom']].set_visible(False)
    tables.bars(axes[2], labels, tables.differences(found))
    axes[2].axvline(0, color='#888888', lw=1)
    axes[2].set_title(f"{name} minus MHA's, 95 % interval", fontsize=10)

  return tables.Table(title, text + tables.notes([found]), rows, draw)


def _caches(studies, arms):
  """Returns {label: scalars of a token in a layer's cache}."""
  found = {}
  for run in (run for name in studies for run in study.plan(name)):
    model = study.config(run).model
    layer = attention.build(**model.attention)
    if run.arm.name in arms:
      found[arms[run.arm.name]] = layer.cache_size(model.dim)
  return found
