# SPDX-License-Identifier: Apache-2.0
"""Parameters and memory against the number of heads: 2310.07911, the figure.

One layer without biases; each head is 64 wide, so more of them make a
wider model: parameters, and scalars that decoding keeps a token. Collaborative
attention has half the key width and a content bias, MLA a latent of a sixth.
The paper draws parameters up to 16 heads; these are exact.
"""

from collab import attention
from experiments import table as tables

WIDTH = 64
HEADS = 1, 2, 4, 8, 12, 16, 32, 64, 128  # the paper stops at 16
ATTENTIONS = {
  'mha': {},
  'collab': dict(shared_dim=lambda D: D // 2),
  'skv': {},
  'mqa': {},
  'el': {},
  'mla': dict(latent_dim=lambda D: max(1, D // 6)),
  'sha': {},
  'mhe_add': {},
  'mhe_mul': {},
}


def table():
  rows, parameters, cache = [], {}, {}
  for name, fields in ATTENTIONS.items():
    for H in HEADS:
      D = WIDTH * H
      given = {key: x(D) for key, x in fields.items()}
      layer = attention.build(name, num_heads=H, use_bias=False, **given)
      parameters[name, H], cache[name, H] = layer.count(D), layer.cache_size(D)
      share = parameters[name, H] / parameters['mha', H]
      kept = cache[name, H] / cache['mha', H]
      rows.append(
        {
          'attention': name,
          'heads': str(H),
          'parameters': f'{parameters[name, H]:,}',
          "of MHA's": f'{share:.3f}',
          'cache': f'{cache[name, H]:,}',
          "of MHA's cache": f'{kept:.3f}',
        }
      )

  def draw(figure):
    shown = {'parameters': parameters, 'cache, scalars a token': cache}
    axes = figure.subplots(1, 2)
    for axis, (title, found) in zip(axes, shown.items(), strict=True):
      for i, name in enumerate(ATTENTIONS):
        values = [found[name, H] / found['mha', H] for H in HEADS]
        dashes = (5, 2) if i % 2 else (1, 0)
        axis.plot(HEADS, values, label=name, color=f'C{i}', dashes=dashes)
      axis.set(xlabel='heads of 64', title=f"{title}: share of MHA's")
      axis.set_xscale('log', base=2)
      axis.set_yscale('log', base=2)
      axis.yaxis.set_major_formatter('{x:.3g}')
      axis.xaxis.set_major_formatter('{x:g}')
      tables.tidy(axis)
    tables.legend(axes[1])

  title = 'Parameters and memory against heads'
  return tables.Table(title, __doc__, rows, draw)
