# SPDX-License-Identifier: Apache-2.0
"""Random legal settings of every family: the outputs are Transformers'."""

from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
import pytest

from collab.convert.huggingface import checkpoints
from collab.convert.huggingface.families import FAMILIES
from collab.convert.huggingface.families.family import ACTIVATIONS
from tests.convert.checkpoints import identical, read
from tests.convert.test_huggingface import installed, same_outputs

V, MOST = 37, 16
WHOLE, NEAR = 'full_attention', 'sliding_attention'

# Each function draws the fields of a config by `among`, of some values.


def bert(among, **fields):
  H = among(2, 3)
  return dict(
    vocab_size=V,
    hidden_size=H * among(4, 6),
    num_hidden_layers=among(1, 2),
    num_attention_heads=H,
    intermediate_size=among(5, 16),
    hidden_act=among(*ACTIVATIONS),
    max_position_embeddings=MOST,
    type_vocab_size=among(1, 2),
    layer_norm_eps=among(1e-12, 1e-3),
    pad_token_id=among(0, 1, 2),
  )


def roberta(among):
  return bert(among) | dict(hidden_act='gelu')


def albert(among):
  found, layers = bert(among), among(1, 2, 3)
  return found | dict(
    embedding_size=among(5, found['hidden_size']),
    num_hidden_layers=layers,
    num_hidden_groups=among(*range(1, layers + 1)),
    inner_group_num=among(1, 2),
  )


def distilbert(among):
  H = among(2, 3)
  return dict(
    vocab_size=V,
    dim=H * among(4, 6),
    n_layers=among(1, 2),
    n_heads=H,
    hidden_dim=among(5, 16),
    activation=among(*ACTIVATIONS),
    max_position_embeddings=MOST,
    sinusoidal_pos_embds=among(True, False),
  )


def gpt2(among):
  H = among(2, 3)
  return dict(
    vocab_size=V,
    n_embd=H * among(4, 6),
    n_layer=among(1, 2),
    n_head=H,
    n_inner=among(None, 5),
    activation_function=among(*ACTIVATIONS),
    n_positions=MOST,
    layer_norm_epsilon=among(1e-5, 1e-3),
    reorder_and_upcast_attn=among(True, False),
    tie_word_embeddings=among(True, False),
  )


def vit(among):
  H = among(2, 3)
  return dict(
    hidden_size=H * among(4, 6),
    num_hidden_layers=among(1, 2),
    num_attention_heads=H,
    intermediate_size=among(5, 16),
    hidden_act=among(*ACTIVATIONS),
    layer_norm_eps=among(1e-12, 1e-3),
    image_size=among(6, 9),
    patch_size=3,
    num_channels=among(1, 3),
  )


def dinov2(among):
  found = vit(among)
  del found['intermediate_size']
  return found | dict(
    mlp_ratio=among(1, 2, 3),
    use_swiglu_ffn=among(True, False),
    use_mask_token=among(True, False),
  )


def marian(among):
  shared = among(True, False)
  return dict(
    vocab_size=V,
    decoder_vocab_size=V if shared else among(29, V),
    share_encoder_decoder_embeddings=shared,
    tie_word_embeddings=shared or among(True, False),
    d_model=12,
    encoder_layers=among(1, 2),
    decoder_layers=among(1, 2),
    encoder_attention_heads=among(1, 3),
    decoder_attention_heads=among(2, 4),
    encoder_ffn_dim=among(5, 16),
    decoder_ffn_dim=among(5, 16),
    activation_function=among(*ACTIVATIONS),
    scale_embedding=among(True, False),
    max_position_embeddings=MOST,
    pad_token_id=0,
    decoder_start_token_id=0,
    eos_token_id=1,
    forced_eos_token_id=1,
  )


def decoder(among, kind):
  (H, G), d = among((4, 2), (3, 1), (2, 2)), among(4, 6)
  layers, length = among(1, 2), among(10, 31)
  fields = dict(
    vocab_size=V,
    hidden_size=H * d,
    num_hidden_layers=layers,
    num_attention_heads=H,
    num_key_value_heads=G,
    intermediate_size=among(5, 16),
    max_position_embeddings=length,
    tie_word_embeddings=among(True, False),
    # The default bound of scores, in Gemma 2, is in this implementation alone.
    attn_implementation='eager',
  )
  if kind not in ('qwen3', 'gemma3_text'):
    fields['rms_norm_eps'] = among(1e-6, 1e-2)
  if kind != 'qwen2':
    fields |= dict(hidden_size=H * among(2, 5), head_dim=d)
  if kind not in ('mistral', 'qwen2'):
    fields['attention_bias'] = among(True, False)
  if kind == 'llama':
    fields['mlp_bias'] = among(True, False)
  else:
    fields['sliding_window'] = among(1, 4, 40)
  if kind.startswith('qwen'):
    fields['use_sliding_window'] = True
  if kind not in ('llama', 'mistral'):
    fields['layer_types'] = [among(WHOLE, NEAR) for _ in range(layers)]
  act = 'hidden_activation' if kind.startswith('gemma') else 'hidden_act'
  fields[act] = among(*ACTIVATIONS)
  if kind.startswith('gemma'):
    fields['query_pre_attn_scalar'] = among(3, 16)
    fields['final_logit_softcapping'] = among(None, 2.0)
  if kind == 'gemma2':
    fields['attn_logit_softcapping'] = among(None, 1.5)
  fields['rope_parameters'] = rope(among)
  if kind == 'gemma3_text':
    whole = rope(among)
    whole.pop('truncate', None)  # Transformers ignores it: it is refused
    fields['rope_parameters'] = {WHOLE: whole, NEAR: dict(rope_theta=9.0)}
  return fields


def rope(among):
  theta, original = among(50.0, 1e4), among(4, 8)
  scaling = among(
    dict(rope_type='default'),
    dict(rope_type='linear', factor=3.0),
    dict(rope_type='dynamic', factor=3.0),
    dict(rope_type='yarn', factor=4.0, truncate=among(True, False)),
    dict(
      rope_type='llama3', factor=4.0, low_freq_factor=1.0,
      high_freq_factor=among(2.0, 4.0),
    ),
  )  # fmt: skip
  if scaling['rope_type'] in ('yarn', 'llama3'):
    scaling |= dict(original_max_position_embeddings=original)
  return dict(rope_theta=theta) | scaling


SETTINGS = dict(
  bert=bert,
  roberta=roberta,
  albert=albert,
  distilbert=distilbert,
  gpt2=gpt2,
  vit=vit,
  deit=vit,
  dinov2=dinov2,
  marian=marian,
)
SETTINGS |= dict.fromkeys(('xlm-roberta', 'camembert'), roberta)


@st.composite
def cases(draw, kind):
  """A name of the family's architectures, and fields of its config."""
  among = lambda *values: draw(st.sampled_from(values))
  name = among(*FAMILIES[kind].architectures)
  of_kind = SETTINGS.get(kind)
  fields = of_kind(among) if of_kind else decoder(among, kind)
  spans = name.endswith('QuestionAnswering')
  fields['num_labels'] = 2 if spans else among(1, 3)
  if name.endswith('ForSequenceClassification'):  # which finds the last token
    fields.setdefault('pad_token_id', V - 1)
  return name, fields


@pytest.mark.slow
@pytest.mark.skipif(
  not installed('torch', 'transformers'), reason='needs the [parity] extra'
)
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', FAMILIES)
def test_random_models_are_those_of_transformers(kind, tmp_path_factory):
  """And they are written again as they were."""
  import torch
  import transformers

  from tests.convert import torch_models

  @settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
  )
  @given(cases(kind))
  def check(case):
    name, fields = case
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **fields)
    model = torch_models.make(name, config)
    inputs = torch_models.make_inputs(model)
    want = torch_models.run(model, inputs)
    old, new = (tmp_path_factory.mktemp('model') / x for x in ('old', 'new'))
    model.save_pretrained(old)
    found = checkpoints.load(old)
    numbers = lambda tensors: {k: x.numpy() for k, x in tensors.items()}
    checkpoints.save(new, found)
    identical(read(new), read(old))
    # Gemma's norms blow up the rounding of what is nearly 0.
    assume(torch_models.rounding(model, inputs) < 1e-5)
    same_outputs(found, numbers(inputs), numbers(want))

  check()
