"""Toy search: facts lie in a store, and the answer takes one look or two.

"Aab=" asks for relation b of what is relation a of A. The store of a problem is
its own, so nothing can be learned by heart: the policy asks, "?Aa" and the stop
token, and sees the observation ">C;" (">-;" where there is no such fact), asks
"?Cb", sees ">B;" and answers "B"; see `sampling.tools`. With `shown` the facts
stand in the prompt, "AaC,CbB|Aab=", and no query is needed. Facts are uniform;
at two hops the entity that is asked about is the answer a little more often
than others, 1/E + (1 - 1/E) / (E R), as a fact may lead back to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlreward.errors import UserError
from rlreward.sampling import tools
from rlreward.tasks import answered, curriculum, tokens
from rlreward.tasks.answered_rows import Item, Sizes
from rlreward.types import Array, Rollout, Score, Task

ENTITIES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
RELATIONS = "abcdefghijklmnopqrstuvwxyz"
SEARCH, SHOWN, END, NOTHING = "?", ">", ";", "-"
QUERY = 4  # tokens of a query and its eos
OBSERVATION = 3


def defaults() -> dict[str, Any]:
  """Fields of the task's config section."""
  return {
    "name": "search_world",
    **answered.FIELDS,
    "entities": 4,
    "relations": 2,
    "hops": 1,  # 1 | 2
    "missing": 0.0,  # share of facts that the store has not
    "shown": 0,  # facts in the prompt; 0 leaves them to be searched for
    "spare": 0,  # queries that may be asked beyond those that are needed; below
    # 0 some of those are not answered
  }


def levels() -> tuple[dict[str, Any], ...]:
  """Fields of each level, easy to hard."""
  return (
    {"entities": 4, "relations": 2, "hops": 1},
    {"entities": 4, "relations": 2, "hops": 2},
    {"entities": 8, "relations": 4, "hops": 2},
    {"entities": 26, "relations": 8, "hops": 2},
  )


def at(level: int) -> dict[str, Any]:
  """The task's section at a level."""
  return curriculum.at(defaults(), levels(), level)


def make(
  config: Any = None, *, process_index: int = 0, process_count: int = 1
) -> Task:
  """The task: exact match of the last thing that the policy writes.

  Batches also hold `store` i32[B, E, R]: the place of an entity among
  ENTITIES, -1 for no fact.

  Args:
    config: section with the fields of `defaults`, None for all of them.
    process_index: this host.
    process_count: hosts; each makes its slice of a batch.

  Returns:
    Task, see `answered.task`; demonstrations search, and their loss leaves
    observations out. `spec["tool"]` is what answers the queries, as many as
    the hardest problem needs and `spare` more; None where the facts are shown.
    `spec["observe"]` is `observer`'s, `spec["turns"]` the queries that a
    problem needs, `spec["query_length"]` and `spec["observation_length"]` the
    slots of one.

  Raises:
    UserError: fields that cannot work.
  """
  signs = f"{SEARCH}{SHOWN}{END}{NOTHING},|="
  world = answered.World(
    defaults(), levels(), ENTITIES + RELATIONS + signs, _check, _sizes, _draw,
    lambda c: 1.0 / c["entities"], lambda tok, c: verifier,
  )  # fmt: skip
  task = answered.task(world, config, process_index, process_count)
  _, sections = curriculum.plan(config, defaults(), levels())
  observe = observer(task.spec["tokenizer"])
  turns = max(0 if c["shown"] else c["hops"] for c in sections.values())
  ask = task.spec["tokenizer"].encode(SEARCH)[0]

  def look(query: Array, mask: Array, columns: Mapping[str, Array]):
    """Every turn that begins with "?" is a call."""
    called = mask[:, 0] & (query[:, 0] == ask)
    return *observe(query, mask, columns["store"]), called

  spare = max(c["spare"] for c in sections.values())
  spec = {
    **task.spec,
    "observe": observe,
    "turns": turns,
    "completion_length": task.spec["answer_length"]
    + turns * (QUERY + OBSERVATION),
    "query_length": QUERY,
    "observation_length": OBSERVATION,
    "tool": None,
  }
  if turns:
    spec["tool"] = tools.Tool(look, turns + spare, OBSERVATION, ("store",))
    # What the tool says is part of a right answer, so that none can be listed.
    del spec["outcomes"]
  return task._replace(spec=spec)


def verifier(rollout: Rollout, batch: Mapping[str, Any]) -> Score:
  """Exact match of the last run of actions, inside a compiled function.

  Tokens that the policy did not write part the runs: a row whose last tokens
  are a query or an observation has not answered. `searches` counts the runs
  before the last one.

  Args:
    rollout: observations are attended and no actions.
    batch: `answer`, `answer_mask`.
  """
  action = rollout.action
  before = jnp.pad(action, ((0, 0), (1, 0)))[:, :-1]
  run = jnp.cumsum(action & ~before, 1)  # number of the run so far
  count = run[:, -1:]
  correct, _ = answered.exact(rollout, batch, action & (run == count))
  place = jnp.arange(action.shape[1])
  end = lambda mask: jnp.max(jnp.where(mask, place, -1), 1)
  # An observation at the end means that the policy has not answered it.
  correct &= end(action) == end(rollout.attend)
  searches = jnp.maximum(count[:, 0] - 1, 0).astype(jnp.float32)
  return answered.scored(correct, searches=searches)


def observer(
  tok: tokens.CharTokenizer,
) -> Callable[[Array, Array, Array], tuple[Array, Array]]:
  """What a query shows, as a pure function of tokens.

  Args:
    tok: of the task.

  Returns:
    (query i32[N, Q], mask bool[N, Q], store i32[N, E, R]) -> observation
    i32[N, 3] and its mask. The tokens of a query that count are "?", an
    entity, a relation and eos, nothing more or less; anything else, and a fact
    that is not there, shows ">-;".
  """
  ask, show, end, nothing = (
    tok.encode(s)[0] for s in (SEARCH, SHOWN, END, NOTHING)
  )
  entity, relation = tok.encode(ENTITIES[0])[0], tok.encode(RELATIONS[0])[0]

  def observe(query: Array, mask: Array, store: Array) -> tuple[Array, Array]:
    query, mask, store = (jnp.asarray(x) for x in (query, mask, store))
    rank = jnp.cumsum(mask, 1) - 1
    said = lambda i: jnp.sum(jnp.where(mask & (rank == i), query, 0), 1)
    row, column = said(1) - entity, said(2) - relation
    n, e, r = store.shape
    fits = (jnp.sum(mask, 1) == QUERY) & (said(0) == ask)
    fits &= (said(3) == tok.eos_ids[0]) & (row >= 0) & (row < e)
    fits &= (column >= 0) & (column < r)
    found = store[
      jnp.arange(n), jnp.clip(row, 0, e - 1), jnp.clip(column, 0, r - 1)
    ]
    middle = jnp.where(fits & (found >= 0), found + entity, nothing)
    whole = lambda i: jnp.full(n, i)
    out = jnp.stack([whole(show), middle, whole(end)], 1).astype(jnp.int32)
    return out, jnp.ones(out.shape, bool)

  return observe


def _sizes(c: Mapping[str, Any]) -> Sizes:
  ask = 1 + c["hops"] + 1
  shown = 4 * c["shown"]  # a fact and the sign behind it
  turns = 0 if c["shown"] else c["hops"] * (QUERY + OBSERVATION)
  store = {"store": (c["entities"], c["relations"])}
  return Sizes(shown + ask, 2, turns, store)


def _draw(c: Mapping[str, Any], rng: np.random.Generator) -> Item:
  e, r, hops = c["entities"], c["relations"], c["hops"]
  store = rng.integers(0, e, (e, r)).astype(np.int32)
  store[rng.random((e, r)) < c["missing"]] = -1
  here = int(rng.integers(e))
  ask, path = ENTITIES[here], []
  for _ in range(hops):
    relation = int(rng.integers(r))
    if store[here, relation] < 0:  # what is asked for is there
      store[here, relation] = rng.integers(e)
    path.append((here, relation))
    ask += RELATIONS[relation]
    here = int(store[here, relation])
  name = lambda i, j: f"{ENTITIES[i]}{RELATIONS[j]}"
  turns = [
    (f"{SEARCH}{name(i, j)}", f"{SHOWN}{ENTITIES[store[i, j]]}{END}")
    for i, j in path
  ]
  shown = ""
  if c["shown"]:
    known = {*path}
    others = [
      (i, j) for i, j in np.argwhere(store >= 0).tolist() if (i, j) not in known
    ]
    rest = [others[k] for k in rng.permutation(len(others))]
    facts = [*dict.fromkeys(path), *rest][: c["shown"]]
    order = rng.permutation(len(facts))
    said = [f"{name(*facts[k])}{ENTITIES[store[facts[k]]]}" for k in order]
    shown, turns = ",".join(said) + "|", []
  wrong = ENTITIES[answered.other(rng, e, here)]
  return Item(f"{shown}{ask}=", ENTITIES[here], wrong, turns, {"store": store})


def _check(c: Mapping[str, Any]) -> None:
  answered.whole("entities", c["entities"], 2, len(ENTITIES))
  answered.whole("relations", c["relations"], 1, len(RELATIONS))
  answered.whole("hops", c["hops"], 1, 2)
  most = c["entities"] * c["relations"]
  answered.whole("shown", c["shown"], 0, most)
  answered.whole("spare", c["spare"], -c["hops"], 8)
  if 0 < c["shown"] < c["hops"]:
    raise UserError(
      f"shown={c['shown']} with hops={c['hops']}",
      "the facts that a question needs would not all be in the prompt",
      f"set shown={c['hops']} or more, or 0 to search",
    )
  if not isinstance(c["missing"], (int, float)) or not 0 <= c["missing"] < 1:
    raise UserError(
      f"missing={c['missing']!r}", "it is a share", "use 0 or more, below 1"
    )
