# SPDX-License-Identifier: Apache-2.0
r"""Compares what each attention variant would cost in the model of a config.

  python -m collab.accounting --config=configs/lm.py
  python -m collab.accounting --config=configs/decoder.py  # rotary positions
  python -m collab.accounting --config=configs/wmt14.py:small --length=512

Nothing is trained and no data is read. A table is printed, and accounting.md
and accounting.png are written to --out (default runs/accounting/<config>). A
variant takes its fields from the config where the config has them, else the
defaults of its family. All figures are those of the attention layers alone,
because variants differ in nothing else:

  A_h                the matrix that tells heads apart, see family.py
  forward, training  FLOPs of the matrix products for one sequence of `length`
                     tokens; training is forward and backward, with whatever is
                     recomputed
  activations        bytes kept for the backward pass
  prefill, decode    FLOPs to fill a cache with `length` tokens, and to decode
                     one more
  cache              bytes of a full cache
  T*                 number of tokens below which the forward pass of a layer
                     (bidirectional) takes fewer FLOPs than that of multi-head
                     attention
"""

from collections.abc import Mapping
import contextlib
import math
import pathlib
import runpy
import sys

from ml_collections import ConfigDict
from tqdm import tqdm

from collab import accounting, attention, catalog, checks, command, models
from collab.accounting import family, layer, plots
from collab.io import atomic

# The variant and its parameters, then the fields of layer.Cost in order.
HEAD = (
  'variant', 'A_h', 'parameters', 'share', 'forward', 'training', 'activations',
  'prefill', 'decode', 'cache', 'T*',
)  # fmt: skip


def main(argv: list[str]) -> None:
  args = _parse(argv)
  path, _, argument = args.config.partition(':')
  found, length = variants(path, argument)
  length = args.length or length
  rows = {}
  for name, one in tqdm(found.items(), 'counting', leave=False, disable=None):
    first = one.attentions()[0].each()[0]
    even = layer.break_even(first, one.dim)
    rows[name] = accounting.attention_cost(one, length), even
  text = table(rows)
  dtype = found['mha'].block.dtype
  title = f'{args.config}: attention over {length:,} tokens, {dtype}'
  print(f'{title}\n\n{text}')
  out = pathlib.Path(args.out or f'runs/accounting/{pathlib.Path(path).stem}')
  out.mkdir(parents=True, exist_ok=True)
  atomic.write_text(out / 'accounting.md', f'# {title}\n\n{text}\n')
  plots.draw(found, title.split(':')[0], out / 'accounting.png')
  print(f'\nIn {out}: accounting.md, accounting.png')


def variants(
  path: str | pathlib.Path, argument: str
) -> tuple[dict[str, models.Model], int]:
  """Returns ({variant: model}, tokens of a sequence) for a config's family.

  The first variant is mha.

  Raises:
    ValueError: the config does not exist, or raises an error.
  """
  path = catalog.config_file(path)
  thick = path.with_stem(path.stem.split('_')[0])
  given = argument.split(',')
  base = _config(path, given)
  words = [x for x in given if x not in attention.names()]
  plain = [x for x in words if '=' not in x]  # fields belong to one variant
  own, found = base.model.attention.name, {}
  for name in family.ordered(dict.fromkeys([*attention.names(), own])):
    if name == own:
      found[name] = model(base)
      continue
    for some in (words, plain):
      with contextlib.suppress(ValueError):  # a config may have no variants
        found[name] = model(_config(thick, [name, *some]))
        break
  found = {'mha': accounting.with_mha(found[own])} | found
  return found, accounting.tokens(found[own], base.data)


def table(rows: Mapping[str, tuple[layer.Cost, float]]) -> str:
  """Formats {variant: (Cost, T*)} as a Markdown table with SI prefixes."""
  mha = next(iter(rows.values()))[0]
  lines = []
  for name, (cost, even) in rows.items():
    share = cost.parameters / mha.parameters
    figures = [accounting.si(x) for x in cost[1:]]
    if not cost.cache:  # the model does not decode
      figures[3:] = [''] * 3
    tokens = f'{even:.0f}' if even else '-'
    tokens = 'always' if math.isinf(even) else tokens
    size = f'{cost.parameters:,}', f'{share:.3f}'
    lines.append([name, family.kind(name), *size, *figures, tokens])
  widths = [max(map(len, column)) for column in zip(HEAD, *lines, strict=True)]
  lines = [HEAD, ['-' * w for w in widths], *lines]
  return '\n'.join(
    f'| {" | ".join(c.rjust(w) for c, w in zip(line, widths, strict=True))} |'
    for line in lines
  )


def _config(path, words):
  """Runs a config file, which is the user's program, with some words."""
  with checks.located(f'{path} fails', Exception):
    return runpy.run_path(str(path))['get_config'](','.join(words))


def model(config: ConfigDict) -> models.Model:
  """Builds the model of a config, without its data."""
  return models.outline(config.data, **config.model.to_dict())


def _parse(argv):
  parser = command.Parser(__spec__, __doc__)
  parser.add_argument('--config', required=True, help='configs/FILE.py[:...]')
  parser.add_argument('--length', type=int, help="default: the config's")
  parser.add_argument('--out', default='', help='folder')
  args = parser.parse_args(argv)
  if args.length is not None:
    checks.at_least('--length', args.length, 1)
  return args


if __name__ == '__main__':
  with command.errors_in_a_line('accounting'):
    main(sys.argv[1:])
