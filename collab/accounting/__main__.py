# SPDX-License-Identifier: Apache-2.0
r"""What the attention of every variant costs in the model of a config.

  python -m collab.accounting --config=configs/lm.py
  python -m collab.accounting --config=configs/wmt14.py:small --length=512

Variants have the config's fields where they have them, else their family's.
Prints a table and writes accounting.md and accounting.png to --out (default
runs/accounting/<config>). Nothing is trained, no data is read. All figures are
of the attention layers alone, which is what variants differ in:

  forward, training  FLOPs of matrix products, one sequence of `length` tokens;
                     training is forward and backward with what is recomputed
  activations        bytes kept for the backward pass
  prefill, decode    FLOPs to fill a cache with `length` tokens, and of one more
  cache              bytes, full
  T*                 tokens below which a layer's forward pass (bidirectional)
                     takes fewer FLOPs than multi-head attention's
"""

import contextlib
import dataclasses
import math
import pathlib
import runpy
import sys

from tqdm import tqdm

from collab import accounting, attention, command, models
from collab.accounting import layer, plots
from collab.io import atomic

# Name and parameters, then as layer.Cost has its fields.
HEAD = (
  'variant', 'parameters', 'share', 'forward', 'training', 'activations',
  'prefill', 'decode', 'cache', 'T*',
)  # fmt: skip


def main(argv):
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


def variants(path, argument):
  """({variant: model}, tokens of a sequence) of a config's family.

  mha is the first.

  Raises:
    ValueError: no such config, or one that fails.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f'There is no config {path}.')
  family = path.with_stem(path.stem.split('_')[0])
  given = argument.split(',')
  base = _config(path, given)
  words = [x for x in given if x not in attention.names()]
  plain = [x for x in words if '=' not in x]  # without fields of another's
  own, found = base.model.attention.name, {}
  for name in dict.fromkeys(['mha', *attention.names(), own]):
    if name == own:
      found[name] = model(base)
      continue
    for some in (words, plain):
      with contextlib.suppress(ValueError):  # a config may know no variants
        found[name] = model(_config(family, [name, *some]))
        break
  found = {'mha': accounting.with_mha(found[own])} | found
  return found, accounting.tokens(found[own], base.data)


def table(rows):
  """Markdown of {variant: (Cost, T*)}; FLOPs and bytes with SI prefixes."""
  mha = next(iter(rows.values()))[0]
  lines = []
  for name, (cost, even) in rows.items():
    share = cost.parameters / mha.parameters
    figures = [accounting.si(x) for x in cost[1:]]
    if not cost.cache:  # of a model that does not decode
      figures[3:] = [''] * 3
    tokens = f'{even:.0f}' if even else '-'
    tokens = 'always' if math.isinf(even) else tokens
    size = f'{cost.parameters:,}', f'{share:.3f}'
    lines.append([name, *size, *figures, tokens])
  widths = [max(map(len, column)) for column in zip(HEAD, *lines, strict=True)]
  lines = [HEAD, ['-' * w for w in widths], *lines]
  return '\n'.join(
    f'| {" | ".join(c.rjust(w) for c, w in zip(line, widths, strict=True))} |'
    for line in lines
  )


def _config(path, words):
  """What a config file, a program of the user's, makes of some words."""
  try:
    get_config = runpy.run_path(str(path)).get('get_config')
    if get_config is None:
      raise ValueError(f'{path} is no config: it has no get_config.')
    return get_config(','.join(words))
  except ValueError:
    raise
  except Exception as e:  # as, away from its project, No module named 'configs'
    raise ValueError(f'{path} fails: {type(e).__name__}: {e}.') from e


def model(config):
  """The model of a config; what data decides does not matter to attention."""
  fields = config.model.to_dict()
  data, given = config.data.to_dict(), (*fields, 'block', 'parent')
  open_ = {
    f.name: data.get(f.name, 1)
    for f in dataclasses.fields(models.find(fields['name']))
    if f.default is dataclasses.MISSING and f.name not in given
  }
  return models.build(**fields, **open_)


def _parse(argv):
  parser = command.Parser(
    prog='python -m collab.accounting', description=__doc__
  )
  parser.add_argument('--config', default='', help='configs/FILE.py[:...]')
  parser.add_argument('--length', type=int, help="default: the config's")
  parser.add_argument('--out', default='', help='folder')
  args = parser.parse_args(argv)
  if not args.config:
    raise ValueError('Give --config=configs/....py.')
  if args.length is not None and args.length < 1:
    raise ValueError(f'--length={args.length} must be at least 1.')
  return args


if __name__ == '__main__':
  with command.errors_in_a_line('accounting'):
    main(sys.argv[1:])
