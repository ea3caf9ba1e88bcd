"""Heads over the decoder: scalar, K attributes, value of every position.

The kernel is `score/kernel` [D, K] in the decoder's own tree (config.outputs =
K); K = 1 is a reward or value model. Positions come from masks, never from
ids, so padding on either side and pad == eos change nothing.

Reference: the `score` layer of the sequence-classification models of
transformers, which read the last token that is not padding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlreward.models import transformer
from rlreward.ops import masked

Array = jax.Array


def last_value(
  model: transformer.Model, variables, tokens: Array, attend: Array
) -> Array:
  """Outputs at the last real token of each row: a reward model's score.

  Args:
    model: a decoder with config.outputs = K.
    variables: its variables.
    tokens: i32[N, L], padded on either side.
    attend: bool[N, L].

  Returns:
    f32[N, K].
  """
  hidden = model.hidden(variables, tokens, attend)
  last = masked.last_index(attend)
  rows = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
  return model.score(variables, rows)


def token_values(
  model: transformer.Model, variables, tokens: Array, attend: Array
) -> Array:
  """Outputs at every token: a critic's values, or scores of each step.

  Args:
    model: a decoder with config.outputs = K.
    variables: its variables.
    tokens: i32[N, L].
    attend: bool[N, L].

  Returns:
    f32[N, L, K], 0 where not attended.
  """
  hidden = model.hidden(variables, tokens, attend)
  values = model.score(variables, hidden)
  return jnp.where(attend[..., None], values, 0)
