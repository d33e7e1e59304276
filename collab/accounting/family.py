# SPDX-License-Identifier: Apache-2.0
"""The family of attentions, by the matrix that makes the queries of a head.

  score_h(t, s) = (x_t Wq) A_h . k_s

k_s are the keys of a token, which heads share, and A_h is all that tells heads
apart. Under rotary positions (x_t Wq) A_h and k_s rotate. MFA's paper (arXiv
2412.19255) says this of mha, gqa, mqa and mla; of collaborative attention and
MHE we found it nowhere. tests/attention/test_family.py has the limits in which
two variants are the same.
"""

from collections.abc import Iterable

# {A_h: variants}, as tables list them; all are compared with the first.
KINDS = {
  # The identity, from the queries of a head to the keys of its group.
  'block': ('mha', 'el', 'skv', 'gta', 'gqa', 'mqa', 'linformer'),
  'diagonal': ('collab', 'mhe_mul'),
  # Heads differ by what is added, or not at all.
  'identity': ('mhe_add', 'sha'),
  'low rank': ('mla', 'gla'),
  'full': ('mfa', 'mfa_kr'),
  # Multiples of the identity, by numbers that depend on s.
  'per key': ('tpa',),
}
# For all pictures. Of Okabe and Ito: people who confuse colours can tell them
# apart. So there is one for each kind, and none for each of 15 variants.
COLOURS = dict(
  zip(
    KINDS,
    ('#3b6fb6', '#D55E00', '#000000', '#009E73', '#CC79A7', '#56B4E9'),
    strict=True,
  )
)


def kind(name: str) -> str:
  """Returns the kind of a variant's A_h; '' if it is not of this package."""
  return next((kind for kind, names in KINDS.items() if name in names), '')


def colour(name: str) -> str:
  """Returns the colour of a variant's kind; orange if it has none."""
  return COLOURS.get(kind(name), '#E69F00')


def ordered(names: Iterable[str]) -> list[str]:
  """Sorts variants as tables list them, those of other packages at the end."""
  place = {name: i for i, name in enumerate(sum(KINDS.values(), ()))}
  return sorted(names, key=lambda name: place.get(name, len(place)))
