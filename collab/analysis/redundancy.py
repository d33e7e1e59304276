# SPDX-License-Identifier: Apache-2.0
r"""Measures how much the heads of a trained model have in common.

  python -m collab.analysis.redundancy MODEL_DIR
  python -m collab.analysis.redundancy MODEL_DIR --calibration=FILE --out=DIR

This is figure 1 of arXiv 2006.16362. The spectrum of a head's own scores,
Wq_h Wk_h^T, shows how much of its width the head needs. The spectrum of the
projections stacked over heads shows how much all heads need together. The
command writes redundancy.md and redundancy.png. With a calibration text, it
also weights the spectra by the text's inputs, and writes importance.png: what
the model loses without each head.

MODEL_DIR is a checkpoint of Hugging Face or the workdir of a run.
"""

from collections.abc import Mapping
import functools
import pathlib

import matplotlib
from matplotlib import colors
from matplotlib.figure import Figure
import numpy as np

from collab import command
from collab.analysis import spectrum
from collab.convert import calibration, heads, source
from collab.convert.decompose import input_statistics
from collab.io import atomic

SHARES = 0.90, 0.95, 0.99
WEIGHTS = 'the weights'
INPUTS = 'the weights on inputs of the text'
GAUSSIAN = 'Gaussian weights'
ABLATED = 32  # texts; each head is ablated on all of them


# Tables -----------------------------------------------------------------------


def label(path: tuple) -> str:
  """Names a layer for tables and figures: 'encoder 0' or 'decoder 0 cross'."""
  return ' '.join(
    name.removeprefix('layer_') for name in path if name != 'self_attention'
  )


def energy_table(found: Mapping) -> str:
  """Formats how many components hold each of SHARES, as a Markdown table."""
  names = 'a head', 'queries', 'keys', 'queries keysᵀ'
  rows = [('layer', *names)]
  for path, (own, _) in found.items():
    rows.append((label(path), *(_cell([curve]) for curve in own)))
  alike = {}
  for _, other in found.values():
    alike.setdefault(tuple(map(len, other)), []).append(other)
  for others in alike.values():
    cells = map(_cell, zip(*others, strict=True))
    rows.append((f'{GAUSSIAN}, mean', *cells))
  return _markdown(rows)


def _cell(curves):
  """Formats the components needed, the mean over curves of one length."""
  counts = [
    np.mean([spectrum.needed(curve, share) for curve in curves])
    for share in SHARES
  ]
  return f'{", ".join(f"{n:.0f}" for n in counts)} of {len(curves[0])}'


def ablation_table(lost: Mapping) -> str:
  """Formats the result of `heads.ablation` as Markdown, in percent."""
  H = max(map(len, lost.values()))
  rows = [('layer', *(f'head {h}' for h in range(H)))]
  for path, x in lost.items():
    cells = [*map(_percent, x)] + [''] * (H - len(x))
    rows.append((label(path), *cells))
  return _markdown(rows)


def _percent(share):
  return np.format_float_positional(100 * share, 2, fractional=False, trim='-')


def _markdown(rows):
  rows = [rows[0], ['---'] * len(rows[0]), *rows[1:]]
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


# Figures ----------------------------------------------------------------------

PANELS = {
  'one head: Wq_h Wk_hᵀ, mean over heads': {'head': '-'},
  'stacked over heads: Wq (solid), Wk (dashed)': {'query': '-', 'key': '--'},
  'stacked over heads: Wq Wkᵀ': {'product': '-'},
}


def draw_energy(file: str | pathlib.Path, kinds: Mapping) -> None:
  """Plots energy against components, a line a layer; kinds: {kind: curves}."""
  figure = Figure((12.5, 0.6 + 3.4 * len(kinds)), layout='constrained')
  grid = figure.subplots(len(kinds), len(PANELS), sharey=True, squeeze=False)
  for row, (kind, found) in zip(grid, kinds.items(), strict=True):
    row[0].set_ylabel(f'energy of {kind}')
    for axis, (title, styles) in zip(row, PANELS.items(), strict=True):
      _draw_panel(axis, found, styles)
      axis.set_title(title, fontsize=10)
      axis.set_xlabel('components')
  handles, names = grid[0, 0].get_legend_handles_labels()
  figure.legend(handles, names, loc='outside right upper', fontsize=8)
  figure.savefig(file, dpi=130)


def _draw_panel(axis, found, styles):
  colours = matplotlib.colormaps['viridis'](np.linspace(0, 0.9, len(found)))
  for name, style in styles.items():
    for i, (path, (own, other)) in enumerate(found.items()):
      own, other = getattr(own, name), getattr(other, name)
      r = np.arange(1, len(own) + 1)
      last = i == len(found) - 1
      axis.plot(r, own, style, color=colours[i], label=label(path), lw=1.3)
      axis.plot(r, other, ':', c='#888', label=GAUSSIAN if last else None, lw=1)
  axis.set(xscale='log', ylim=(0, 1.02))
  axis.margins(x=0)
  axis.xaxis.set_major_formatter('{x:.0f}')
  axis.grid(alpha=0.3)
  axis.spines[['top', 'right']].set_visible(False)


def draw_ablation(file: str | pathlib.Path, lost: Mapping) -> None:
  """Draws a heat map of `heads.ablation`, layers by heads."""
  H = max(map(len, lost.values()))
  grid = np.full((len(lost), H), np.nan)
  for row, x in zip(grid, lost.values(), strict=True):
    row[: len(x)] = np.maximum(x, 1e-12)
  size = 2.5 + 0.55 * H, 1.2 + 0.4 * len(lost)
  figure = Figure(size, layout='constrained')
  axis = figure.subplots()
  scale = colors.LogNorm(np.nanmin(grid), np.nanmax(grid))
  image = axis.imshow(grid, cmap='viridis', norm=scale, aspect='auto')
  for i, x in enumerate(lost.values()):
    for h, v in enumerate(x):
      ink = 'white' if scale(grid[i, h]) < 0.6 else 'black'
      place = dict(ha='center', va='center', fontsize=7)
      axis.text(h, i, _percent(v), color=ink, **place)
  axis.set_yticks(range(len(lost)), map(label, lost))
  axis.set_xticks(range(H))
  axis.set_xlabel('head')
  axis.set_title('Change of the hidden states without a head, %', fontsize=10)
  figure.colorbar(image, label='share of their variance')
  figure.savefig(file, dpi=130)


# The command ------------------------------------------------------------------


def analyse(folder: str, text: str, out: str) -> list[pathlib.Path]:
  """Writes the report and the figures; returns their paths.

  Args:
    folder: see source.read.
    text: see calibration.read; '' analyses the weights alone.
    out: output folder, created if it is missing.

  Raises:
    ValueError, OSError: the model cannot be read or analysed, or the output
      cannot be written.
  """
  found = source.read(folder)
  params = found.params
  kinds, lost = {WEIGHTS: spectrum.of_layers(params)}, {}
  if text:
    model, batches = calibration.read(found, text)
    inputs = input_statistics.collect(model, params, batches)
    kinds[INPUTS] = spectrum.of_layers(params, inputs)
    model, batches = calibration.read(found, text, rows=ABLATED)
    outputs = functools.partial(heads.hidden, model)
    lost = heads.ablation(outputs, params, batches)
  out = pathlib.Path(out)
  out.mkdir(parents=True, exist_ok=True)
  written = [out / 'redundancy.md', out / 'redundancy.png']
  atomic.write_text(written[0], report(folder, kinds, lost))
  draw_energy(written[1], kinds)
  if lost:
    written.append(out / 'importance.png')
    draw_ablation(written[2], lost)
  return written


def report(folder: str, kinds: Mapping, lost: Mapping) -> str:
  """Makes the text of redundancy.md."""
  shares = ', '.join(f'{100 * share:.0f}' for share in SHARES)
  parts = [f'# Heads of {pathlib.Path(folder).resolve().name}']
  for kind, found in kinds.items():
    parts.append(f'## Components that hold {shares} % of the energy of {kind}')
    parts.append(energy_table(found))
  if lost:
    parts.append(
      '## Change of the hidden states without a head, % of their variance'
    )
    parts.append(ablation_table(lost))
  return '\n\n'.join(parts) + '\n'


def main() -> None:
  parser = command.Parser(__spec__, __doc__)
  add = parser.add_argument
  add('model_dir', help="a folder of Hugging Face's, or the workdir of a run")
  add('--calibration', default='', help="text, a line each; or 'train'")
  add('--out', default='redundancy', help='folder')
  with command.errors_in_a_line('redundancy'):
    args = parser.parse_args()
    for file in analyse(args.model_dir, args.calibration, args.out):
      print(file)


if __name__ == '__main__':
  main()
