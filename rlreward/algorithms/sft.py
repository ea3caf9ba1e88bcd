"""Supervised fine-tuning: -log p of the demonstrated tokens, token mean.

  L = -sum_t mask_t log pi(y_t | x, y_<t) / sum_t mask_t

over the whole batch, whatever the microbatch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlreward.models import transformer
from rlreward.ops import logprob
from rlreward.steps import fit
from rlreward.types import Method, Task


def make(config, task: Task) -> Method:
  """SFT on the task's demonstrations; the loss mask is theirs."""
  return fit.make(config, task, loss=cross_entropy)


def cross_entropy(model: transformer.Model, variables, batch):
  """Per-token loss, its mask and the negative log-likelihood as a metric.

  Args:
    model: the decoder.
    variables: its variables.
    batch: tokens i32[B, L], attend bool[B, L], loss bool[B, L].

  Returns:
    (f32[B, L - 1], bool[B, L - 1], {"nll": f32[B, L - 1]}).
  """
  tokens, attend = batch["tokens"], batch["attend"]
  x = model.hidden(variables, tokens[:, :-1], attend[:, :-1])
  logp, _ = logprob.token_logprob(
    x,
    model.head(variables),
    tokens[:, 1:],
    softcap=model.config.final_softcap,
    chunk=None,
  )
  mask = jnp.asarray(batch["loss"][:, 1:], bool)
  return -logp, mask, {"nll": jax.lax.stop_gradient(-logp)}
