# SPDX-License-Identifier: Apache-2.0
"""Multi-head latent attention."""

from typing import ClassVar

from collab.attention.latent import Latent


class MLA(Latent, kw_only=True):
  """softmax(x Wq_h (c Uk_h)^T / sqrt(d)) c Uv_h, c = y Wc of width r.

  arXiv 2405.04434. Absorbed form: (q_h Uk_h^T) c^T has one key head c, whose
  values are c itself, and Uv_h follows. Where r > d, training uses the form as
  written, which is cheaper there. Parameters (no biases): D H d + D r + 2 r H d
  + H d D; only query and out have biases. Cache: r scalars a token.

  Rotated keys cannot be absorbed. Under rope (the paper's decoupled form),
  queries and keys have d_R further dimensions, which alone rotate. All heads
  share this part of the key, y Wr:

    [x Wq_h; R_t x Wr_h] . [c Uk_h; R_s y Wr] / sqrt(d + d_R)

  The cache has [c; R_s y Wr], of which c is the value: r + d_R scalars a token.
  Parameters: D H d_R + D d_R more. qk_norm is of the latent c, so keys and
  values both have it.

  Attributes:
    latent_dim: r.
    rope_dim: d_R, needed under rope, and 0 without.
    planes, decoupled: see `Latent`.
  """

  kv_heads: ClassVar[int] = 1
  axes: ClassVar[dict] = Latent.axes | dict(latent='dim -> width')

  def heads(self, x, y, z, positions):
    if (R := self.latent_dim) < 1:
      raise ValueError(f'latent_dim={R} must be at least 1.')
    q = self.queries(x)
    c = self.project('latent', y, (R,), use_bias=False)
    c = self.normalize('latent', c)[:, :, None]
    return self.of_latents(q, y, c, positions)
