# SPDX-License-Identifier: Apache-2.0
r"""GLUE: fine-tuning of an encoder, the experiments of both papers.

  python train.py --config=configs/glue.py:mnli \
      --config.init_from=WORKDIR                # a run of configs/mlm.py
  python train.py --config=configs/glue.py:mnli,sample    # bundled, minutes
  python train.py --config=configs/glue.py:sst2,small \
      --config.data.path=DIR                    # one CPU; DIR has SST-2, ...

Sub-tasks: mnli (the default), cola, sst2, mrpc, qqp, stsb, qnli, rte, wnli.
Models: bert (the default), distilbert, albert, minilm.
Sizes: `sample` (sentences made by Babel), `small` (a model for one CPU that is
trained from nothing, for local files), or none: the published recipe (BERT-base,
length 128, batch 32, lr 2e-5, 3 epochs, 10 of SST-2 and RTE; linear schedule,
10 % warm-up and weight decay 0.01 are our choice, as BERT's). Evaluation is on
the dev set after every epoch and the best one counts, as usual; it is optimistic.

Published (arXiv 2006.16362, dev sets), by key width of collaborative attention,
which the paper gets by decomposing a fine-tuned model and fine-tuning it again;
"avg" is the mean of these 11 numbers (collab.metrics.labels.glue_average):

               CoLA  SST-2  MRPC       STS-B      QQP        MNLI  QNLI  RTE   avg
  BERT-base    54.7  91.7   88.8/83.8  88.8/88.7  87.6/90.8  84.1  90.9  63.2  83.0
    768        56.8  90.1   89.6/85.1  89.2/88.9  86.8/90.2  83.4  90.2  65.3  83.2
    384        56.3  90.7   87.7/82.4  88.3/88.0  86.3/90.0  83.0  90.1  65.3  82.5
    256        52.6  90.1   88.1/82.6  87.5/87.2  85.9/89.6  82.7  89.5  62.5  81.7
    128        43.5  89.5   83.4/75.2  84.5/84.3  81.1/85.8  79.4  86.7  60.7  77.6
  DistilBERT   46.6  89.8   87.0/82.1  84.0/83.7  86.2/89.8  81.9  88.1  60.3  80.0
    384        45.6  89.2   86.6/80.9  81.7/81.9  86.1/89.6  81.1  87.0  60.7  79.1
  ALBERT       58.3  90.7   90.8/87.5  91.2/90.8  87.5/90.7  85.2  91.7  73.7  85.3
    512        51.1  86.0   91.4/88.0  88.6/88.2  87.2/90.4  84.2  90.2  69.0  83.1
    384        40.7  89.6   82.3/71.1  86.0/85.6  87.2/90.5  84.4  90.0  49.5  77.9
"""  # noqa: E501, a table

from collections.abc import Mapping

from ml_collections import ConfigDict

from configs import Words, attend, base, parse

# {sub-task: (examples of the published training set, epochs)}.
TRAINING = dict(
  mnli=(392_702, 3),
  cola=(8_551, 3),
  sst2=(67_349, 10),
  mrpc=(3_668, 3),
  qqp=(363_846, 3),
  stsb=(5_749, 3),
  qnli=(104_743, 3),
  rte=(2_490, 10),
  wnli=(635, 3),
)
# The fields that BERT-base adds to `configs.base` or changes in it.
BERT_BASE = dict(
  name='encoder',
  num_layers=12,  # layers
  norm='post',
  epsilon=1e-12,
  positions='learned',  # learned, sinusoidal, none
  max_length=512,  # rows of the table of learned positions
  first_position=0,  # row of the first token's position; 2 in RoBERTa
  types=2,  # token types; 0 for none
  embed_dim=0,  # width of factorised embeddings, 0: dim
  shared=False,  # whether all layers share one layer's parameters
  pooler=True,  # whether the head is on BERT's pooler
  attention_dropout=0.1,
)
# Pre-trained models, as differences from BERT-base.
MODELS = dict(
  bert={},
  distilbert=dict(num_layers=6, types=0, pooler=False),
  albert=dict(
    embed_dim=128,
    shared=True,
    activation='gelu_tanh',
    dropout=0.0,
    attention_dropout=0.0,
  ),
  # 6 layers of 384, which one CPU can fine-tune, like all-MiniLM-L6-v2.
  minilm=dict(dim=384, num_layers=6, mlp_dim=1536),
)


def get_config(argument: str = '') -> ConfigDict:
  """Makes the config that the words of the argument describe."""
  words = parse(argument, tuple(TRAINING), tuple(MODELS))
  # QQP is published with a few damaged rows, which are always skipped.
  malformed = 'skip' if words.subtask == 'qqp' else 'fatal'
  data, model = dict(corpus='glue', malformed=malformed), MODELS[words.model]
  return sentences('glue', words, data, BERT_BASE | model, TRAINING)


def sentences(
  task: str,
  words: Words,
  data: Mapping,
  model: Mapping,
  training: Mapping[str, tuple[int, int]],
) -> ConfigDict:
  """Makes the config of a task that classifies sentences, by BERT's recipe.

  Args:
    task: name of the task.
    words: configs.Words.
    data: fields of `data` that only this task has.
    model: fields of an encoder.
    training: {sub-task: (examples, epochs)}.
  """
  c = base()
  c.task = dict(
    name=task,  # a file of collab/tasks, or an import path
    subtask=words.subtask,  # data set of the benchmark
  )
  c.data = dict(
    corpus='',  # in TFDS, unless path is given; or 'sample'
    path='',  # folder of CoLA, SST-2, BoolQ, ... as published; plain or .gz
    malformed='fatal',  # rows with other columns; 'skip' counts them
    vocab_size=30_522,  # of a tokenizer that is trained here
    vocabulary='',  # a tokenizer.json instead
    row_length=128,  # tokens of a row, special ones included
    batch_size=32,  # rows of an update
  )
  c.data.update(data)
  c.model.update(model)
  fine_tuning(c, *training[words.subtask])
  resize(c, words.size, *training[words.subtask])
  return attend(c, words)


def fine_tuning(c: ConfigDict, examples: int, epochs: int) -> None:
  """Sets BERT's recipe: AdamW, linear after 10 % warm-up, the best epoch."""
  epoch = -(-examples // c.data.batch_size)
  c.optim.update(lr=2e-5, schedule='linear', b2=0.999, eps=1e-8)
  c.optim.update(warmup_steps=epochs * epoch // 10, weight_decay=0.01)
  c.total_steps = epochs * epoch
  c.every = dict(log=50, eval=epoch, checkpoint=epoch)
  c.checkpoint.update(keep=1, best='val/score')


def resize(c: ConfigDict, size: str, examples: int, epochs: int) -> None:
  """Changes model and training to a smaller size, trained from scratch."""
  if size == 'sample':
    c.data.update(corpus='sample', malformed='fatal', vocab_size=1000)
    c.data.update(row_length=32, batch_size=64)
    c.model.update(dim=64, num_layers=2, mlp_dim=256, max_length=64)
    c.model.dropout = 0.0
    fine_tuning(c, 64 * 300, 3)
    c.optim.update(lr=2e-3, warmup_steps=100)
  elif size == 'small':
    single = c.task.subtask in ('cola', 'sst2')
    c.data.update(vocab_size=8000, row_length=48 if single else 96)
    c.model.update(dim=128, num_layers=3, mlp_dim=512, max_length=128)
    fine_tuning(c, examples, 2 if examples > 50_000 else epochs)
    c.optim.lr = 5e-4
  if size:
    heads = dict(num_heads=4)
    c.model.update(norm='pre', attention_dropout=0.0, attention=heads)
