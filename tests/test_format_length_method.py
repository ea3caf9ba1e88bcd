"""Format-Length: its rewards by hand, refusals, arms, what the claim asks."""

import json

import jax
import jax.numpy as jnp
import nano
import numpy as np
import paths
import pytest

from rlreward import config as config_lib
from rlreward import errors, registry
from rlreward.configfile import execute, find
from rlreward.methods import format_length
from rlreward.ops import lengths
from rlreward.types import Rollout, Score

SPEC = "configs/format_length.py"
STUDY = config_lib.study(SPEC)
FILE = vars(execute(find(SPEC)))
MOST = 8


def mini(**changes):
  return config_lib.replace(config_lib.load(f"{SPEC}:mini"), changes)


def arms():
  return {a.name: a.overrides for a in (*STUDY.arms, FILE["BROKEN"])}


def apply(link, thought, answered, right, size, names=(), **changes):
  """Values f32[N] and valid bool[N] of a link; sizes are in tokens."""
  fields = {"link": link, "names": names, **changes}
  c = nano.config(**{f"shaping__{k}": v for k, v in fields.items()})
  shape = format_length.shaper(c.shaping, MOST)
  n = len(size)
  action = np.arange(2 * MOST) < np.asarray(size)[:, None]
  blank = jnp.zeros(action.shape)
  zero = jnp.zeros(n, jnp.int32)
  rollout = Rollout(
    blank, blank, jnp.asarray(action), blank, blank, zero, zero, jnp.zeros(())
  )
  keys = names or format_length.PARTS
  parts = dict(zip(keys, (thought, answered, right), strict=False))
  parts = {k: jnp.asarray(v, jnp.float32) for k, v in parts.items()}
  score = Score(jnp.full(n, 7.0), jnp.ones(n, bool), None, parts)
  found = shape.update(score, shape.init(), rollout)[0]
  return np.asarray(found.value), np.asarray(found.valid)


# s, a, right and tokens of a budget of 8 (p = 1/2): R is 0, .75, 1, .5, -1.
ROWS = {
  "thought": [1, 1, 0, 1, 0, 0, 1],
  "answered": [1, 1, 1, 0, 0, 0, 0],
  "right": [0, 1, 1, 0, 0, 0, 0],
  "size": [2, 4, 6, 4, 8, 0, 6],
}


@pytest.mark.parametrize(
  ("link", "want"),
  [
    ("format_length", [1.75, 2.0, 1.0, 0.0, -1.0, 0.0, 0.0]),
    ("format_only", [1.0, 1.0, 0.5, 0.5, 0.0, 0.0, 0.5]),
    ("correctness", [0.5, 1.5, 1.0, 0.5, 0.0, 0.0, 0.5]),
  ],
)
def test_each_reward_by_hand(link, want):
  found, valid = apply(link, **ROWS)
  np.testing.assert_allclose(found, want, atol=1e-6)
  assert valid.all()


def test_the_curve_of_lengths_at_its_table():
  x = jnp.asarray([0, 0.1, 0.25, 0.5, 0.75, 1])
  found = lengths.parabola(1000 * x, 1000)
  np.testing.assert_allclose(found, [0, 0.36, 0.75, 1, 0.5, -1], atol=1e-6)
  # Both sides meet at the peak, whatever it is.
  for p in (0.1, 0.25, 0.9):
    near = lengths.parabola(jnp.asarray([p - 1e-4, p + 1e-4]), 1, p)
    np.testing.assert_allclose(near, 1, atol=1e-5)


def test_an_answer_that_cannot_be_read_never_earns_from_its_length():
  size = np.arange(MOST + 1)
  none = np.zeros(MOST + 1)
  found, _ = apply("format_length", none + 1, none, none, size)
  assert found.max() == 0 and found[MOST // 2] == 0 and found[MOST] == -1


def test_only_correctness_reads_the_gold_answer():
  unknown = {**ROWS, "right": [np.nan] * 7}
  for link in ("format_length", "format_only"):
    assert apply(link, **unknown)[1].all()
    assert apply(link, **unknown, names=("a", "b"))[1].all()
  value, valid = apply("correctness", **unknown)
  assert not valid.any() and not value.any()


def test_an_unknown_part_is_no_reward_of_zero():
  odd = {**ROWS, "answered": [np.nan, 1, 1, 0, 0, 0, 0]}
  value, valid = apply("format_length", **odd)
  assert not valid[0] and valid[1:].all() and value[0] == 0


def test_the_peak_moves_with_its_share():
  one = [1] * 3
  found, _ = apply("format_length", one, one, one, [1, 2, 4], peak=0.25)
  np.testing.assert_allclose(found, [1.75, 2.0, 2 - 2 / 9], rtol=1e-6)


# ------------------------------------------------------------ the method
def made(**changes):
  c = nano.config(**{"shaping__link": "format_length",
                     "shaping__names": ("even",) * 3, **changes})  # fmt: skip
  method = format_length.make(c, nano.task())
  return method, jax.eval_shape(method.init, jax.random.key(0))


@pytest.mark.parametrize("link", sorted(format_length.LINKS))
def test_each_reward_makes_a_step(link):
  method, state = made(shaping__link=link)
  after, metrics = jax.eval_shape(
    method.step, state, nano.batch(), jax.random.key(0)
  )
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert metrics["rows"]["reward"].shape == (nano.B * nano.G,)
  assert "reference" not in state.frozen  # no KL, no reference


@pytest.mark.parametrize(
  ("changes", "word"),
  [
    ({"shaping__link": "sum"}, "link"),
    ({"shaping__peak": 0.0}, "peak"),
    ({"shaping__peak": 1.0}, "peak"),
    ({"shaping__names": ("even",)}, "names"),
    ({"shaping__link": "correctness", "shaping__names": ("a", "b")}, "names"),
    ({"samples_per_prompt": 1}, "samples_per_prompt"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_compiles(changes, word):
  with pytest.raises(errors.UserError, match=word):
    made(**changes)


@pytest.mark.parametrize("arm", sorted(arms()))
def test_arms_are_made(arm):
  c = mini(**arms()[arm])
  task = registry.task(c)
  method = format_length.make(c, task)
  state = jax.eval_shape(method.init, jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, next(task.batches("train", 8, 0)))
  after, _ = jax.eval_shape(method.step, state, batch, state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)


def test_the_size_of_the_paper_builds_without_memory():
  c = config_lib.load(f"{SPEC}:pod")
  shape = {"path": "", "vocab": 152_064, "width": 3584, "layers": 28,
           "heads": 28, "kv_heads": 4, "head_dim": 128, "mlp": 18_944,
           "qkv_bias": True}  # fmt: skip
  c = config_lib.replace(c, {f"model.{k}": v for k, v in shape.items()})
  method = format_length.make(c, nano.task(vocab_size=152_064))
  b, p = c.prompts_per_step, 1024
  batch = {"prompt": jax.ShapeDtypeStruct((b, p), "int32"),
           "prompt_mask": jax.ShapeDtypeStruct((b, p), "bool")}  # fmt: skip
  state = jax.eval_shape(method.init, jax.random.key(0))
  rollout = jax.eval_shape(method.phases.sample, state, batch, state.key)
  n = b * c.samples_per_prompt
  row = jax.ShapeDtypeStruct((n,), "float32")
  parts = {name: row for name in c.shaping.names}
  score = Score(row, jax.ShapeDtypeStruct((n,), "bool"), None, parts)
  after, _ = jax.eval_shape(method.phases.update, state, rollout, score)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert "reference" in state.frozen  # its KL is in the loss


# ------------------------------------------------------------ the claim
def rows(length=32.0, answered=0.99, right=0.79, first=0.06):
  return {"last/length": length, "last/answered": answered,
          "last/correct": right, "first/correct": first}  # fmt: skip


def test_what_the_claim_asks():
  good = {"format_length": rows(), "format_only": rows(right=0.4),
          "correctness": rows(right=0.8)}  # fmt: skip
  assert STUDY.claim(good)
  for own in (rows(length=28), rows(length=36), rows(answered=0.95),
              rows(right=0.75)):  # fmt: skip
    assert not STUDY.claim({**good, "format_length": own})
  for only in (rows(right=0.8), rows(right=0.05)):
    assert not STUDY.claim({**good, "format_only": only})


def test_the_record_holds_on_its_means_and_not_on_every_seed():
  """Format alone lies between on average; one seed stays near its start."""
  text = (paths.REPO / "results" / "format_length.json").read_text()
  record = json.loads(text)
  found = record["arms"]
  own, gold = found["format_length"], found["correctness"]
  assert record["holds"] and STUDY.claim(found)
  assert FILE["finished"](own, gold)
  assert own["first/length"] == pytest.approx(40, abs=2)
  only = [run["last"]["correct"] for run in found["format_only"]["runs"]]
  assert max(only) - min(only) > 0.4


@pytest.mark.claims
def test_the_claim_can_fail(tmp_path):
  """A peak below what solving needs: finished in form, and never right."""
  from rlreward import train

  found = {}
  for name in ("short", "correctness"):
    evals = train.run(mini(**arms()[name], seed=20), tmp_path / name).evals
    found[name] = {f"last/{k}": v for k, v in evals[max(evals)].items()}
  assert found["short"]["last/answered"] > 0.95
  assert not FILE["finished"](found["short"], found["correctness"])
