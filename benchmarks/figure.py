# SPDX-License-Identifier: Apache-2.0
r"""Draws benchmarks/results/attention.png from attention.json.

./launch.sh python -m benchmarks.figure
"""

import json
import os

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt

from benchmarks import protocol

SHOWN = (
  'linen',
  'mha',
  'collab, k=192',
  'gqa, 4 heads',
  'mqa',
  'mhe_mul',
  'mhe_add',
  'sha',
)


def main():
  kept = json.loads((protocol.RESULTS / 'attention.json').read_text())
  layers = {k: v for k, v in kept['figures'].items() if k.startswith('layer')}
  figure, axes = plt.subplots(
    1, len(layers), figsize=(11, 3.6), sharey=True, layout='constrained'
  )
  for axis, (title, figures) in zip(axes, layers.items(), strict=True):
    times = {name: figures['forward_backward'][name]['ms'] for name in SHOWN}
    shares = [times[name] / times['linen'] for name in SHOWN]
    colours = ['#888888'] + ['#3b6fb6'] * (len(SHOWN) - 1)
    bars = axis.barh(SHOWN, shares, color=colours)
    labels = [
      f'{share:.2f}  ({times[name]:.0f} ms)'
      for name, share in zip(SHOWN, shares, strict=True)
    ]
    axis.bar_label(bars, labels, padding=3, fontsize=8)
    axis.set_title(title.removeprefix('layer, '), fontsize=10)
    axis.set_xlim(0, 1.55)
    axis.spines[['top', 'right']].set_visible(False)
  axes[0].invert_yaxis()
  figure.supxlabel(
    "forward + backward time of the whole layer, share of linen's "
    f'(D=768, 12 heads, float32, {kept["cores"]} CPU cores)',
    fontsize=9,
  )
  path = protocol.RESULTS / 'attention.png'
  figure.savefig(path, dpi=130)
  print(f'Drawn: {os.path.relpath(path)}')


if __name__ == '__main__':
  main()
