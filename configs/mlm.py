# SPDX-License-Identifier: Apache-2.0
r"""Masked-LM pre-training of an encoder: BERT-base by RoBERTa's objective.

  python train.py --config=configs/mlm.py \
      --config.data.path=DIR        # *.txt, or wiki.train.raw, ...; 8 devices
  python train.py --config=configs/mlm.py:lm1b,mhe_mul              # TFDS
  python train.py --config=configs/mlm.py:sample     # bundled, two minutes
  python train.py --config=configs/mlm.py:small --config.data.path=DIR

Then configs/glue_*.py, superglue_*.py and squad_*.py fine-tune its workdir by
--config.init_from=WORKDIR.

Sub-tasks: text (local files; the default), lm1b, wiki40b. Sizes: `sample` (the
prose of Python's help), `small` (a model for one CPU), or none: BERT-base, as
both papers fine-tune, with RoBERTa's full sentences of 512, dynamic masking and
Adam 0.9/0.98, weight decay 0.01, linear decay (arXiv 1907.11692, appendix). Its
batch is 8,192 rows at lr 6e-4; ours, 256 at 2e-4, is our choice.
"""

from ml_collections import ConfigDict

from configs import attend, base, glue, parse

SUBTASKS = dict(text='', lm1b='lm1b', wiki40b='wiki40b/en')


def get_config(argument: str = '') -> ConfigDict:
  """Makes the config that the words of the argument describe."""
  words = parse(argument, tuple(SUBTASKS))
  c = base()
  c.task = dict(
    name='mlm',  # a file of collab/tasks, or an import path
    rate=0.15,  # share of the tokens that are masked
  )
  c.data = dict(
    corpus=SUBTASKS[words.subtask],  # in TFDS, unless path is given
    path='',  # folder of text files, plain or .gz
    column='text',  # of tables: CSV, TSV, JSON lines, Parquet
    vocab_size=32_768,  # of a tokenizer that is trained here
    vocabulary='',  # a tokenizer.json instead
    folder='',  # folder of the tokens, default WORKDIR/data
    row_length=512,  # tokens of a row
    batch_size=256,  # rows of an update
  )
  c.model.update(glue.BERT_BASE)
  c.optim.update(lr=2e-4, schedule='linear', warmup_steps=10_000)
  c.optim.update(b2=0.98, eps=1e-6, weight_decay=0.01)
  c.total_steps = 500_000
  c.every = dict(log=100, eval=10_000, checkpoint=5000)
  c.checkpoint.final = 'last'
  resize(c, words.size)
  return attend(c, words)


def resize(c: ConfigDict, size: str) -> None:
  """Changes model and training to a smaller size, if one is given."""
  if size:
    c.model.update(norm='pre', attention_dropout=0.0, dropout=0.0)
    c.model.attention.num_heads = 4
  if size == 'sample':
    c.data.update(corpus='sample', vocab_size=1000, row_length=64)
    c.data.batch_size = 64
    c.model.update(dim=64, num_layers=2, mlp_dim=256, max_length=64)
    c.optim.update(lr=4e-3, warmup_steps=100)
    c.update(total_steps=1500, every=dict(log=50, eval=500, checkpoint=250))
  elif size == 'small':
    c.data.update(vocab_size=8000, row_length=64, batch_size=32)
    c.model.update(dim=128, num_layers=3, mlp_dim=512, max_length=64)
    c.optim.update(lr=2e-3, warmup_steps=500)
    c.update(total_steps=15_000, every=dict(log=100, eval=1500, checkpoint=500))
