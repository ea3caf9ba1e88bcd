"""Reward heads beyond one linear layer, all in the decoder's `score` subtree.

`score/kernel` [D, K] is there whatever the head; the other leaves lie beside
it, so that an adapter trains them and checkpoints hold them.

  scalar    h(y) kernel
  gated     sum_k softmax(MLP(h(x)))_k [h(y) kernel]_k
  moe       router(h(x)) picks a category, whose K experts are joined
  features  link(f w + b), f columns of the data or the outputs of the kernel
  critique  tanh(h(y) W + b) kernel, beside the language head

h(x) is the state at the last token of the prompt, h(y) at that of the answer.

Reference: ArmoRM, arXiv 2406.12845 (gated); DMoERM, 2403.01197 (moe); domain
features, 2402.15473 (features); MM-RLHF, 2502.10391 (critique).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlreward import errors
from rlreward.models import score as score_lib
from rlreward.models import transformer
from rlreward.ops import masked, mixture

Array = jax.Array
KINDS = ("scalar", "gated", "moe", "features", "critique")
PROMPTED = ("gated", "moe")  # they read the end of the prompt
READS = ("hidden", "score")


class Head(NamedTuple):
  """The fields of a config's `model.head`, see `configs/common.py`."""

  kind: str = "scalar"
  hidden: int = 64
  categories: int = 1
  experts: int = 4
  rank: int = 8
  reads: str = "hidden"
  columns: tuple[str, ...] = ()
  weights: tuple[float, ...] = ()
  link: str = "linear"


class Reading(NamedTuple):
  """What a head says of N answers.

  Attributes:
    value: f32[N], the score.
    outputs: f32[N, K], what a loss on single answers is of: the attributes of
      `gated`, else the score.
    parts: {name: f32[N, ...]}: weights of attributes, logits of the router.
  """

  value: Array
  outputs: Array
  parts: Mapping[str, Array]


def describe(c: Any) -> Head:
  """The head of a config's `model` section.

  Args:
    c: section with `outputs` and, where it is not scalar, `head`.

  Raises:
    UserError: fields that cannot be.
  """
  if "head" not in c:
    return Head()
  fields = {k: v for k, v in c.head.items() if k in Head._fields}
  head = Head(**fields)
  head = head._replace(columns=tuple(head.columns), weights=tuple(head.weights))
  if head.kind == "scalar":
    return head
  sizes = (head.hidden, head.categories, head.experts, head.rank)
  for what, value, good, fix in (
    ("kind", head.kind, head.kind in KINDS, f"one of {', '.join(KINDS)}"),
    ("reads", head.reads, head.reads in READS, f"one of {', '.join(READS)}"),
    ("link", head.link, head.link in mixture.LINKS,
     f"one of {', '.join(mixture.LINKS)}"),
    ("hidden, categories, experts, rank", sizes, min(sizes) >= 1, "1 or more"),
  ):  # fmt: skip
    if not good:
      raise errors.UserError(
        f"model.head.{what}={value!r}",
        "it is the shape of the reward head",
        f"use {fix}",
      )
  several = head.kind == "gated" or (
    head.kind == "features" and not head.columns
  )
  if not (c.outputs > 1 if several else c.outputs == 1):
    raise errors.UserError(
      f"model.outputs={c.outputs} with model.head.kind={head.kind!r}",
      "outputs are the attributes that a head mixes, or its one score",
      f"set model.outputs={'to their number, 2 or more' if several else 1}",
    )
  if head.kind == "features" and not head.columns and head.weights:
    if len(head.weights) != c.outputs:
      raise errors.UserError(
        f"model.head.weights={head.weights} of {c.outputs} outputs",
        "each feature has a weight",
        f"give {c.outputs} weights, or () to learn them",
      )
  return head


def init(key: Array, head: Head, width: int, outputs: int) -> dict[str, Any]:
  """Leaves beside `kernel`, drawn.

  Args:
    key: typed PRNG key.
    head: which one.
    width: D.
    outputs: K of the kernel.

  Returns:
    A tree of f32; empty for a scalar head.
  """
  keys = iter(jax.random.split(key, 8))
  normal = lambda *shape: (
    jax.random.normal(next(keys), shape) * shape[-2] ** -0.5
  )
  h = head.hidden
  if head.kind == "gated":
    gate = {"in": normal(width, h), "bias": jnp.zeros(h)}
    return {"gate": {**gate, "out": normal(h, outputs)}}
  if head.kind == "critique":
    dense = {"kernel": normal(width, width), "bias": jnp.zeros(width)}
    return {"dense": dense}
  if head.kind == "features":
    if head.weights:
      return {}
    size = len(head.columns) or outputs
    # Equal weights: before training the score is the mean of the features.
    return {"features": {"weights": jnp.full(size, 1 / size),
                         "bias": jnp.zeros(())}}  # fmt: skip
  if head.kind == "moe":
    c, k, r = head.categories, head.experts, head.rank
    into = k * width if head.reads == "hidden" else k
    return {
      "router": {"kernel": normal(width, c)},
      "experts": {"down": normal(c, k, width, r), "up": normal(c, k, r, width)},
      "join": {
        "in": normal(c, into, h),
        "bias": jnp.zeros((c, h)),
        "slope": jnp.full(c, 0.25),
        "out": normal(c, h, 1)[..., 0],
      },
    }
  return {}


def states(
  model: transformer.Model,
  variables,
  tokens: Array,
  attend: Array,
  prompt_length: int,
  share: int = 1,
) -> tuple[Array, Array, Array]:
  """(h(x) [N, D], h(y) [N, D], states of the answer's tokens [N, T, D]).

  Args:
    model: the decoder.
    variables: its variables.
    tokens: i32[N, P + T], prompts left-padded, answers right-padded.
    attend: bool[N, P + T].
    prompt_length: P.
    share: rows in succession that have one prompt.
  """
  p = prompt_length
  x, own = score_lib.both_states(
    model, variables, tokens, attend, prompt_length, share
  )
  last = masked.last_index(attend[:, p:])
  end = jnp.take_along_axis(own, last[:, None, None], 1)[:, 0]
  return jnp.repeat(x[:, -1], share, 0), end, own


def read(
  head: Head,
  model: transformer.Model,
  variables,
  prompt: Array | None,
  end: Array,
  columns: Mapping[str, Array],
) -> Reading:
  """The score of answers from their states.

  Args:
    head: which one.
    model: the decoder.
    variables: its variables.
    prompt: h(x) [N, D]; None for heads that do not read it.
    end: h(y) [N, D].
    columns: features [N] or [N, F] by name; `category` i32[N], which then
      routes in place of the router.

  Raises:
    UserError: a feature that is not there.
  """
  tree = jax.tree.map(
    lambda w: w.astype(jnp.float32), variables["params"]["score"]
  )
  if head.kind == "moe":
    assert prompt is not None
    return _moe(head, tree, prompt, end, columns)
  if head.kind == "critique":
    dense = tree["dense"]
    end = jnp.tanh(end.astype(jnp.float32) @ dense["kernel"] + dense["bias"])
    value = (end @ tree["kernel"])[:, 0]
    return Reading(value, value[:, None], {})
  outputs = model.score(variables, end)
  if head.kind == "gated":
    assert prompt is not None
    gate = tree["gate"]
    logits = mixture.perceptron(
      prompt.astype(jnp.float32), gate["in"], gate["bias"], gate["out"]
    )
    value, weight = mixture.gated(outputs, logits)
    return Reading(value, outputs, {"gate": weight})
  if head.kind == "features":
    f = _features(head, columns) if head.columns else outputs
    fixed = jnp.asarray(head.weights, jnp.float32)
    own = tree.get("features", {"weights": fixed, "bias": 0.0})
    # The loss is of the score itself; `shown` has the link.
    value = mixture.combined(f, own["weights"], own["bias"], "linear")
    return Reading(value, outputs, {"features": f})
  return Reading(outputs[:, 0], outputs, {})


def at_places(
  head: Head,
  model: transformer.Model,
  variables,
  tokens: Array,
  attend: Array,
  prompt_end: Array,
) -> Reading:
  """The score of whole rows, as it is reported.

  Args:
    head: which one; its features are outputs, not columns.
    model: the decoder.
    variables: its variables.
    tokens: i32[N, L], padded on either side.
    attend: bool[N, L].
    prompt_end: i32[N], slot of the prompt's last token.
  """
  hidden = model.hidden(variables, tokens, attend)
  at = lambda i: jnp.take_along_axis(hidden, i[:, None, None], axis=1)[:, 0]
  x, end = at(prompt_end), at(masked.last_index(attend))
  found = read(head, model, variables, x, end, {})
  return found._replace(value=shown(head, found.value))


def shown(head: Head, value: Array) -> Array:
  """The score as it is reported: in (0, 1) where the link is a sigmoid."""
  sigmoid = head.kind == "features" and head.link == "sigmoid"
  return jax.nn.sigmoid(value) if sigmoid else value


def _moe(head, tree, prompt, end, columns) -> Reading:
  # What routes learns from categories alone and changes nothing that scores.
  seen = jax.lax.stop_gradient(prompt).astype(jnp.float32)
  logits = seen @ tree["router"]["kernel"]
  place = jnp.argmax(logits, -1)
  if "category" in columns:
    place = columns["category"]
  h = end.astype(jnp.float32)
  n = h.shape[0]

  def of_category(experts, join):
    state = mixture.experts(h, experts["down"], experts["up"])  # [N, K, D]
    if head.reads == "score":
      state = state @ tree["kernel"]
    x = state.reshape(n, -1)
    return mixture.joined(x, join["in"], join["bias"], join["slope"],
                          join["out"])  # fmt: skip

  each = jax.vmap(of_category)(tree["experts"], tree["join"])  # [C, N]
  value = mixture.routed(each.T, place)
  return Reading(value, value[:, None], {"router": logits})


def _features(head: Head, columns: Mapping[str, Array]) -> Array:
  missing = [n for n in head.columns if n not in columns]
  if missing:
    raise errors.UserError(
      f"model.head.columns={head.columns}, and rows have no {missing[0]!r}",
      "a score of features needs all of them",
      f"use columns of the task: {', '.join(sorted(columns)) or 'none'}",
    )
  return jnp.stack([columns[n].astype(jnp.float32) for n in head.columns], 1)
