# SPDX-License-Identifier: Apache-2.0
r"""Language modelling: WikiText-103, WikiText-2 and Penn Treebank.

  python train.py --config=configs/lm.py:wikitext103,mhe_add \
      --config.data.path=DIR              # wiki.train.raw, ... ; 8 devices
  python train.py --config=configs/lm.py:ptb,mhe_add \
      --config.data.path=DIR              # ptb.train.txt, ...
  python train.py --config=configs/lm.py:wikitext2,small \
      --config.data.path=DIR              # one CPU; plain or .gz
  python train.py --config=configs/lm.py:sample     # bundled, two minutes

Sub-tasks: wikitext103 (the default), wikitext2, ptb; local files in their
published layout, or a data set of TFDS with a feature `text` by data.corpus.
Sizes: `sample` (the prose of Python's help), `small` (a model for one CPU), or
none. MHE (arXiv 2310.07911) reports both corpora; neither its tables nor its
recipe could be recovered. The recipe here is our choice: GPT-2's form, on
WikiText-103 with 12 layers of width 768, on the small corpora with 6 of 512 and
more dropout; BPE. A closed vocabulary of words: --config.data.kind=words and
its size, 10,000 of PTB, 267,740 of WikiText-103, the special ones included.

The perplexity is that of a word, the end of a line being one: comparable
whatever the tokens are, but not with a closed vocabulary's, whose <unk> is one.
"""

from ml_collections import ConfigDict

from configs import attend, base, parse

SUBTASKS = ('wikitext103', 'wikitext2', 'ptb')


def get_config(argument: str = '') -> ConfigDict:
  """Makes the config that the words of the argument describe."""
  words = parse(argument, SUBTASKS)
  subtask = words.subtask
  c = base()
  c.task = dict(
    name='lm',  # a file of collab/tasks, or an import path
  )
  c.data = dict(
    corpus='',  # a data set of TFDS, unless path is given
    path='',  # folder of wiki.train.raw, ...; ptb.train.txt, ...; plain or .gz
    column='text',  # of tables: CSV, TSV, JSON lines, Parquet
    kind='bpe',  # or 'words', a closed vocabulary
    vocab_size=32_768,  # of a tokenizer that is trained here
    vocabulary='',  # a tokenizer.json instead
    folder='',  # folder of the tokens, default WORKDIR/data
    row_length=512,  # tokens of a row
    batch_size=64,  # rows of an update
    eval_stride=128,  # tokens that count in a window, after the first
  )
  c.model.update(
    name='decoder',
    num_layers=12,  # layers
    activation='gelu_tanh',
    epsilon=1e-5,
    positions='learned',  # learned, sinusoidal, none
    max_length=1024,  # learned positions, and tokens when decoding
  )
  c.optim.update(lr=6e-4, schedule='cosine', warmup_steps=2000)
  c.optim.update(b2=0.98, eps=1e-8, weight_decay=0.1)
  c.update(total_steps=60_000, every=dict(log=100, eval=2000, checkpoint=1000))
  if subtask != 'wikitext103':
    c.data.update(vocab_size=10_000, row_length=256)
    c.model.update(dim=512, num_layers=6, mlp_dim=2048, dropout=0.3)
    c.model.attention.num_heads = 8
    c.total_steps = 10_000 if subtask == 'wikitext2' else 6_000
    c.optim.warmup_steps = 500
    c.every.update(eval=500, checkpoint=500)
  resize(c, words.size)
  return attend(c, words)


def resize(c: ConfigDict, size: str) -> None:
  """Changes model and training to a smaller size, if one is given."""
  if size == 'sample':
    c.data.update(corpus='sample', vocab_size=2000, row_length=64)
    c.data.update(batch_size=32, eval_stride=32)
    c.model.update(dim=128, num_layers=2, mlp_dim=512, max_length=128)
    c.model.update(dropout=0.2, attention=dict(num_heads=4))
    c.optim.update(lr=3e-3, warmup_steps=50)
    c.update(total_steps=600, every=dict(log=50, eval=200, checkpoint=100))
  elif size == 'small':
    c.data.update(vocab_size=8000, row_length=128)
    c.data.update(batch_size=16, eval_stride=64)
    c.model.update(dim=192, num_layers=3, mlp_dim=768, max_length=256)
    c.model.update(dropout=0.0, attention=dict(num_heads=6))
    c.optim.update(name='muon', lr=3e-3, warmup_steps=200)
    c.update(total_steps=3000, every=dict(log=50, eval=500, checkpoint=250))
