# SPDX-License-Identifier: Apache-2.0
r"""Draws the family of attentions: A_h, parameters, and cache under rotation.

  ./launch.sh python -m benchmarks.family

On the left is the matrix A_h by which head h makes its queries, (x Wq) A_h, for
three heads of each kind (collab/accounting/family.py). On the right is a layer
of each variant with D=768, 12 heads, no biases and rotary positions. A curve is
a variant over a width or a number of groups, and its name is at one of them.
Nothing is run: the figures are counted from shapes. Writes
benchmarks/results/family.png.
"""

import argparse
import textwrap

from matplotlib import ticker
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
import numpy as np

from benchmarks import protocol
from collab import attention
from collab.accounting import family

D, H = 768, 12
GROUPS = [dict(kv_heads=G) for G in (1, 2, 3, 4, 6, 12)]
WIDTHS = [dict(query_dim=256, head_width=C) for C in (64, 96, 128, 160)]
LATENTS = [dict(latent_dim=r, rope_dim=32) for r in (64, 128, 256)]
# {variant: its fields along the curve}.
CURVES = {
  'mha': [{}],
  'el': [{}],
  'skv': GROUPS,
  'gta': GROUPS[:-1],
  'gqa': GROUPS,
  'collab': [dict(shared_dim=k) for k in (96, 192, 384, 576)],
  'mhe_mul': [{}],
  'mhe_add': [{}],
  'sha': [{}],
  'mla': LATENTS,
  'gla': LATENTS,
  'mfa': WIDTHS,
  'mfa_kr': WIDTHS,
  'tpa': [dict(rank=R) for R in (1, 2, 3, 4)],
}
# {name: (variant, point of its curve, place of the name in points)}.
NAMES = {
  'mha': ('mha', 0, (-8, 0)),
  'el': ('el', 0, (8, 0)),
  'skv': ('skv', 5, (8, -4)),
  'gta, 4 groups': ('gta', 3, (4, -14)),
  'gqa, 4 groups': ('gqa', 3, (8, -6)),
  'mqa': ('gqa', 0, (-4, 11)),
  'collab, k=384': ('collab', 2, (8, -4)),
  'mhe_add, sha': ('mhe_add', 0, (-8, 0)),
  'mhe_mul': ('mhe_mul', 0, (8, 0)),
  'mla, r=256': ('mla', 2, (8, -2)),
  'gla, 2 latents': ('gla', 2, (8, -4)),
  'mfa, C=128': ('mfa', 2, (8, 2)),
  'mfa_kr, C=128': ('mfa_kr', 2, (-8, 4)),
  'tpa, rank 2': ('tpa', 1, (0, 13)),
}


def point(name, fields):
  """(cache in scalars a token, parameters as a share of MHA's)."""
  how = dict(num_heads=H, use_bias=False, rope={})
  mha, layer = (
    attention.build(variant, **how, **own)
    for variant, own in (('mha', {}), (name, fields))
  )
  return layer.cache_size(D), layer.count(D) / mha.count(D)


def matrices():
  """Returns {kind: A_h of three heads, [3, 6, 6]}, heads being two wide."""
  rng, one = np.random.default_rng(3), np.eye(6)
  draw = lambda *shape: rng.uniform(0.15, 1, (3, *shape))
  place = np.eye(3)[:, :, None]  # of the rows that are a head's own
  own = [np.kron(x, np.eye(2)) for x in draw(1, 3)]
  found = (
    [np.kron(np.diag(x[:, 0]), np.eye(2)) for x in place],
    draw(6, 1) * one,
    [one] * 3,
    draw(6, 1) * draw(1, 6),
    draw(6, 6),
    [np.kron(x, y) for x, y in zip(place, own, strict=True)],
  )
  return dict(zip(family.KINDS, found, strict=True))


def draw_matrices(figure):
  """Draws a row of three matrices for each kind, with its variants."""
  rows = figure.subplots(len(family.KINDS), 3)
  for axes, (kind, found) in zip(rows, matrices().items(), strict=True):
    colours = LinearSegmentedColormap.from_list(
      '', ['white', family.COLOURS[kind]]
    )
    for axis, matrix in zip(axes, found, strict=True):
      axis.imshow(matrix, colours, vmin=0, vmax=1)
      axis.set(xticks=[], yticks=[])
      axis.spines[:].set_color('#bbbbbb')
    names = textwrap.fill(', '.join(family.KINDS[kind]), 24)
    axes[0].set_ylabel(
      f'{kind}\n{names}', rotation=0, ha='right', va='center', fontsize=8
    )
  for axis, title in zip(rows[0], ('$A_1$', '$A_2$', '$A_3$'), strict=True):
    axis.set_title(title, fontsize=10)


def draw_costs(figure):
  """Draws parameters over the cache, a curve a variant."""
  axis = figure.subplots()
  found = {
    name: [point(name, fields) for fields in curve]
    for name, curve in CURVES.items()
  }
  for name, points in found.items():
    style = dict(color=family.colour(name), marker='o', ms=3, lw=1, alpha=0.5)
    axis.plot(*zip(*points, strict=True), **style)
  for label, (name, i, place) in NAMES.items():
    colour = family.colour(name)
    size = 11 if name == 'mhe_add' else 7  # it lies under mhe_mul
    axis.plot(*found[name][i], 'o', color=colour, ms=size)
    axis.annotate(
      label,
      found[name][i],
      place,
      textcoords='offset points',
      ha='left' if place[0] > 0 else 'right',
      va='center',
      color=colour,
      fontsize=9,
    )
  words = r'$2 D^2 + D \times$ cache'  # of gqa, skv, gta and tpa alike
  axis.text(500, 0.605, words, color=family.COLOURS['block'], fontsize=8)
  axis.set_xscale('log', base=2)
  axis.set(
    xlim=(48, 2400),
    ylim=(0.25, 1.05),
    xlabel='scalars in the cache for a token',
    ylabel="parameters, share of MHA's",
  )
  axis.xaxis.set_major_locator(ticker.FixedLocator([64, 128, 256, 512, 1024]))
  axis.xaxis.set_major_formatter('{x:.0f}')
  axis.minorticks_off()
  axis.spines[['top', 'right']].set_visible(False)
  axis.grid(alpha=0.3)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.parse_args()
  figure = Figure(figsize=(12, 5.4), layout='constrained')
  left, right = figure.subfigures(1, 2, width_ratios=(1, 1.8))
  draw_matrices(left)
  draw_costs(right)
  left.suptitle('$q_h = (x W_q) A_h$', fontsize=11)
  right.suptitle('A layer under rotary positions: D=768, 12 heads', fontsize=11)
  path = protocol.RESULTS / 'family.png'
  figure.savefig(path, dpi=130)
  print(f'Drawn: {path}')


if __name__ == '__main__':
  main()
