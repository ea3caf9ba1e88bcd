"""Segments: trees and chains of pairs, the annotator's noise, and the pools."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import errors
from rlreward.tasks import segments, segments_rows
from rlreward.types import LENGTH, Rollout


def section(**changes):
  return {**segments.defaults(), **changes}


def drawn(seed=0, **changes):
  """Unlabelled training pairs i32[n, 2, D]."""
  c = section(**changes)
  return c, segments_rows.sampled(c, np.random.default_rng(seed))


def answers(batch):
  """i32[n, 2, D] of a batch of whole texts."""
  return batch["tokens"][:, 1:-1].reshape(-1, 2, 4)


def test_rows_are_prompt_segments_stop_and_padding():
  c, pairs = drawn(prompts=5)
  batch = segments_rows.paired(pairs)
  n = 2 * len(pairs)
  assert batch["tokens"].shape == (n, 6) and batch["strength"].shape == (n,)
  assert (batch["tokens"][:, 0] == 0).all()
  assert (batch["tokens"][:, -1] == segments_rows.EOS).all()
  place = (batch["tokens"][:, 1:-1] - segments_rows.FIRST) // c["types"]
  assert (place == np.arange(4)).all()
  assert batch["attend"].all() and not batch["loss"][:, 0].any()
  assert batch["loss"][:, 1:].all()


def test_a_shorter_answer_by_hand():
  batch = segments_rows.rows(np.asarray([[5, 40, -1, -1], [-1] * 4]))
  assert batch["tokens"].tolist() == [[0, 5, 40, 1, 0, 0], [0, 1, 0, 0, 0, 0]]
  assert batch["attend"].sum(1).tolist() == [4, 2]
  assert batch["loss"].sum(1).tolist() == [3, 1]


def test_pairs_of_a_tree_share_what_the_law_says():
  # So many types that siblings are hardly ever the same by chance.
  _, pairs = drawn(prompts=4000, types=4096)
  equal = pairs[:, 0] == pairs[:, 1]
  shared = np.cumprod(equal, 1).sum(1)
  found = [(shared >= k).mean() for k in range(5)]
  want = np.asarray([15, 7, 3, 1, 0]) / 15  # (2^(4 - l) - 1) / (2^4 - 1)
  # Five standard errors of a share of 16,000 pairs.
  np.testing.assert_allclose(found, want, atol=0.02)
  assert shared.max() == 3  # never the same answer twice


def test_a_chain_shares_by_chance_alone():
  _, pairs = drawn(prompts=1500, pairs="chain")
  equal = (pairs[:, 0] == pairs[:, 1]).mean(0)
  np.testing.assert_allclose(equal, 1 / 32, atol=0.01)  # four standard errors
  assert len(pairs) == 6000


def test_partial_texts_end_after_a_difference():
  _, pairs = drawn(prompts=400, text="partial")
  kept = pairs >= 0
  assert (kept[:, 0] == kept[:, 1]).all()  # both cut at one place
  assert (kept[..., :-1] | ~kept[..., 1:]).all()  # nothing after the cut
  differ = (pairs[:, 0] != pairs[:, 1]).any(-1)
  assert differ.all() and 0 < kept[..., -1].mean() < 1


def test_gold_adds_up_and_is_the_compiled_reward():
  c = section()
  rng = np.random.default_rng(0)
  some = segments_rows.uniform(c, (20,), rng)
  table = segments_rows.gold(c)
  want = [
    sum(table[d, (t - 2) % 32] for d, t in enumerate(row)) for row in some
  ]
  np.testing.assert_allclose(segments_rows.value(c, some), want, rtol=1e-5)
  rows = segments_rows.rows(some)
  action = jnp.asarray(rows["loss"])
  rollout = Rollout(
    jnp.asarray(rows["tokens"]), jnp.asarray(rows["attend"]), action, action,
    jnp.zeros(action.shape), jnp.arange(20), jnp.full(20, LENGTH),
    jnp.zeros((), jnp.int32),
  )  # fmt: skip
  task = segments.make()
  score = jax.jit(lambda r: task.reward(r, {}))(rollout)
  np.testing.assert_allclose(score.value, want, rtol=1e-5, atol=1e-6)
  assert (score.components["well_formed"] == 1).all()
  # The first two change places: they earn nothing where they do not belong.
  moved = rollout.tokens.at[:, 1:3].set(rollout.tokens[:, 2:0:-1])
  score = task.reward(rollout._replace(tokens=moved), {})
  rest = [sum(table[d, (row[d] - 2) % 32] for d in (2, 3)) for row in some]
  np.testing.assert_allclose(score.value, rest, rtol=1e-5, atol=1e-6)
  assert (score.components["well_formed"] == 0).all()


def test_worlds_differ_and_a_world_is_fixed():
  a, b = (segments_rows.gold(section(world=w)) for w in (0, 1))
  assert (a != b).all() and (a == segments_rows.gold(section())).all()
  assert abs(a.mean()) < 0.3 and 0.8 < a.std() < 1.2


@pytest.mark.parametrize(
  ("noise", "load"), [(0.0, 0.0), (1.0, 0.0), (0.0, 0.5), (0.3, 0.4)]
)
def test_labels_err_as_the_logistic_says(noise, load):
  c = section(noise=noise, load=load)
  rng = np.random.default_rng(0)
  pairs = segments_rows.uniform(c, (2, 20_000), rng).swapaxes(0, 1)
  pairs[::2, 1, :3] = pairs[::2, 0, :3]  # half differ in the last alone
  gap = segments_rows.value(c, pairs[:, 0]) - segments_rows.value(
    c, pairs[:, 1]
  )
  out = segments_rows.labelled(c, pairs, rng)
  kept = (out == pairs).all((1, 2))
  differ = (pairs[:, 0] != pairs[:, 1]).sum(-1)
  scale = noise + load * differ
  with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
    chance = np.where(scale > 0, 1 / (1 + np.exp(-gap / scale)), gap > 0)
  for part in (slice(0, None, 2), slice(1, None, 2)):
    live = differ[part] > 0
    error = (kept[part] - chance[part])[live].mean()
    assert abs(error) < 5 * 0.5 / 10_000**0.5  # five standard errors
  if noise == load == 0:
    assert (kept == (gap > 0))[differ > 0].all()


def test_shuffled_labels_are_coins():
  c = section(noise=0.0, load=0.0, shuffled=1.0)
  rng = np.random.default_rng(0)
  pairs = segments_rows.uniform(c, (4000, 2), rng)
  out = segments_rows.labelled(c, pairs, rng)
  lead = segments_rows.value(c, out[:, 0]) > segments_rows.value(c, out[:, 1])
  assert abs(lead.mean() - 0.5) < 5 * 0.5 / 4000**0.5


def test_held_out_rows_are_what_their_columns_say():
  size = 256
  c = section()
  batch = next(segments.make().preferences("test", size, 0))
  assert {len(v) for v in batch.values()} == {2 * size}
  count = np.bincount(batch["split"])
  assert count.tolist() == [128, 128, 128, 128]
  assert (np.diff(batch["split"]) >= 0).all()
  assert (batch["valid"] == (batch["split"] < 2)).all()
  np.testing.assert_allclose(
    batch["gold"],
    segments_rows.value(c, batch["tokens"][:, 1:-1]),
    rtol=1e-5,
    atol=1e-6,
  )
  lead = batch["gold"][0::2] - batch["gold"][1::2]
  kind = batch["split"][0::2]
  assert (lead[kind < 2] > 0).all()  # no noise, the better first
  equal = answers(batch)[:, 0] == answers(batch)[:, 1]
  assert (equal[kind == 0] == [True, True, True, False]).all()
  assert equal[kind == 1].mean() < 0.15
  pools = batch["tokens"][256:, 1:-1].reshape(8, 32, 4)
  kinds = [[len(np.unique(p[:, d])) for d in range(4)] for p in pools]
  first, near = np.asarray(kinds[:4]), np.asarray(kinds[4:])
  assert (first[:, 0] <= 3).all() and (first[:, 3] > 10).all()
  assert (near[:, :2] == 1).all() and (near[:, 2] <= 8).all()
  assert (near[:, 3] > 10).all()


@pytest.mark.parametrize("size", [2, 5, 63, 65])
def test_small_held_out_batches_have_pairs_alone_or_fewer_pools(size):
  batch = next(segments.make().preferences("test", size, 0))
  assert len(batch["tokens"]) == 2 * size
  assert batch["valid"].sum() == 2 * (size - size // 64 * 32)


def test_the_same_pairs_come_again_in_another_order():
  task = segments.make({"prompts": 10})
  stream = task.preferences("train", 20, 0)
  one, two, three, four = (next(stream)["tokens"] for _ in range(4))
  pair = lambda *x: sorted(
    map(bytes, np.concatenate(x).reshape(-1, 12).astype(np.int32))
  )
  assert pair(one, two) == pair(three, four)
  assert (one != three).any()
  other = next(task.preferences("train", 20, 1))["tokens"]
  assert not set(pair(one)) & set(pair(other))
  whole = next(task.preferences("train", 50, 0))[
    "tokens"
  ]  # more than there are
  assert whole.shape == (100, 6)


def test_the_iterator_resumes_and_processes_share_a_batch():
  task = segments.make({"prompts": 10})
  for split in ("train", "test"):
    stream = task.preferences(split, 16, 3)
    next(stream)
    place = stream.get_state()
    wanted = next(stream)
    again = task.preferences(split, 16, 3)
    again.set_state(place)
    np.testing.assert_array_equal(next(again)["tokens"], wanted["tokens"])
    halves = [
      segments.make({"prompts": 10}, process_index=i, process_count=2)
      .preferences(split, 16, 3)
      for i in range(2)
    ]  # fmt: skip
    both = np.concatenate([next(h)["tokens"] for h in halves])
    whole = next(task.preferences(split, 16, 3))["tokens"]
    np.testing.assert_array_equal(both, whole)
  other = segments.make({"prompts": 11}).preferences("train", 16, 3)
  with pytest.raises(errors.UserError, match="digest"):
    other.set_state(task.preferences("train", 16, 3).get_state())


def test_prompts_and_demonstrations_fit_the_spec():
  task = segments.make()
  prompts = next(task.batches("test", 3, 0))
  assert prompts["prompt"].shape == (3, task.spec["prompt_length"])
  rows = next(task.demonstrations("train", 3, 0))
  width = task.spec["prompt_length"] + task.spec["answer_length"]
  assert rows["tokens"].shape == (3, width)
  assert rows["tokens"].max() < task.spec["vocab_size"]


@pytest.mark.parametrize(
  "changes",
  [
    {"pairs": "ring"},
    {"text": "half"},
    {"depth": 1},
    {"depth": 9},
    {"types": 1},
    {"prompts": 0},
    {"pairs_per_prompt": 121},
    {"branch": 9},
    {"world": -1},
    {"load": -0.1},
    {"noise": float("inf")},
    {"shuffled": 1.5},
    {"size": 3},
  ],
)
def test_fields_that_cannot_work_are_refused(changes):
  with pytest.raises(errors.UserError):
    segments.make(changes)


def test_an_unknown_split_is_refused():
  with pytest.raises(errors.UserError, match="validation"):
    segments.make().preferences("validation", 2, 0)
