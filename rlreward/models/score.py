"""Log-probs of completions, with each prompt computed once per group."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlreward.models import transformer
from rlreward.ops import logprob

Array = jax.Array


def completion_hidden(
  model: transformer.Model,
  variables,
  tokens: Array,
  attend: Array,
  prompt_length: int,
  share: int = 1,
) -> Array:
  """Hidden states that predict the completion tokens.

  Args:
    model: the decoder.
    variables: its variables.
    tokens: i32[N, P + T].
    attend: bool[N, P + T].
    prompt_length: P.
    share: rows in succession that have the same prompt slots; it divides N.

  Returns:
    [N, T, D]; entry t predicts tokens[:, P + t].
  """
  p = prompt_length
  prompt, prompt_attend = (_prompts(x, p, share) for x in (tokens, attend))
  if tokens.shape[1] == p + 1:
    hidden = model.hidden(variables, prompt, prompt_attend)
    return jnp.repeat(hidden[:, -1:], share, 0)
  hidden, own = model.together(
    variables, prompt, prompt_attend, tokens[:, p:-1], attend[:, p:-1]
  )
  last = jnp.repeat(hidden[:, -1:], share, 0)
  return jnp.concatenate([last, own], 1)


def completion_logprob(
  model: transformer.Model,
  variables,
  tokens: Array,
  attend: Array,
  prompt_length: int,
  share: int = 1,
  temperature: float | Array = 1.0,
  entropy: bool = False,
) -> tuple[Array, Array | None]:
  """log p(tokens[:, P + t] | what precedes) at a temperature.

  Args:
    model: the decoder.
    variables: its variables.
    tokens: i32[N, P + T].
    attend: bool[N, P + T].
    prompt_length: P.
    share: rows in succession that have the same prompt.
    temperature: logits are divided by it.
    entropy: also return the entropy of each distribution, nats.

  Returns:
    (f32[N, T], f32[N, T] or None). Slots that are not attended hold numbers
    without meaning: mask them.
  """
  x = completion_hidden(model, variables, tokens, attend, prompt_length, share)
  return logprob.token_logprob(
    x,
    model.head(variables),
    tokens[:, prompt_length:],
    temperature=temperature,
    softcap=model.config.final_softcap,
    chunk=None,
    entropy=entropy,
  )


def completion_states(
  model: transformer.Model,
  variables,
  tokens: Array,
  attend: Array,
  prompt_length: int,
  share: int = 1,
) -> Array:
  """Hidden states of the completion tokens themselves, each prompt once.

  Args:
    model: the decoder.
    variables: its variables.
    tokens: i32[N, P + T].
    attend: bool[N, P + T].
    prompt_length: P.
    share: rows in succession that have the same prompt.

  Returns:
    [N, T, D]; entry t has read tokens[:, : P + t + 1].
  """
  return both_states(model, variables, tokens, attend, prompt_length, share)[1]


def both_states(
  model: transformer.Model,
  variables,
  tokens: Array,
  attend: Array,
  prompt_length: int,
  share: int = 1,
) -> tuple[Array, Array]:
  """Hidden states of prompts and of completions, each prompt once.

  Args:
    model, variables, tokens, attend, prompt_length, share: as of
      `completion_states`.

  Returns:
    ([N / share, P, D], [N, T, D]).
  """
  p = prompt_length
  prompt, prompt_attend = (_prompts(x, p, share) for x in (tokens, attend))
  return model.together(
    variables, prompt, prompt_attend, tokens[:, p:], attend[:, p:]
  )


def _prompts(x: Array, p: int, share: int) -> Array:
  """[N, L] -> [N / share, P], the prompt slots of each that rows share."""
  return x.reshape(x.shape[0] // share, share, -1)[:, 0, :p]
