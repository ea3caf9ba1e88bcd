"""The vocabulary of the package: plain records that import nothing of ours.

Shape letters used everywhere: B prompts, G samples per prompt, N = B * G rows
(prompt-major: row n belongs to prompt n // G), P prompt slots, T completion
slots, L = P + T, V vocabulary, D width, K members or attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

Array = jax.Array
PyTree = Any

# Why a row ended (`Rollout.finish`). RUNNING never leaves the sampler.
RUNNING, STOP, LENGTH = 0, 1, 2
FINISH_NAMES = ("running", "stop", "length")


class Sampling(NamedTuple):
  """The distribution that tokens were drawn from.

  Attributes:
    temperature: f32[], logits are divided by it; 0 means greedy.
    top_p: f32[], nucleus mass; 1 keeps everything.
    top_k: i32[], number of kept tokens; 0 keeps everything.
    min_p: f32[], kept share of the largest probability; 0 keeps everything.
  """

  temperature: Any = 1.0
  top_p: Any = 1.0
  top_k: Any = 0
  min_p: Any = 0.0


class Rollout(NamedTuple):
  """Sampled rows. The prompt is left-padded to P slots, the rest right-padded.

  Masks are carried and never inferred from ids: pad may equal eos.

  Attributes:
    tokens: i32[N, L].
    attend: bool[N, L], slots that hold a real token.
    action: bool[N, L], tokens the policy chose (the stop token included).
    loss: bool[N, L], actions that are trained on; a subset of `action`.
    logp: f32[N, L], behaviour log-prob of `tokens[n, t]` given what precedes
      it, at the sampling temperature; 0 where `action` is false.
    group: i32[N], prompt index of the row.
    finish: i32[N], STOP or LENGTH.
    version: i32[], training step of the parameters that sampled.
    sampling: the distribution sampled from.
    extras: named arrays with leading axis N (reference_logp, value, ...).
  """

  tokens: Array
  attend: Array
  action: Array
  loss: Array
  logp: Array
  group: Array
  finish: Array
  version: Array
  sampling: Sampling = Sampling()
  extras: Mapping[str, Array] = {}


class Preference(NamedTuple):
  """Pairs of answers to one prompt; strength is f32[B], 1 for a plain pair."""

  chosen: Mapping[str, Array]
  rejected: Mapping[str, Array]
  strength: Array


class Score(NamedTuple):
  """What a reward says about N rows.

  Attributes:
    value: f32[N].
    valid: bool[N]; false means "no judgement", never a reward of zero. Invalid
      rows leave the group statistics and the loss.
    tokens: f32[N, L] or None, a reward for each token, NaN where it has none
      (a reward that scores steps does so at the tokens that end them).
    components: {name: f32[N]}, the parts that `value` was made of.
  """

  value: Array
  valid: Array
  tokens: Array | None = None
  components: Mapping[str, Array] = {}


class State(NamedTuple):
  """Everything a run is. One pytree; its structure never changes.

  Attributes:
    step: i32[].
    params: {role: tree}, trained.
    frozen: {role: tree}, never written.
    opt: optimiser state.
    key: typed PRNG key; the key of step t is `fold_in(key, t)`.
    extra: a method's own pytree (running statistics, controllers).
  """

  step: Array
  params: Mapping[str, PyTree]
  frozen: Mapping[str, PyTree]
  opt: PyTree
  key: Array
  extra: PyTree = ()


class Phases(NamedTuple):
  """The parts of an online step, so that a loop can time and log them apart.

  Attributes:
    sample: (State, batch, key) -> Rollout; jitted. With a tool on the host it
      is not, and takes the whole batch as a fourth argument.
    score: (Rollout, batch) -> Score; on the host when rewards read text.
    update: (State, Rollout, Score) -> (State, metrics); jitted, donates State.
  """

  sample: Callable[..., Rollout]
  score: Callable[..., Score]
  update: Callable[..., tuple[State, Mapping[str, Array]]]


class Method(NamedTuple):
  """An algorithm: pure functions over a State.

  Attributes:
    init: key -> State.
    step: (State, batch, key) -> (State, metrics).
    evaluate: (State, batch, key, whole batch) -> metrics, rollout, score.
      None where there is nothing to sample.
    phases: the parts of `step` for online methods, else None.
    source: field of Task that gives the batches of `step`: "batches",
      "demonstrations", "preferences" or "labelled".
    held: (state, batch of `source`) -> {metric: (sum, weight)} without an
      update, for held-out rows; None where there is no such number.
    given: {role: config section with a `path`}, frozen models that `init`
      takes as its third argument, {role: variables}.
    reads: frozen roles that the sampler reads.
  """

  init: Callable[..., State]
  step: Callable[..., tuple[State, Mapping[str, Array]]]
  evaluate: Callable[..., Mapping[str, Array]] | None
  phases: Phases | None = None
  source: str = "batches"
  held: Callable[..., Mapping[str, Any]] | None = None
  given: Mapping[str, Any] = {}
  reads: tuple[str, ...] = ()


class Shaping(NamedTuple):
  """A transform of scores with explicit state.

  Attributes:
    init: () -> S.
    update: (Score, S, Rollout) -> (Score, S).
    beside: samples of the reference that it compares each prompt's rows with;
      `Rollout.extras` then has their rewards, NaN where there is no judgement:
      `beside/value` and `beside/<component>`, f32[N, beside].
    reads: components of the Score that it reads.
  """

  init: Callable[[], PyTree]
  update: Callable[[Score, PyTree, Rollout], tuple[Score, PyTree]]
  beside: int = 0
  reads: tuple[str, ...] = ()


class Task(NamedTuple):
  """A world to learn in.

  Attributes:
    batches: (split, batch_size, seed) -> iterator of batches; the iterator has
      `get_state()` and `set_state(state)`. A batch is a dict with `prompt`
      i32[B, P] left-padded, `prompt_mask` bool[B, P] and any other columns.
    reward: (Rollout, batch) -> Score, what is trained on.
    gold: (Rollout, batch) -> Score, what is wanted; None where unknown.
    spec: plain facts: vocab_size, prompt_length, stop_ids, pad_id, on_device
      (True when `reward` is jittable), tokenizer (or None). Where the answers
      can be listed, `outcomes`: batch -> Outcomes.
    demonstrations: (split, batch_size, seed) -> iterator like that of
      `batches`, of `tokens` i32[B, L], `attend` and `loss` bool[B, L]; None
      where the task has none.
    preferences: the same call, of pairs: `tokens` i32[2B, L], `attend` and
      `loss` bool[2B, L], `strength` f32[2B]; rows 2i and 2i + 1 are the chosen
      and the rejected answer of pair i. `reference_logp` f32[2B] and `tie`
      bool[2B] where the data has them. None where the task has no pairs.
    labelled: the same call, of single answers: `tokens`, `attend`, `loss`
      [B, L] and `label` bool[B], `reference_logp` f32[B] where the data has
      it. None where the task has no labels.
  """

  batches: Callable[..., Iterator[Mapping[str, Any]]]
  reward: Callable[..., Score]
  gold: Callable[..., Score] | None
  spec: Mapping[str, Any]
  demonstrations: Callable[..., Iterator[Mapping[str, Any]]] | None = None
  preferences: Callable[..., Iterator[Mapping[str, Any]]] | None = None
  labelled: Callable[..., Iterator[Mapping[str, Any]]] | None = None


class Outcomes(NamedTuple):
  """The answers to B prompts, listed: Y of each.

  Attributes:
    tokens: i32[B, Y, T], each with its stop token.
    mask: bool[B, Y, T], tokens that are there; the rest is padding.
    reward: f32[B, Y].
    rest: the reward of every answer that is not listed; None where all are.
    gold: f32[B, Y], what is wanted; None where it is the reward, and where
      some answers are not listed.
  """

  tokens: Any
  mask: Any
  reward: Any
  rest: float | None
  gold: Any = None


class Arm(NamedTuple):
  """One side of a comparison: a name and the config fields it changes."""

  name: str
  overrides: Mapping[str, Any]
