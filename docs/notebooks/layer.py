# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # The layer and its costs
#
# All variants of attention are one linen module. They differ in how inputs
# become heads, and so in parameters, FLOPs and cache. Nothing here is trained.

# %%
import jax
import matplotlib.pyplot as plt

from collab import accounting, attention
from collab.accounting import layer as layer_cost

D, H, T = 256, 8, 512  # width of the model, heads, tokens
VARIANTS = dict(
  mha={},
  collab=dict(shared_dim=D // 2),
  gqa=dict(kv_heads=2),
  mla=dict(latent_dim=D // 4),
  skv={},
  mhe_add={},
  mhe_mul={},
  sha={},
)

# %% [markdown]
# The first argument of `attention.build` is a variant, and the others are
# fields of the layer. It maps [B, T, D] to [B, T, D]. Heads of collaborative
# attention share queries and keys, and differ by a row of `mixing`:

# %%
x = jax.random.normal(jax.random.key(0), (2, 16, D))
layer = attention.build('collab', num_heads=H, **VARIANTS['collab'])
y, variables = layer.init_with_output(
  jax.random.key(1), x, mask=attention.Mask(causal=True)
)
print(x.shape, '->', y.shape)
for path, array in jax.tree.leaves_with_path(variables['params']):
  print(jax.tree_util.keystr(path, simple=True, separator='/'), array.shape)

# %% [markdown]
# A layer knows its cost without being run. FLOPs are counted on the traced
# program of a causal layer on T tokens; `decode` is one more token with a full
# cache, and `cache` the bytes of that.

# %%
row = '{:8} {:>10} {:>8} {:>8} {:>8} {:>8}'.format
print(row('', 'parameters', 'forward', 'training', 'decode', 'cache'))
costs = {}
for name, fields in VARIANTS.items():
  cost = layer_cost.of(
    dict(name=name, num_heads=H, **fields), D, T, causal=True
  )
  costs[name] = cost
  flops = cost.forward, cost.training, cost.decode, cost.cache
  print(row(name, f'{cost.parameters:,}', *map(accounting.si, flops)))

# %% [markdown]
# No variant is the best of all. Few parameters, few FLOPs and a small cache
# are different wishes, and what they cost in quality only training tells.

# %%
figure, (left, right) = plt.subplots(
  1, 2, figsize=(9, 3.5), sharey=True, layout='constrained'
)
mha = costs['mha']
for axis, field in (left, 'parameters'), (right, 'forward'):
  share = {k: getattr(x, field) / getattr(mha, field) for k, x in costs.items()}
  bars = axis.barh(list(share), list(share.values()))
  axis.bar_label(bars, fmt='%.2f', padding=3)
  axis.margins(x=0.15)
  axis.set_xlabel(f'{field}, share of mha')
left.invert_yaxis()
