# SPDX-License-Identifier: Apache-2.0
"""Grouped latent attention."""

from typing import ClassVar

from collab.attention.latent import Latent


class GLA(Latent, kw_only=True):
  """softmax(x Wq_h (c_g Uk_h)^T / sqrt(d)) c_g Uv_h, [c_1; ..; c_G] = y Wc.

  arXiv 2505.21487: mla, but group g of H / G heads has a latent c_g of its own,
  of width r / G, so that G devices can keep one each. G = 1 is mla. The
  authors' model also makes queries from a latent, which mla and this do not.
  Parameters (no biases): D H d + D r + 2 (r / G) H d + H d D; only query and
  out have biases. Cache: r scalars a token.

  Under rope as in mla: [x Wq_h; R_t x Wr_h] . [c_g Uk_h; R_s y Wr], where one
  rotated key of width d_R serves all heads of all groups. The cache has
  [c_1; ..; c_G; R_s y Wr], r + d_R scalars a token, and c_g is the value.
  Parameters: D H d_R + D d_R more. qk_norm is of each c_g.

  Attributes:
    latent_dim: r.
    kv_heads: G, divides num_heads and latent_dim.
    rope_dim: d_R, needed under rope, and 0 without.
    planes, decoupled: see `Latent`.
  """

  kv_heads: int = 2

  axes: ClassVar[dict] = Latent.axes | dict(latent='dim -> groups width')

  def heads(self, x, y, z, positions):
    H, G, R = self.num_heads, self.kv_heads, self.latent_dim
    if G < 1 or H % G or R < 1 or R % G:
      raise ValueError(
        f'kv_heads={G} does not divide num_heads={H} and latent_dim={R}.'
      )
    q = self.queries(x)
    c = self.project('latent', y, (G, R // G), use_bias=False)
    return self.of_latents(q, y, self.normalize('latent', c), positions)
