# SPDX-License-Identifier: Apache-2.0
r"""Continues lines of text with a trained language model.

  python -m collab.generate --workdir=DIR --prompt='The statement'
  python -m collab.generate --workdir=DIR --temperature=0 < in.txt > out.txt

One line in, the same line and what follows out, up to the end of the line.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

from collab import command, decoding, text_lines, trained


def generate(
  model,
  params,
  tokenizer,
  prompts,
  *,
  length=100,
  temperature=1.0,
  seed=0,
  batch_size=16,
  **within,
):
  """Lines of text that begin with the prompts.

  Args:
    model: Decoder.
    params: its parameters.
    tokenizer: data.tokenizer.Tokenizer.
    prompts: list of str, which may be empty.
    length: tokens to add to each at most.
    temperature: 0 is greedy; see `decoding.sample`.
    seed: of the random choices; a line's depend on its place as well.
    batch_size: prompts at a time.
    **within: top_k and top_p of `decoding.sample`.

  Raises:
    ValueError: a prompt and `length` are more than the model's max_length, or
      whatever `decoding.sample` refuses.
  """
  if not -(2**63) <= seed < 2**63:
    raise ValueError(f'seed={seed}; expected a number of 64 bits.')
  # A line begins after the end of one: so the model has seen it.
  ids = [[tokenizer.eos_id, *x] for x in tokenizer.encode_batch(prompts)]
  _check(ids, length, model.max_length)
  decode = decoding.greedy
  if temperature:
    decode = functools.partial(
      decoding.sample, temperature=temperature, **within
    )
  run = jax.jit(functools.partial(_decode, model, tokenizer, decode, length))
  P, size = max(map(len, ids), default=0), min(batch_size, len(ids))
  found = []
  for start in range(0, len(ids), batch_size):
    rows = ids[start : start + size]
    lengths = np.array([len(x) for x in rows] + [1] * (size - len(rows)))
    tokens = np.full((size, P), tokenizer.eos_id, np.int32)
    for row, x in enumerate(rows):
      tokens[row, : len(x)] = x
    keys = {}
    if temperature:
      keys = dict(key=jax.random.fold_in(jax.random.key(seed), start))
    out = np.asarray(run(params, tokens, lengths, keys))
    for x, row in zip(rows, out, strict=False):
      found.append(tokenizer.decode([*x, *row]))
  return found


def _check(ids, length, max_length):
  if length < 1:
    raise ValueError(f'length must be 1 or more, got {length}.')
  for number, row in enumerate(ids, 1):
    need = len(row) + length - 1  # the last token is not fed back
    if need > max_length:
      raise ValueError(
        f'Prompt {number} has {len(row)} tokens; with length={length} the '
        f'model needs max_length={need}, it has {max_length}.'
      )


def _decode(model, tokenizer, decode, length, params, prompt, lengths, keys):
  """Token ids [B, length] after prompt [B, P]."""
  B, P = prompt.shape
  decoder = model.clone(decode=True)
  shapes = jax.eval_shape(
    functools.partial(decoder.init, method='next_logits'),
    jax.random.key(0),
    jnp.zeros((B, P + length - 1), jnp.int32),
  )['cache']

  def step(tokens, cache, lengths=None):
    logits, new = decoder.apply(
      {'params': params, 'cache': cache},
      tokens,
      lengths,
      method='next_logits',
      mutable=['cache'],
    )
    return logits, new['cache']

  return decode(
    step,
    jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
    prompt,
    prompt_lengths=lengths,
    eos=tokenizer.eos_id,
    pad=tokenizer.pad_id,
    max_length=length,
    **keys,
  ).tokens


def main(argv):
  parser = command.Parser(prog='python -m collab.generate', description=__doc__)
  parser.add_argument('--workdir', required=True, help='of a run of lm')
  parser.add_argument(
    '--prompt', type=str, help='default: lines of standard input'
  )
  parser.add_argument('--length', type=int, default=100, help='tokens to add')
  parser.add_argument('--temperature', type=float, default=1.0)
  parser.add_argument('--top_k', type=int, default=0, help='0 is all')
  parser.add_argument('--top_p', type=float, default=1.0)
  parser.add_argument('--seed', type=int, default=0)
  args = vars(parser.parse_args(argv))
  workdir, prompt = args.pop('workdir'), args.pop('prompt')
  model, params, words, _ = trained.load(workdir, 'lm')
  prompts = [prompt.strip()] if prompt is not None else command.stdin_lines()
  for line in generate(model, params, words, list(prompts), **args):
    print(text_lines.one(line))


if __name__ == '__main__':
  try:
    main(sys.argv[1:])
  except (ValueError, OSError) as e:
    sys.exit(f'generate: {" ".join(str(e).split())}')
