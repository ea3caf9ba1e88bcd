"""A reward model under study: trained as any other, judged by a benchmark.

The step is that of the method that trains. Held-out rows with the columns of a
benchmark are scored in compiled code, and the scores go to the runner that
judges real reward models, on the host in float64: `bench/<name>`. Beside it
stands what scores drawn from N(0, 1) get there, `random/<name>`: chance,
whatever the rules are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlreward.evals import preference
from rlreward.steps import fit, judge, rank, roles
from rlreward.types import Array, Method, State, Task

Rows = Mapping[str, np.ndarray]
# (scores f64[..., N], rows) -> numbers by name
Report = Callable[[np.ndarray, Rows], Mapping[str, float]]


def make(
  method: Method,
  scores: Callable[[State, Mapping[str, Array]], Array],
  report: Report,
) -> Method:
  """The method, with a benchmark among its held-out numbers.

  Args:
    method: trains a reward model, or several.
    scores: (state, rows) -> f32[..., N], of N answers; it is compiled.
    report: what the benchmark says of scores. Rows are its task's: `item`
      i32[N], -1 where a row is no candidate, and what `items` reads.
  """
  assert method.held is not None
  plain, compiled = method.held, jax.jit(scores)

  def held(state: State, batch: Mapping[str, Any]):
    found = dict(plain(state, batch))
    if "item" not in batch:
      return found
    read = {k: batch[k] for k in ("tokens", "attend")}
    score = judge.on_host(compiled(state, read)).astype(np.float64)
    rows = judge.on_host(dict(batch))
    seed = np.asarray(jax.random.key_data(state.key)).reshape(-1).tolist()
    chance = np.random.default_rng(seed).normal(size=score.shape)
    numbers = {f"bench/{k}": v for k, v in report(score, rows).items()}
    numbers |= {f"random/{k}": v for k, v in report(chance, rows).items()}
    one = jnp.ones(())
    return found | {
      k: (jnp.float32(v), one) for k, v in numbers.items() if np.isfinite(v)
    }

  return method._replace(held=held)


def single(config, task: Task) -> Callable[..., Array]:
  """The scores of one reward model, for `make`.

  Args:
    config: section `model`.
    task: says how long answers are.
  """
  actor, slots = roles.policy(config.model), fit.slots(task)

  def scores(state: State, rows: Mapping[str, Array]) -> Array:
    variables = actor.variables(state.params, state.frozen)
    each = rank.scores(actor, variables, rows, slots, 1)
    return rank.at_end(each, rows, slots)[:, 0]

  return scores


def items(
  score: np.ndarray,
  rows: Rows,
  groups: Sequence[str],
  languages: Sequence[str] = (),
) -> dict[str, Any]:
  """Scores of rows as the columns that `evals.preference.evaluate` takes.

  Args:
    score: f64[N].
    rows: `item` i32[N], rows of an item in succession and the right ones first,
      -1 for none; `right` bool[N]; `group` i32[N], place in `groups`;
      where there are `name` i32[N], the prompt, and `kind` i32[N], 0 for a
      prompt's "ref" item and 1 for its "tied" one, and `language` i32[N].
    groups: names of subsets.
    languages: names.

  Returns:
    {"scores": f64[I, K], "valid", "num_correct", "group", and "ids" and
    "language" where rows have them}.
  """
  own = np.flatnonzero(rows["item"] >= 0)
  item = rows["item"][own]
  first = np.flatnonzero(np.r_[True, item[1:] != item[:-1]])
  count = np.diff(np.r_[first, len(item)])
  place = np.arange(len(item)) - np.repeat(first, count)
  row = np.repeat(np.arange(len(first)), count)
  table = np.full((len(first), count.max(initial=1)), np.nan)
  table[row, place] = score[own]
  at = own[first]
  out = {
    "scores": table,
    "valid": np.arange(table.shape[1]) < count[:, None],
    "num_correct": np.bincount(row, rows["right"][own], len(first)).astype(int),
    "group": np.asarray(groups)[rows["group"][at]],
  }
  if "name" in rows:
    names = [str(n) for n in rows["name"][at]]
    kinds = rows["kind"][at] if "kind" in rows else np.full(len(at), -1)
    words = {-1: "", 0: "ref:", 1: "tied:"}
    out["ids"] = [words[int(k)] + n for k, n in zip(kinds, names, strict=True)]
  if languages:
    out["language"] = np.asarray(languages)[rows["language"][at]]
  return out


def run(columns: Mapping[str, Any], spec: str) -> dict[str, float]:
  """A benchmark's numbers, flat: its total, sections, subsets and the rest.

  Args:
    columns: of `items`.
    spec: name of a benchmark, see `evals.benchmarks`.

  Returns:
    {"total", "<section>", "<section>/<subset>"-like names as given, names of
    `extra`}; NaN where nothing was judged.
  """
  found = preference.evaluate(**columns, spec=spec, resamples=0)
  value = lambda x: float("nan") if x is None else float(x)
  out = {k: value(v["accuracy"]) for k, v in found["subsets"].items()}
  out |= {k: value(v["value"]) for k, v in found["sections"].items()}
  out |= {k: value(v["value"]) for k, v in found["extra"].items()}
  return {**out, "total": value(found["total"]["value"])}
