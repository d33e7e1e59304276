# SPDX-License-Identifier: Apache-2.0
r"""Draws the times of layers beside each other, as shares of one of them.

  ./launch.sh python -m benchmarks.figure  # of benchmarks.attention --save
  ./launch.sh python -m benchmarks.figure FILE.jsonl  # of .accelerator --out

The picture is a .png of the same name.
"""

import argparse
import json
import pathlib

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


def of_attention(path):
  """({title: {layer: ms}}, base, caption) of benchmarks.attention."""
  kept = json.loads(path.read_text())
  groups = {
    title.removeprefix('layer, '): {
      name: figures['forward_backward'][name]['ms'] for name in SHOWN
    }
    for title, figures in kept['figures'].items()
    if title.startswith('layer')
  }
  return groups, 'linen', f'D=768, 12 heads, float32, {kept["cores"]} CPU cores'


def of_accelerator(path):
  """The same of benchmarks.accelerator."""
  first, *rows = map(json.loads, path.read_text().splitlines())
  groups = {}
  for row in rows:
    if row.get('section') == 'layers' and 'share' in row:
      groups.setdefault(row['group'], {})[row['case']] = row['ms']
  about = first['environment']
  words = f'{about["card"]}, jax {about["jax"]}, {about["date"]}'
  return groups, 'mha', f'bfloat16, causal; {words}'


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  committed = protocol.RESULTS / 'attention.json'
  parser.add_argument('file', nargs='?', type=pathlib.Path, default=committed)
  file = parser.parse_args().file
  read = of_attention if file.suffix == '.json' else of_accelerator
  groups, base, caption = read(file)
  if not groups:
    parser.exit(1, f'{file} has no times of layers.\n')
  figure, axes = plt.subplots(
    1,
    len(groups),
    figsize=(3.7 * len(groups), 1.2 + 0.3 * max(map(len, groups.values()))),
    squeeze=False,
    layout='constrained',
  )
  for axis, (title, ms) in zip(axes[0], groups.items(), strict=True):
    shares = {name: x / ms[base] for name, x in ms.items()}
    colours = ['#888888' if name == base else '#3b6fb6' for name in ms]
    bars = axis.barh(list(ms), list(shares.values()), color=colours)
    labels = [f'{shares[name]:.2f}  ({ms[name]:.3g} ms)' for name in ms]
    axis.bar_label(bars, labels, padding=3, fontsize=8)
    axis.set_title(title, fontsize=10)
    axis.set_xlim(0, 1.55 * max(shares.values()))
    axis.spines[['top', 'right']].set_visible(False)
    axis.invert_yaxis()
  figure.supxlabel(
    f"forward + backward time of the whole layer, share of {base}'s "
    f'({caption})',
    fontsize=9,
  )
  path = file.with_suffix('.png')
  figure.savefig(path, dpi=130)
  print(f'Drawn: {path}')


if __name__ == '__main__':
  main()
