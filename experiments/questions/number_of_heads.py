# SPDX-License-Identifier: Apache-2.0
"""What do 8 to 128 heads cost, in time and memory?

The papers stop at 16. One layer, forward and backward, 256 tokens, one CPU
core, float32: with heads that are 16 wide, so that more of them make a wider
model; and with 1,024 for all heads together, which more of them divide. Memory
is that of temporaries, as XLA plans it; its slope is 1 if it is proportional to
the number of heads, 0 if it does not depend on it. Times are medians of three
rounds on a core that other work shared, more at some numbers of heads than at
others: so their slope is that of the share of MHA's, above 0 where more heads
cost more than they cost MHA. In brackets is the share with 128 heads. What more
heads are worth in quality, models of this size cannot tell.

**A single head is what saves memory.** With 1,024 for all heads SHA needs 8 MiB
at 8 and at 128 heads, a tenth of MHA's at 128, as its scores exist once. All
others but Linformer grow with the scores of each head, by a slope of 0.5 to
0.8: MHA, too, and MHE-ADD. MHE-ADD takes less than a third of MHA's time with
128 heads, MHE-MUL six tenths, and collaborative attention, whose scores are
wider for every head, three times as long.
"""

from benchmarks import heads, protocol
from collab.io import json_text
from experiments import table as tables


def table() -> tables.Table:
  """Makes the table of slopes over the number of heads."""
  path = protocol.RESULTS / 'heads.json'
  figures = json_text.read_object(path, figures=dict)['figures']
  rows = []
  for name in figures['width of a head']:
    row = {'attention': name}
    for title, found in figures.items():
      most = str(max(map(int, found[name])))
      for key, label in heads.MEASURES.items():
        shares = _shares(found, name, key)
        slope = heads.slope(shares if key == 'ms' else found[name], key)
        share = f'({shares[most][key]:.2f})'
        row[f'{label}, constant {title}'] = f'{slope:+.2f} {share}'
    rows.append(row)

  def draw(figure):
    axes = figure.subplots(2, 2, sharex=True)
    figure.set_figheight(7)
    for i, (title, found) in enumerate(figures.items()):
      for j, (key, label) in enumerate(heads.MEASURES.items()):
        axis = axes[i, j]
        for n, (name, of) in enumerate(found.items()):
          shown = _shares(found, name, key) if key == 'ms' else of
          y = [x[key] for x in shown.values()]
          style = dict(color=f'C{n % 10}', dashes=(4, 2) if n > 9 else (1, 0))
          axis.plot(list(map(int, of)), y, label=name, **style)
        axis.set(xscale='log', yscale='log', title=f'{label}, constant {title}')
        axis.set(ylabel="share of MHA's" if key == 'ms' else 'MiB')
        axis.set_xticks(heads.HEADS, map(str, heads.HEADS))
        axis.minorticks_off()
        tables.tidy(axis)
    axes[1, 0].set(xlabel='heads')
    axes[1, 1].set(xlabel='heads')
    tables.legend(axes[0, 1], fontsize=8)

  return tables.Table('What many heads cost', __doc__, rows, draw)


def _shares(found, name, key):
  """Returns {number of heads: {key: share of MHA's}}."""
  mha = found['mha']
  return {H: {key: x[key] / mha[H][key]} for H, x in found[name].items()}
