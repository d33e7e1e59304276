# SPDX-License-Identifier: Apache-2.0
r"""Measures the original of experiments/rotary.py by Transformers alone.

  python experiments/rotary_transformers.py --model=MODEL.gguf \
      --tests wikitext-2=FILE books=FILE >results/rotary_transformers.jsonl

It needs transformers, torch, accelerate and gguf, and nothing of this project:
tokenizer, weights and formulas are theirs. FILE is a .gz. The row also has the
text that follows PROMPT, greedily.
"""

import argparse
import gzip
import json
import math
import pathlib
import time

import torch
import transformers

START = '<|endoftext|>'  # as `collab.generate` does
PROMPT, NEW = 'The capital of France is', 24
CHARACTERS = 16  # at most, of a token on average


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--model', required=True)
  parser.add_argument('--tests', required=True, nargs='+')
  parser.add_argument('--length', type=int, default=512)
  parser.add_argument('--windows', type=int, default=12)
  args = parser.parse_args()
  path = pathlib.Path(args.model)
  given = dict(gguf_file=path.name)
  load = transformers.AutoModelForCausalLM.from_pretrained
  model = load(path.parent, dtype=torch.float32, **given).eval()
  words = transformers.AutoTokenizer.from_pretrained(path.parent, **given)
  encode = lambda text: words(text, add_special_tokens=False).input_ids
  losses = {}
  with torch.no_grad():
    for test in args.tests:
      name, _, file = test.partition('=')
      n = args.windows * args.length
      with gzip.open(file, 'rt', encoding='utf-8') as text:
        ids = torch.tensor(encode(text.read(CHARACTERS * n))[:n])
      losses[name] = []
      for row in ids.reshape(args.windows, args.length):
        logits = model(row[None, :-1]).logits[0]
        lost = torch.nn.functional.cross_entropy(logits, row[1:])
        losses[name].append(round(lost.item(), 5))
    ids = torch.tensor([encode(START + PROMPT)])
    for _ in range(NEW):
      new = model(ids).logits[0, -1].argmax()
      ids = torch.cat([ids, new[None, None]], 1)
  row = dict(
    command='python experiments/rotary_transformers.py --model=MODEL.gguf '
    f'--tests wikitext-2=FILE books=FILE --windows={args.windows}',
    date=time.strftime('%Y-%m-%d'),
    transformers=transformers.__version__,
    torch=torch.__version__,
    length=args.length,
    tokens=args.windows * (args.length - 1),
    text=words.decode(ids[0, 1:]),
    losses=losses,
  )
  for name, lost in losses.items():
    row[name] = math.exp(sum(lost) / len(lost))
  print(json.dumps(row))


if __name__ == '__main__':
  main()
