# SPDX-License-Identifier: Apache-2.0
r"""Converts a trained model to another attention, and writes a workdir.

  python -m collab.convert MODEL_DIR OUT_DIR --attention=collab \
      --shared_dim=384 --calibration=FILE
  python -m collab.convert MODEL_DIR OUT_DIR --attention=collab \
      --budget=parameters=0.5 --calibration=FILE
  python -m collab.convert WORKDIR OUT_DIR --attention=mqa --calibration=train
  python -m collab.convert WORKDIR OUT_DIR --to=huggingface

MODEL_DIR is a checkpoint of Transformers (config.json, safetensors,
tokenizer.json), its name on the Hugging Face Hub (org/model), a file of
llama.cpp (.gguf) or the workdir of a run. OUT_DIR
becomes a workdir. Other runs start from it by --config.init_from=OUT_DIR. If
MODEL_DIR is a run, train.py --workdir=OUT_DIR continues it. OUT_DIR also has
README.md with the error of each layer, conversion.json and errors.png.

With --to=huggingface OUT_DIR is a checkpoint again, with the files beside the
model. Transformers opens it, what has another attention by
AutoModel.from_pretrained(OUT_DIR, trust_remote_code=True).
"""

import argparse
import contextlib
import sys

from collab import command
from collab.convert import calibration, output, reparametrize, source


def _amount(text):
  """Reads a number, or a share of what there is, as 0.5."""
  return float(text) if '.' in text else int(text)


BUDGETS = dict(error=float, parameters=_amount, cache=_amount, heads=_amount)


def main(argv: list[str]) -> None:
  args, fields = _parse(argv)
  output.check(args.out_dir)
  found = source.read(args.model_dir, args.allow, args.data)
  if args.to:
    if fields:
      raise ValueError(f'--to={args.to} writes a model as it is.')
    output.export(args.out_dir, found)
    return
  seen = None
  if args.calibration:
    seen = calibration.read(
      found, args.calibration, args.rows, length=args.length, seed=args.seed
    )
  new = reparametrize.convert(
    found.model, found.params, fields, seen, args.budget, args.refine
  )
  output.write(args.out_dir, found, new, fields, args, argv)


def _parse(argv):
  """Returns the arguments, and the attention's fields; {} if it stays."""
  parser = command.Parser(
    __spec__,
    __doc__,
    'Fields of the attention: --shared_dim, --bias (collab), --sweeps '
    '(collab, mhe_mul), --kv_heads, --pooling (gqa), --latent_dim (mla), '
    '--offset (mhe_mul), --num_heads, --key_features (mha), --cache_size, '
    '--rope_dim, --method (mla, of decoders with rotary positions); a list '
    'with commas has a value for each layer.',
  )
  add = parser.add_argument
  add('model_dir')
  add('out_dir', help='a new folder')
  add('--attention', help='default: that of the model, only read and write')
  add(
    '--calibration',
    default='',
    help='text, a line each; for a translator SOURCE_FILE,TARGET_FILE; for a '
    "model of images a folder; or 'train'",
  )
  add('--data', default='', help='folder of the training data of the run')
  add('--rows', type=int, default=1000, help='texts to look at')
  add('--length', type=int, default=128, help='tokens of a text at most')
  add(
    '--budget',
    type=_budget,
    help='parameters=N or =SHARE; cache=...; heads=... (mha); error=E (collab)',
  )
  add('--refine', type=int, default=0, help='steps of fitting the outputs')
  add('--seed', type=int, default=0, help='of drawing the texts')
  add('--allow', nargs='*', default=(), help='tensors not to be missed')
  add('--to', choices=['huggingface'], help='write a checkpoint instead')
  args, rest = parser.parse_known_args(argv)
  for name in ('data', 'rows', 'length', 'seed'):
    value = getattr(args, name)
    if not args.calibration and value != parser.get_default(name):
      raise ValueError(f'--{name}={value} needs --calibration.')
  fields = {}
  for name, value in map(_field, rest):
    if name in fields:
      raise ValueError(f'--{name} is given twice.')
    fields[name] = value
  if args.attention or fields or args.budget or args.refine:
    fields = dict(name=args.attention or 'mha') | fields
  if args.calibration and not fields:
    raise ValueError(f'--calibration={args.calibration} needs --attention.')
  return args, fields


def _budget(text):
  kind, _, value = text.partition('=')
  try:
    return kind, BUDGETS[kind](value)
  except (KeyError, ValueError) as error:
    raise argparse.ArgumentTypeError(
      f'{text}; expected error=E, parameters=N, cache=N or heads=N, N perhaps '
      'a share'
    ) from error


def _field(word):
  """Splits --shared_dim=96 into ('shared_dim', 96)."""
  name, equals, text = word.removeprefix('--').partition('=')
  if not word.startswith('--') or not equals or name == 'name':
    raise ValueError(f'Unexpected {word}; fields are given as --NAME=VALUE.')
  values = tuple(map(_value, text.split(',')))
  return name, values if len(values) > 1 else values[0]


def _value(text):
  for kind in (int, float):
    with contextlib.suppress(ValueError):
      return kind(text)
  return text


if __name__ == '__main__':
  with command.errors_in_a_line('convert'):
    main(sys.argv[1:])
