# SPDX-License-Identifier: Apache-2.0
"""Draws the shares of layers in a file of benchmarks.accelerator.

./launch.sh python -m benchmarks.accelerator_figure FILE.jsonl OUT.png
"""

import argparse
import json
import pathlib

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('file', type=pathlib.Path)
  parser.add_argument('out', type=pathlib.Path)
  args = parser.parse_args()
  first, *rows = map(json.loads, args.file.read_text().splitlines())
  groups = {}
  for row in rows:
    if row.get('section') == 'layers' and 'share' in row:
      groups.setdefault(row['group'], {})[row['case']] = row
  if not groups:
    parser.exit(1, f'{args.file} has no shares of layers.\n')
  most = max(map(len, groups.values()))
  figure, axes = plt.subplots(
    1,
    len(groups),
    figsize=(3.6 * len(groups) + 1, 0.22 * most + 1.2),
    squeeze=False,
    layout='constrained',
  )
  for axis, (title, cases) in zip(axes[0], groups.items(), strict=True):
    shares = [row['share'] for row in cases.values()]
    bars = axis.barh(list(cases), shares, color='#3b6fb6')
    labels = [f'{x["share"]:.2f}  ({x["ms"]:.3g} ms)' for x in cases.values()]
    axis.bar_label(bars, labels, padding=3, fontsize=7)
    axis.axvline(1, color='#888888', linewidth=0.8)
    axis.set_title(title, fontsize=9)
    axis.set_xlim(0, 1.5 * max(shares))
    axis.tick_params(labelsize=7)
    axis.spines[['top', 'right']].set_visible(False)
    axis.invert_yaxis()
  (base,) = (k for k, x in cases.items() if x['share'] == 1)
  about = first['environment']
  figure.supxlabel(
    f'forward + backward of a layer, bfloat16, causal: share of "{base}" '
    f'({about["card"]}, jax {about["jax"]}, {about["date"]})',
    fontsize=8,
  )
  figure.savefig(args.out, dpi=130)
  print(f'Drawn: {args.out}')


if __name__ == '__main__':
  main()
