# SPDX-License-Identifier: Apache-2.0
"""What a user types wrong, in all commands: one line that says what is legal.

A command ends with exit code 1 and this line, prints nothing else and leaves no
run. test_bad_input.py has what is wrong with files, and what goes wrong later.
"""

import re
import shlex

import pytest

from tests import served
from tests.convert.checkpoints import GOLDEN

BEFORE = """
import train
import collab.accounting.__main__, collab.convert.__main__, collab.evaluate
import collab.generate, collab.translate
import experiments.report.__main__, experiments.sweep
from collab.tasks import classify, glue, image, lm, wmt14
"""
FILES = {
  'one.csv': 'text,label\n' + 'one,a\ntwo,a\n' * 9,
  'three.csv': 'text,label\n' + 'one,a\ntwo,b\nthree,c\n' * 9,
  'empty.csv': '',
  'head.csv': 'text,label\n',
  'three.xlsx': 'x',
  'number.py': 'def get_config(words="x"):\n  return 7\n',
  'error.py': 'def get_config(words="x"):\n  return 1 / 0\n',
  'pickled/config.json': '{"model_type": "bert"}',
  'pickled/pytorch_model.bin': 'x',
}
# Follows `collab train --config=configs/`.
CONFIGS = {
  'nope.py': 'no such config; configs/ has classify, decoder, glue',
  'lm.py:sampel': "has 'sampel'; there are wikitext103, .*sample, .*collab, el",
  'glue.py:mnlii': "has 'mnlii'; there are mnli, cola, .*bert, distilbert",
  'lm.py:sample,small': 'two of a size: sample and small',
  'lm.py:mha,gqa': 'two of a variant: mha and gqa',
  'lm.py:gqa,kv_heads=x': 'kv_heads=x, expected int',
  'lm.py:sha,kv_heads=2': 'has kv_heads=2; sha has num_heads, .*soft_cap',
  # What is listed is legal: embedding_std is not a field of mha.
  'lm.py:heads=8': 'heads=8; mha has num_heads, key_features, imp.*, soft_cap',
  'lm.py x': 'Unexpected arguments: x',
  'lm.py --confg=x': "flag 'confg'. Did you mean: config",
  'lm.py --workdir=/dev/null': '/dev/null is not a folder; expected one',
  'lm.py --eval_only': 'lm-s0 has no run; train one first',
  'lm.py --results=pickled': 'expected a .jsonl file',
  'lm.py --profile=2:1': 'expected FIRST:END, as in 10:13 .* 1 to 60000',
  'lm.py:smoke,gate=tail': "one of 'none', 'head', 'elementwise'",
  'lm.py:smoke,implementation=flash': "one of None, 'xla', 'cudnn', 'splash'",
}
# Follows `lm.py:smoke --config.`
FIELDS = {
  'optim.lrr=1': 'no field \'lrr\'. Did you mean "lr"',
  'model=big': 'model is a group of fields; give --config.model.FIELD=VALUE',
  'model.dim=wide': r'model.dim=wide: .* int\(\)',
  'model.dim=0': 'model.dim=0; expected at least 1',
  'model.name=decodr': "'decodr'; there are encoder, decoder, encoder_decoder",
  'model.dropout=1.5': 'model.dropout=1.5; expected at least 0.0, below 1.0',
  'model.dtype=int8': 'one of float32, bfloat16, float16, float64',
  'model.norm=last': "norm='last' is none of post, pre, both",
  'model.activation=tanhh': "'tanhh' is none of relu, gelu, gelu_tanh",
  'model.soft_cap=0': "no field 'soft_cap'",
  'model.attention.name=mhb': "'mhb'; there are collab, el, gla, gqa",
  'seed=-1': 'seed=-1; expected 0 to 4294967295',
  'total_steps=0': 'total_steps=0; expected at least 1',
  'total_steps=-5': 'total_steps=-5; expected at least 1',
  'every.log=0': 'every.log=0; expected at least 1',
  'skip_nonfinite=-1': 'skip_nonfinite=-1; expected at least 0',
  'optim.lr=nan': 'optim.lr=nan; expected a finite number',
  'checkpoint.final=first': "'first'; there are last, best",
  'checkpoint.keep=0': 'checkpoint.average=1, but checkpoint.keep=0',
  'fsdp=3': 'fsdp=3 does not divide the 1 devices; legal are 1',
  'tensor=0': 'tensor=0 does not divide the 1 devices',
  'init_from=nowhere': 'init_from=nowhere is no workdir: it has no run.json',
}
# Follows `classify.py:small --config.data.`
TABLES = {
  'path=': 'data.path is empty. Expected a table, .*.csv, .tsv, .jsonl',
  'path=nope.csv': 'nope.csv does not exist. Expected a table',
  'path=three.xlsx': 'xlsx is not a folder. Expected a table, .*.csv, .tsv',
  'path=empty.csv': 'empty.csv is empty; expected a header and rows',
  'path=head.csv': 'head.csv: no rows',
  'path=one.csv': 'has the labels a; expected two classes at least',
  'path=three.csv --config.data.label=class': 'class; there are text, label',
  'path=three.csv --config.data.malformed=x': 'there are fatal, skip',
  'path=three.csv --config.task.subtask=x': 'there are classes, regression',
}
# Follows `collab`; BERT and LLAMA are small checkpoints.
COMMANDS = {
  'trian': 'there are train, convert, generate, .*describe',
  'list model': "'model'; there are variants, models, tasks, configs, studies",
  'describe': 'describe CONFIG takes one, got 0',
  'describe lm.py': 'lm.py: no such config; configs/ has classify',
  'describe configs/lm.py:x': "lm.py:x fails: .* has 'x'; there are wikitext",
  'train': 'Give --config=configs/....py, or --workdir=DIR',
  'train --config=number.py': 'gave 7, expected a ConfigDict',
  'train --config=error.py': 'division by zero',
  'train --workdir=nowhere': 'run.json is missing: start the run with --config',
  'generate': 'required: --workdir',
  'generate --workdir=nowhere': 'neither a workdir .* nor a checkpoint',
  'generate --workdir=BERT': 'a text encoder, expected a language model',
  'generate --workdir=BERT --lenght=3': 'unrecognized arguments: --lenght=3',
  'generate --workdir=BERT --length=many': "invalid int value: 'many'",
  'generate --workdir=BERT --fsdp=3': 'fsdp=3 does not divide .* legal are 1',
  'translate --workdir=BERT': 'a text encoder, expected a translator',
  'convert': 'required: model_dir, out_dir',
  'convert nowhere out': 'nowhere is neither a workdir .* nor a checkpoint',
  'convert pickled out': 'a pickle, and no model.safetensors',
  'convert BERT three.csv': 'three.csv exists; give a new folder',
  'convert BERT out --to=pytorch': 'choose from .?huggingface',
  'convert BERT out --to=huggingface --refine=1': 'writes a model as it is',
  'convert BERT out --rows=5': '--rows=5 needs --calibration',
  'convert BERT out --attention=mhx': 'converted to collab, gqa, mha, mhe_mul',
  'convert BERT out --attention=tpa': 'converted to collab, gqa, mha, mhe_mul',
  'convert BERT out --attention=collab': 'attention=collab needs shared_dim',
  'convert BERT out --attention=collab --shared_dims=4': 'has shared_dim, bias',
  'convert BERT out --shared_dim=4 --shared_dim=8': 'shared_dim is given twice',
  'convert BERT out --attention=gqa --kv_heads=2': 'not divide num_heads=3',
  'convert BERT out --budget=flops=1': 'error=E, parameters=N, cache=N or h',
  'convert BERT out --attention=collab --budget=parameters=1.5': 'at most 1.0',
  'convert LLAMA out --attention=mqa': 'key/bias, .*under rope, is not 0',
  'evaluate': 'required: model_dir',
  'evaluate BERT': 'one of the arguments --text --glue --stsb is required',
  'evaluate BERT --glue=mnlii --data=pickled': 'choose from .?mnli.?, .?cola',
  'report nowhere': 'There is no folder nowhere',
  'report pickled': 'neither a workdir .* nor a folder of workdirs',
  'sweep': 'required: study',
  'sweep savings': 'Start it in .*, not in ',
  'sweep savings --data=/nope': '--data=/nope: there is no such folder',
  'sweep savings --grid=x': 'expected FIELD=VALUE,VALUE, each field once',
  'cost': 'required: --config',
  'cost --config=configs/nope.py': 'no such config; configs/ has classify',
  'cost --config=configs/lm.py --length=0': '--length=0; expected at least 1',
}
ROWS = COMMANDS | {
  f'train --config=configs/{start}{rest}': words
  for start, rows in (
    ('', CONFIGS),
    ('lm.py:smoke --config.', FIELDS),
    ('classify.py:small --config.data.', TABLES),
  )
  for rest, words in rows.items()
}


@pytest.fixture(scope='module')
def run():
  with served.server(BEFORE) as run:
    yield run


def test_wrong_inputs(run, tmp_path):
  for name, text in FILES.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
  places = dict(BERT=GOLDEN / 'bert_Model', LLAMA=GOLDEN / 'llama_Model')
  wrong = []
  for command, words in ROWS.items():
    typed = command
    for name, place in places.items():
      typed = typed.replace(name, str(place))
    code, out, err = run(tmp_path, 'collab', shlex.split(typed))
    lines = err.splitlines()
    good = (code, out, len(lines)) == (1, '', 1) and 'Traceback' not in err
    if not good or not re.search(words, err):
      wrong.append((command, code, out, err))
    assert not list(tmp_path.rglob('run.json')), command
  assert not wrong
  assert len(ROWS) > 90
