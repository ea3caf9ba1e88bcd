"""Scores that are made of several: gated attributes, experts, features."""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp

Array = jax.Array
Link = Literal["linear", "sigmoid"]
LINKS: tuple[Link, ...] = ("linear", "sigmoid")


def gated(values_NxK: Array, logits_NxK: Array) -> tuple[Array, Array]:
  """sum_k softmax(logits)_k values_k, and the weights.

  Args:
    values_NxK: attributes of answers.
    logits_NxK: of their weights, from what was asked.

  Returns:
    (f32[N], f32[N, K]).

  Reference: ArmoRM, arXiv 2406.12845.
  """
  chex.assert_equal_shape([values_NxK, logits_NxK])
  weight = jax.nn.softmax(logits_NxK.astype(jnp.float32), -1)
  return jnp.sum(weight * values_NxK, -1), weight


def perceptron(x_NxF: Array, into: Array, bias: Array, out: Array) -> Array:
  """relu(x A + b) C: a network with one hidden layer.

  Args:
    x_NxF: inputs.
    into: [F, H].
    bias: [H].
    out: [H, K].

  Returns:
    [N, K].
  """
  return jax.nn.relu(x_NxF @ into + bias) @ out


def experts(x_NxD: Array, down: Array, up: Array) -> Array:
  """x + (x A_k) B_k for each of K experts: low-rank changes of one state.

  Args:
    x_NxD: hidden states.
    down: [K, D, R].
    up: [K, R, D].

  Returns:
    [N, K, D].

  Reference: DMoERM has a LoRA for each expert, arXiv 2403.01197.
  """
  low = jnp.einsum("nd,kdr->nkr", x_NxD, down)
  return x_NxD[:, None] + jnp.einsum("nkr,krd->nkd", low, up)


def joined(x_NxF: Array, into: Array, bias: Array, slope: Array, out: Array):
  """prelu(x A + b) c: what joins the experts to one score.

  Args:
    x_NxF: all experts' states or scores, side by side.
    into: [F, H].
    bias: [H].
    slope: [], of the negative side.
    out: [H].

  Returns:
    [N].

  Reference: DMoERM, arXiv 2403.01197.
  """
  z = x_NxF @ into + bias
  return jnp.where(z > 0, z, slope * z) @ out


def routed(values_NxC: Array, place_N: Array) -> Array:
  """values[n, place[n]]: hard top-1, without a gradient to the router.

  Args:
    values_NxC: score of each category's model.
    place_N: i32, the category.

  Returns:
    [N].
  """
  return jnp.take_along_axis(values_NxC, place_N[:, None], 1)[:, 0]


def combined(
  features_NxF: Array, weights_F: Array, bias: Array | float, link: Link
) -> Array:
  """link(f w + b): a reward of reward functions.

  Args:
    features_NxF: what is known of each answer.
    weights_F: fixed or learned.
    bias: [].
    link: one of LINKS.

  Returns:
    [N].

  Raises:
    ValueError: unknown link.

  Reference: domain features, arXiv 2402.15473; the goodness of HelpSteer2.
  """
  if link not in LINKS:
    raise ValueError(f"unknown link {link!r}; choose one of {LINKS}")
  score = features_NxF @ weights_F + bias
  return jax.nn.sigmoid(score) if link == "sigmoid" else score
