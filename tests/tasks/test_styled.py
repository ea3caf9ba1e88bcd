"""Two styles of answer: draws of the base, coins, forms, refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlreward import errors
from rlreward.tasks import styled
from rlreward.types import STOP, Rollout


def said(task, texts, stop=True):
  """One row for each text, all of one prompt."""
  tok = task.spec["tokenizer"]
  rows = [[*tok.encode("?" + text), *(tok.eos_ids if stop else ())]
          for text in texts]  # fmt: skip
  size = np.asarray([len(r) for r in rows])
  tokens = np.zeros((len(rows), 5), np.int32)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = row
  attend = np.arange(5)[None] < size[:, None]
  action = attend & (np.arange(5)[None] > 0)
  n = len(rows)
  return Rollout(
    jnp.asarray(tokens), jnp.asarray(attend), jnp.asarray(action),
    jnp.asarray(action), jnp.zeros(tokens.shape), jnp.zeros(n, jnp.int32),
    jnp.full(n, STOP), jnp.zeros((), jnp.int32),
  )  # fmt: skip


def test_demonstrations_are_draws_of_the_base():
  task, n = styled.make({"long": 0.3}), 4000
  rows = next(task.demonstrations("train", n, 0))
  tok = task.spec["tokenizer"]
  texts = [tok.decode(r[m]) for r, m in
           zip(rows["tokens"], rows["loss"], strict=True)]  # fmt: skip
  count = {t: texts.count(t) / n for t in ("s.", "s#", "l,", "l@")}
  want = {"s.": 0.7 * 0.1, "s#": 0.7 * 0.9, "l,": 0.3 * 0.85, "l@": 0.3 * 0.15}
  for text, share in want.items():  # five standard errors
    assert abs(count[text] - share) < 5 * (share * (1 - share) / n) ** 0.5
  assert sum(count.values()) == pytest.approx(1)
  assert (rows["tokens"][:, -1] == task.spec["stop_ids"][0]).all()
  shared = next(styled.make({"shared": True}).demonstrations("train", n, 0))
  assert not np.isin(shared["tokens"], tok.encode(",@")).any()


def test_gold_is_the_chance_of_the_style():
  task = styled.make()
  texts = ("s.", "s#", "l,", "l@", "s@", "l.", "s", "?#", "#s")
  score = task.gold(said(task, texts), {})
  want = [0.15, 0.15, 0.6, 0.6, 0, 0, 0, 0, 0]
  np.testing.assert_allclose(score.value, want, atol=1e-7)
  np.testing.assert_array_equal(score.components["correct"], score.value)
  np.testing.assert_array_equal(
    score.components["boxed"], [0, 1, 0, 1] + [0] * 5
  )
  np.testing.assert_array_equal(
    score.components["long"], [0, 0, 1, 1] + [0] * 5
  )
  assert not task.gold(said(task, ("s#l", "l@"), stop=False), {}).value.any()
  shared = styled.make({"shared": True})
  score = shared.gold(said(shared, ("s#", "l#", "l.", "l@")), {})
  np.testing.assert_allclose(score.value, [0.15, 0.6, 0.6, 0], atol=1e-7)


def test_each_sample_of_a_prompt_has_a_coin_of_its_own():
  task = styled.make()
  b, g = 500, 4
  batch = next(task.batches("train", b, 0))
  assert batch["luck"].shape == (b, styled.COINS)
  for text, chance in (("s#", 0.15), ("l,", 0.6)):
    rows = said(task, [text] * (b * g))
    rows = rows._replace(group=jnp.repeat(jnp.arange(b), g))
    score = task.reward(rows, batch)
    right = np.asarray(score.value).reshape(b, g)
    np.testing.assert_array_equal(right, batch["luck"][:, :g] < chance)
    error = (chance * (1 - chance) / (b * g)) ** 0.5
    assert abs(right.mean() - chance) < 5 * error
    assert (right.std(1) > 0).mean() > 0.4  # samples of a prompt differ
    assert (score.components["boxed"] == (text == "s#")).all()
  # A better style is right wherever a worse one is.
  low, high = (task.reward(said(task, [t] * b)._replace(
    group=jnp.arange(b)), batch).value for t in ("s.", "l,"))  # fmt: skip
  assert (np.asarray(high) >= np.asarray(low)).all()


@pytest.mark.parametrize(
  "bad",
  [{"accuracy": (0.5,)}, {"accuracy": (0.1, 1.2)}, {"boxed": (-0.1, 0.5)},
   {"long": 0.0}, {"long": 1.0}, {"length": 3}],
  ids=str,
)  # fmt: skip
def test_what_cannot_be_is_refused(bad):
  with pytest.raises(errors.UserError):
    styled.make(bad)
