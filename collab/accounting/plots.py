# SPDX-License-Identifier: Apache-2.0
"""Plots the cost of attention against sequence length and number of heads."""

from collections.abc import Mapping
import pathlib

from matplotlib.figure import Figure
import numpy as np

from collab import attention, models
from collab.accounting import family, layer

MARKERS = 'osD^v<>PX*phdH8+x1234'
# Fields of variants that are shares of D, or of the number of heads.
SHARES = 'shared_dim', 'query_dim', 'latent_dim', 'key_features', 'kv_heads'
LENGTHS = [2**n for n in range(5, 15)]
HEADS = [2**n for n in range(8)]  # the MHE paper stops at 16


def draw(
  found: Mapping[str, models.Model], title: str, path: str | pathlib.Path
) -> None:
  """Writes a PNG of costs as shares of the cost of multi-head attention.

  Args:
    found: {variant: model}, with equal width and number of heads, mha first.
    title: title of the figure.
    path: path of the file.
  """
  figure = Figure(figsize=(12, 5), layout='constrained')
  left, right = figure.subplots(1, 2)
  flops, parameters = {}, {}
  for name, model in found.items():
    fields = model.attentions()[0].each()[0]
    heads, D = fields['num_heads'], model.dim
    a, b = layer.polynomial(fields, D)
    flops[name] = [a + b * T for T in LENGTHS]
    parameters[name] = [_parameters(fields, H, D // heads) for H in HEADS]
  _shares(left, LENGTHS, flops)
  left.set(xlabel='tokens', title=f'Forward FLOPs, D={D}, {heads} heads')
  _shares(right, HEADS, parameters)
  right.set(xlabel='heads', title=f'Parameters, heads of width {D // heads}')
  right.legend(
    fontsize=9, frameon=False, loc='center left', bbox_to_anchor=(1, 0.5)
  )
  figure.suptitle(f'{title}: one layer, share of multi-head attention')
  figure.savefig(path, dpi=130)


def _shares(axes, x, curves):
  """Draws each curve divided by the first one.

  Kinds of the family have colours, and variants have markers. Coinciding curves
  all remain visible: later ones are thinner, with smaller markers at other
  places.
  """
  base, n = next(iter(curves.values())), len(curves)
  for i, (name, curve) in enumerate(curves.items()):
    share = [y / y0 for y, y0 in zip(curve, base, strict=True)]
    axes.plot(
      x,
      share,
      label=name,
      color=family.colour(name),
      marker=MARKERS[i % len(MARKERS)],
      markevery=(i / n / len(x), 0.34),
      markersize=8 - 4 * i / n,
      linewidth=4 - 3 * i / n,
    )
  axes.set_xscale('log', base=2)
  axes.set_yscale('log', base=2)
  axes.yaxis.set_major_formatter('{x:g}')
  axes.spines[['top', 'right']].set_visible(False)
  axes.grid(alpha=0.3)


def _parameters(fields, H, width):
  """Counts the parameters of a layer of H heads, in a model as wide as these.

  A field that is a share of D (a key width) keeps that share, as nearly as
  integers can; kv_heads is rounded down to a divisor of H, and latent_dim to a
  multiple of kv_heads. value_dims are repeated.
  """
  scaled = {
    name: max(1, round(fields[name] * H / fields['num_heads']))
    for name in SHARES
    if fields.get(name)
  }
  if most := scaled.get('kv_heads'):
    G = max(n for n in range(1, most + 1) if H % n == 0)
    scaled['kv_heads'] = G
    if r := scaled.get('latent_dim'):  # which G has to divide
      scaled['latent_dim'] = max(1, r // G) * G
  if widths := fields.get('value_dims'):
    scaled['value_dims'] = tuple(np.resize(widths, H).tolist())
  one = attention.build(**fields | dict(num_heads=H) | scaled)
  return one.count(H * width)
