"""ToolRL: matches, scales and lengths by hand, the bandit, what is refused."""

import gzip
import itertools
import json
import random
from typing import Any

import jax
import jax.numpy as jnp
import nano
import numpy as np
import optax
import paths
import pytest

from rlreward import config as config_lib
from rlreward import errors, registry
from rlreward.configfile import execute, find
from rlreward.methods import toolrl
from rlreward.ops import advantage, policy
from rlreward.ops import calls as device
from rlreward.rewards import call_arrays, calls, values
from rlreward.rewards import toolrl as verifier
from rlreward.tasks import slots
from rlreward.types import Rollout, Score

SPEC = "configs/toolrl.py"
STUDY = config_lib.study(SPEC)
FILE = vars(execute(find(SPEC)))
C = calls.Call
graded: Any = device.graded
GOLD = [C("f", {"a": 1, "b": 2})]
TWO = [*GOLD, C("g", {"c": 3})]


def mini(**changes):
  return config_lib.replace(config_lib.load(f"{SPEC}:mini"), changes)


# ------------------------------------------------------------ the matches
@pytest.mark.parametrize(
  ("made", "gold", "fine", "strict", "intermediate", "coarse"),
  [
    # Parameters swapped; one missing; one too many; a wrong tool.
    ([C("f", {"a": 2, "b": 1})], GOLD, 2 / 4, 2 / 4, 1 / 2, 0),
    ([C("f", {"a": 1})], GOLD, 2.5 / 4, 2 / 4, 1 / 2, 0),
    ([C("f", {"a": 1, "b": 2, "c": 3})], GOLD, (3 + 2 / 3) / 4, 3 / 4, 1 / 2,
     0),
    ([C("h", {"a": 1, "b": 2})], GOLD, 0, 0, 0, 0),
    # A call too many: names match by half, or not at all.
    ([*GOLD, C("g", {})], GOLD, 3.5 / 4, 3 / 4, 1.5 / 2, 0),
    # One of two is right; both, in the other order; none made; none wanted.
    ([GOLD[0], C("g", {"c": 9})], TWO, 5 / 6, 5 / 6, 2 / 3, 0),
    (TWO[::-1], TWO, 1, 1, 1, 1),
    ([], TWO, 0, 0, 0, 0),
    ([], [], 1, 1, 1, 1),
    (GOLD, [], 0, 0, 0, 0),
    # The same name twice, and a wanted call that is made twice.
    (GOLD, [*GOLD, *GOLD], 3.5 / 7, 3 / 7, 1.5 / 3, 0),
    ([*GOLD, *GOLD], GOLD, 3.5 / 4, 3 / 4, 1.5 / 2, 0),
  ],
)  # fmt: skip
def test_each_match_by_hand_on_the_host_and_on_arrays(
  made, gold, fine, strict, intermediate, coarse
):
  want = {"fine": fine, "strict": strict, "intermediate": intermediate,
          "coarse": coarse}  # fmt: skip
  arrays = call_arrays.encode([made], [gold], most_calls=2)
  for match, share in want.items():
    value = calls.graded(made, gold, match=match)
    assert value == pytest.approx(-3 + 6 * share), match
    found = graded(*arrays, match=match)
    assert float(found[0]) == pytest.approx(-3 + 6 * share, abs=1e-5), match


def draw(rng):
  return [
    C(rng.choice("fg"), {k: rng.choice([1, 2])
                         for k in rng.sample("abc", rng.randint(0, 3))})
    for _ in range(rng.randint(0, 4))
  ]  # fmt: skip


@pytest.mark.parametrize("match", device.MATCHES)
def test_arrays_and_lists_agree_greedy_and_by_the_best_assignment(match):
  rng = random.Random(1)
  made, gold = ([draw(rng) for _ in range(200)] for _ in "ab")
  made[:40] = [rng.sample(g, len(g)) for g in gold[:40]]  # right ones
  arrays = call_arrays.encode(made, gold, most_calls=4, most_arguments=3)
  for optimal in (False, True):
    found = graded(*arrays, match=match, optimal=optimal)
    want = [calls.graded(m, g, match=match, optimal=optimal)
            for m, g in zip(made, gold, strict=True)]  # fmt: skip
    np.testing.assert_allclose(found, want, atol=1e-5)  # f32
  assert found.max() == 3


def test_the_best_assignment_against_every_permutation():
  scores = np.random.default_rng(0).random((20, 3, 4)).astype(np.float32)
  scores[scores < 0.4] = 0
  found = device._best(jnp.asarray(scores))
  for one, table in zip(found, scores, strict=True):
    every = [sum(table[i, j] for i, j in enumerate(p))
             for p in itertools.permutations(range(4), 3)]  # fmt: skip
    assert float(one) == pytest.approx(max(every), abs=1e-6)
  with pytest.raises(ValueError, match="fin"):
    graded(*call_arrays.encode([GOLD], [GOLD]), match="fin")
  wide = call_arrays.encode([GOLD], [GOLD], most_calls=11)
  with pytest.raises(ValueError, match="11 calls"):
    graded(*wide, optimal=True)


# ------------------------------------------------------------ real targets
def lines(name):
  path = paths.shared_data("toolrl") / name
  with gzip.open(path, "rt", encoding="utf-8") as file:
    return [json.loads(line)["output"] for line in file]


def weigh(parts, step=0, **changes):
  """What the method pays for a dict of parts."""
  c = nano.config(**{f"calls__{k}": v for k, v in changes.items()}).calls
  shape: Any = toolrl.shaper(c)
  one = {k: jnp.asarray([v], jnp.float32) for k, v in parts.items()}
  score = Score(jnp.zeros(1), jnp.ones(1, bool), None, one)
  paid, after = shape.update(score, jnp.int32(step), None)
  assert int(after) == step + 1
  return float(paid.value[0])


def test_supervised_targets_earn_the_most_and_less_with_a_part_missing():
  rows = lines("rlla_sft_first200.jsonl.gz")
  called = [r for r in rows if "<tool_call>" in r.split("</think>")[-1]]
  assert len(called) > 100
  for row in called:
    parts = verifier.parts(row, row)
    assert all(parts[m] == 1 for m in toolrl.MATCHES)
    form = parts["format"]  # six of the targets break it, see test_calls
    assert parts["value"] == weigh(parts) == form + 3
    assert weigh(parts, scale="equal") == form + 1
    cut = row.replace("</tool_call>", "", 1)
    assert weigh(verifier.parts(cut, row)) == -3


def test_an_answer_without_calls_is_paid_for_its_format_alone():
  gold = "<think>one two</think>\n<response>r</response>"
  parts = verifier.parts(gold, gold)
  assert parts["words"] == 2 and parts["fine"] == 0
  assert weigh(parts) == 1
  assert verifier.words("<think>not closed") == 0
  # A gold text that cannot be read is an error of the data, not of the policy.
  broken = "<think>t</think>\n<tool_call>\nno\n</tool_call>"
  assert isinstance(verifier.parts(gold, broken), values.Unjudged)


# ------------------------------------------------------------ scales, lengths
PARTS = {"format": 1.0, "fine": 0.5, "coarse": -1.0, "words": 256.0}


@pytest.mark.parametrize(
  ("changes", "step", "want"),
  [
    ({}, 0, 1 + 1.5),
    ({}, 999, 1 + 1.5),
    ({"match": "coarse"}, 0, 1 - 3.0),
    ({"scale": "equal"}, 0, 1 + 0.5),
    ({"scale": "two_stage"}, 29, 1 + 0.5),
    ({"scale": "two_stage"}, 30, 0.5 + 1.5),
    ({"scale": "linear"}, 0, 2 + 1.0),
    ({"scale": "linear"}, 75, 1.5 + 2.5 / 2),
    ({"scale": "linear"}, 150, 1 + 1.5),
    ({"scale": "linear"}, 400, 1 + 1.5),
    ({"length": "fixed"}, 0, 2.5 + 256 / 512),
    ({"length": "moving"}, 0, 2.5 + 256 / 384),
    ({"length": "moving"}, 105, 2.5 + 256 / 640),
    ({"length": "moving"}, 500, 2.5 + 256 / 640),
  ],
)
def test_scales_and_lengths_by_hand(changes, step, want):
  assert weigh(PARTS, step, **changes) == pytest.approx(want, abs=1e-6)


def test_the_length_is_paid_up_to_one_and_an_unknown_part_is_no_zero():
  assert weigh({**PARTS, "words": 9000.0}, length="fixed") == 3.5
  shape: Any = toolrl.shaper(nano.config().calls)
  one = {"format": jnp.ones(2), "fine": jnp.asarray([jnp.nan, 1.0])}
  score = Score(jnp.zeros(2), jnp.ones(2, bool), None, one)
  paid, _ = shape.update(score, shape.init(), None)
  assert paid.valid.tolist() == [False, True]
  assert paid.value.tolist() == [0.0, 4.0]


# ------------------------------------------------------------ the bandit
GROUP = 8


def bandit(match, seeds=10, updates=400, group=GROUP, rate=0.1):
  """f64[seeds]: chance of a prompt's four right values after GRPO.

  4 prompts, 4 slots of 8 values each, and a policy with logits of its own for
  each slot. Calls are of one tool with the slots as keys.
  """
  prompts, slot, values = 4, 4, 8
  gold = jnp.asarray(np.random.default_rng(5).integers(0, values, (4, 4)))

  def as_calls(value):  # [N, slot]
    n = value.shape[0]
    key = jnp.broadcast_to(jnp.arange(slot), (n, 1, slot))
    there = jnp.ones((n, 1, slot), bool)
    name = jnp.zeros((n, 1), jnp.int32)
    return device.Calls(name, key, value[:, None], name == 0, there)

  rows = jnp.repeat(jnp.arange(prompts), group)
  ones = jnp.ones((len(rows), slot), bool)
  opt = optax.adam(rate)
  loss = policy.clipped(0.2, 0.2, None)

  def logp(logits, said):
    table = jax.nn.log_softmax(logits)[rows]
    return jnp.take_along_axis(table, said[..., None], -1)[..., 0]

  def step(carry, key):
    logits, state = carry
    said = jax.random.categorical(key, logits[rows])
    reward = graded(as_calls(said), as_calls(gold[rows]), match=match)
    grouped = reward.reshape(prompts, group)
    adv = advantage.group_advantage(grouped, jnp.ones(grouped.shape, bool))
    adv = jnp.broadcast_to(adv.reshape(-1, 1), said.shape)

    def objective(logits):
      terms, _ = loss.terms(logp(logits, said), None, adv, ones, {})
      return terms.mean()

    grad = jax.grad(objective)(logits)
    change, state = opt.update(grad, state)
    return (logits + change, state), None

  @jax.jit
  @jax.vmap
  def run(key):
    logits = jnp.zeros((prompts, slot, values))
    carry = (logits, opt.init(logits))
    (logits, _), _ = jax.lax.scan(step, carry, jax.random.split(key, updates))
    table = jax.nn.log_softmax(logits)
    right = jnp.take_along_axis(table, gold[..., None], -1)[..., 0]
    return jnp.exp(right.sum(-1)).mean()

  return np.asarray(run(jax.random.split(jax.random.key(0), seeds)))


def test_fine_against_coarse_of_four_slots():
  """Measured elsewhere: 0.45 +- 0.18 coarse, 0.997 fine."""
  coarse, fine = bandit("coarse", seeds=100), bandit("fine")
  assert coarse.mean() == pytest.approx(0.45, abs=0.18)
  assert fine.mean() == pytest.approx(0.997, abs=0.003)
  assert fine.min() > 0.95 and fine.mean() - coarse.mean() >= 0.3
  # Nothing is learnt of a prompt before its one answer of 8^4 was drawn once;
  # 3 standard errors of 400 prompts.
  drawn = 1 - (1 - 8.0**-4) ** (400 * GROUP)
  assert coarse.mean() == pytest.approx(drawn, abs=0.075)


def test_the_broken_variant_learns_as_little_as_coarse():
  """A call of four slots is paid as a whole by it, however many are drawn."""
  changes = FILE["BROKEN"].overrides
  found = bandit(changes["calls.match"], seeds=100)
  assert found.mean() == pytest.approx(0.45, abs=0.18)


# ------------------------------------------------------------ the method
def arms():
  return {a.name: a.overrides for a in (*STUDY.arms, FILE["BROKEN"])}


@pytest.mark.parametrize("arm", sorted(arms()))
def test_arms_are_made(arm):
  c = mini(**arms()[arm])
  task = registry.task(c)
  method = toolrl.make(c, task)
  state = jax.eval_shape(method.init, jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, next(task.batches("train", 16, 0)))
  after, metrics = jax.eval_shape(method.step, state, batch, state.key)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert "reference" not in method.reads and "reward/fine" in metrics


@pytest.mark.parametrize(
  ("changes", "word"),
  [({"match": "exact"}, "match"), ({"scale": "log"}, "scale"),
   ({"length": "512"}, "length")],
)  # fmt: skip
def test_unknown_words_are_refused(changes, word):
  c = nano.config(**{f"calls__{k}": v for k, v in changes.items()})
  with pytest.raises(errors.UserError, match=word):
    toolrl.make(c, nano.task())


def test_a_reward_without_the_parts_is_named():
  method = toolrl.make(nano.config(), nano.task())
  state = jax.eval_shape(method.init, jax.random.key(0))
  with pytest.raises(errors.UserError, match="format"):
    jax.eval_shape(method.step, state, nano.batch(), jax.random.key(0))


def test_slots_pay_as_the_verifier_does():
  """The task's parts of right and wrong answers, and their sum."""
  c = {"tools": 4, "keys": 4, "arguments": 2, "reward": "toolrl"}
  task = slots.make(c)
  tok = task.spec["tokenizer"]
  batch = next(task.batches("train", 1, 0))
  gold = tok.decode(batch["answer"][0][batch["answer_mask"][0]])
  name, pairs = gold[0], gold[2:-1].split(",")
  other = "ABCD"[("ABCD".index(name) + 1) % 4]
  said = {
    gold: (1, 1), f"{name}({pairs[1]},{pairs[0]})": (1, 1),
    f"{name}({pairs[0]})": (1, 2.5 / 4 * 2 - 1), f"{other}{gold[1:]}": (1, -1),
    f"{gold},{other}(a=1)": (1, 3.5 / 4 * 2 - 1), gold[:-1]: (0, -1),
  }  # fmt: skip
  for text, (form, fine) in said.items():
    score = judged(task, batch, tok.encode(text) + [tok.eos_ids[0]])
    parts = {k: float(v[0]) for k, v in score.components.items()}
    assert (parts["format"], parts["fine"]) == (form, pytest.approx(fine))
    assert float(score.value[0]) == pytest.approx(form + 3 * fine)
    assert parts["coarse"] == (1 if fine == 1 else -1)


def judged(task, batch, ids):
  """Score of one answer to the first prompt."""
  prompt = np.asarray(batch["prompt"])
  row = np.concatenate([prompt[0], ids])[None].astype(np.int32)
  act = np.arange(row.shape[1])[None] >= prompt.shape[1]
  blank = jnp.zeros(row.shape)
  rollout = Rollout(jnp.asarray(row), act | True, jnp.asarray(act), act, blank,
                    jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32),
                    jnp.zeros(()))  # fmt: skip
  return task.reward(rollout, batch)


# ------------------------------------------------------------ the claim
def test_the_claim_needs_both_the_gap_and_the_height():
  said = lambda fine, coarse: {"fine": {"last/reward": fine},
                               "coarse": {"last/reward": coarse}}  # fmt: skip
  assert STUDY.claim(said(0.98, 0.5))
  assert not STUDY.claim(said(0.98, 0.7))
  assert not STUDY.claim(said(0.9, 0.1))
  assert not STUDY.claim(said(0.9, 0.9))
