"""Three stages: SFT, a reward model, and PPO that it judges."""

import functools
import os
import signal
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_worker as worker

from rlreward import chain, errors, registry, sharding, stages, train
from rlreward.checkpoint import Checkpointer
from rlreward.config import replace
from rlreward.models import score as score_lib
from rlreward.steps import learned, roles
from rlreward.types import LENGTH, Rollout

LABELS = (
  "(stage 1 of 3, sft)",
  "(stage 2 of 3, reward_model)",
  "(stage 3 of 3, ppo)",
)


@functools.cache
def whole():
  """(config, result) of a run that never stopped."""
  folder = tempfile.mkdtemp(prefix="whole")
  config = worker.three_stages()
  return config, train.run(config, f"{folder}/run")


def folders(workdir):
  return [workdir / "start/start", workdir / "start", workdir]


def assert_same_run(result, workdir):
  _, want = whole()
  worker.assert_same(want.state, result.state)
  assert result.evals == want.evals
  for own, other in zip(folders(workdir), folders(want.workdir), strict=True):
    assert worker.curve(own) == worker.curve(other)


def test_every_stage_learns_from_the_one_before_it():
  config, result = whole()
  kept = stages.Trained(stages.of(config, result.workdir))
  with jax.set_mesh(sharding.make_mesh()):
    sft, _ = kept.given(kept.stages[1], result.task)
    again, handed = kept.given(kept.stages[2], result.task)
  reward = handed["reward"]["model"]
  worker.assert_same(sft, again)
  assert "head" in sft["params"] and "score" in reward["params"]
  worker.assert_same(handed["reward"], result.state.frozen["reward"])
  worker.assert_same(result.state.frozen["reference"], sft)
  for folder in folders(result.workdir):
    lines = [row for row in worker.curve(folder) if "loss" in row]
    assert [row["step"] for row in lines] == [1, 2, 3, 4]
    assert min(row["grad_norm"] for row in lines) > 1e-3


@pytest.mark.parametrize("stops", [[2, 6, 10], [4, 8], [5, 7, 11]], ids=str)
def test_stopped_in_every_stage(tmp_path, stops):
  config, _ = whole()
  before = 0
  for stop in stops:
    train.run(config, tmp_path, stop_after=stop - before)
    held = [Checkpointer(f / "checkpoints").latest() for f in folders(tmp_path)]
    assert sum(step or 0 for step in held) == stop
    before = stop
  assert_same_run(train.run(config, tmp_path), tmp_path)


def test_killed_in_every_stage(tmp_path):
  config, workdir = whole()[0], tmp_path / "run"
  shown = replace(config, {"log.every": 1})
  for label in LABELS:
    process = worker.start([(shown, workdir)])
    assert worker.said(process, f"rlreward {label.split()[-1][:-1]} {label}")
    assert worker.said(process, "step 2/4")
    time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
  assert_same_run(train.run(config, workdir), workdir)


@pytest.mark.parametrize("number", [1, 2])
def test_sigterm_at_the_end_of_a_stage_waits(
  tmp_path, monkeypatch, capsys, number
):
  config, _ = whole()
  advance, seen = train.advance, []

  def warned(*args):
    found = advance(*args)
    seen.append(int(found[0].step))
    if len(seen) == 4 * number:
      os.kill(os.getpid(), signal.SIGTERM)
    return found

  with monkeypatch.context() as patch:
    patch.setattr(train, "advance", warned)
    result = train.run(config, tmp_path)
  assert result.stopped and len(seen) == 4 * number
  out = capsys.readouterr().out
  assert LABELS[number - 1] in out and LABELS[number] not in out
  assert "stopped at step 4; run the same command to go on" in out
  assert_same_run(train.run(config, tmp_path), tmp_path)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"microbatch": 3}, "microbatch=3"),
    ({"start.microbatch": 3}, "config has no field"),
    ({"learned.stage": 3}, "learned.stage=3 in stage 3"),
    ({"learned.stage": 1}, "sft with model.outputs=0"),
    ({"learned.references": -1}, "learned.references=-1"),
    ({"learned.truncated": float("inf")}, "learned.truncated=inf"),
    ({"algorithm": "dpo"}, "learned.stage=2 with algorithm='dpo'"),
    ({"start.start.steps": -1}, "steps=-1"),
  ],
  ids=str,
)
def test_what_a_later_stage_refuses_is_refused_at_once(
  tmp_path, capsys, changes, said
):
  config = worker.three_stages()
  with pytest.raises(errors.UserError, match=said.replace("(", r"\(")):
    train.run(replace(config, changes), tmp_path)
  assert "stage 1 of 3" not in capsys.readouterr().out
  assert not (tmp_path / "start").exists()


def test_a_reward_without_stages_is_refused():
  config = worker.base(learned__stage=1)
  with pytest.raises(errors.UserError, match="in stage 1 of a run"):
    chain.judge(config)


def test_the_chain_of_a_config():
  config = worker.three_stages()
  names = [c.algorithm for c in chain.stages(config)]
  assert names == ["sft", "reward_model", "ppo"]
  sft, reward, ppo = chain.stages(config)
  assert [chain.parent(c) for c in (sft, reward, ppo)] == [0, 1, 1]
  assert [c.learned.stage for c in (sft, reward, ppo)] == [0, 0, 2]
  assert chain.judge(ppo).model.outputs == 1 and chain.judge(reward) is None
  # Each stage is like the one after it, but for what its `start` says.
  assert sft.checkpoint.every == 2 and reward.checkpoint.every == 3
  assert sft.task == ppo.task


def off(**changes):
  """The three stages with some of 0 steps; none is judged by another."""
  fields = {k.replace("__", "."): v for k, v in changes.items()}
  return replace(worker.three_stages(), {"learned.stage": 0, **fields})


@pytest.mark.parametrize(
  ("changes", "algorithms"),
  [
    ({"start__steps": 0}, ["sft", "ppo"]),
    ({"start__start__steps": 0}, ["reward_model", "ppo"]),
    ({"start__steps": 0, "start__start__steps": 0}, ["ppo"]),
    ({}, ["sft", "reward_model", "ppo"]),
  ],
)
def test_a_stage_of_no_steps_is_left_out(tmp_path, changes, algorithms):
  config = off(**changes)
  found = stages.of(config, tmp_path)
  assert [s.config.algorithm for s in found] == algorithms
  assert [s.number for s in found] == [*range(1, len(found) + 1)]
  assert all(s.config.steps for s in found) and found[-1].folder == tmp_path
  assert found[-1].before == 4 * (len(found) - 1)
  assert chain.parent(config) == ("sft" in algorithms)  # who has a head for it
  if len(algorithms) == 1:
    assert chain.earlier(config) is None


def test_a_stage_left_out_changes_nothing_of_the_others():
  config = worker.three_stages()
  want = chain.stages(config)
  got = chain.stages(off(start__steps=0))
  assert got[0].to_dict() == {
    **want[0].to_dict(),
    "learned": got[0].learned.to_dict(),
  }
  # Steps are inherited: a stage before one of 0 steps has none of its own.
  tree = config.to_dict()
  tree["learned"]["stage"] = 0
  tree["start"]["steps"] = 0
  tree["start"]["start"].pop("steps", None)
  frozen = type(config)(tree)
  assert chain.earlier(frozen) is None


def test_a_judge_that_is_left_out_is_refused():
  config = replace(worker.three_stages(), {"start.steps": 0})
  with pytest.raises(errors.UserError, match=r"learned\.stage=2 in stage 2"):
    chain.judge(config)


def test_without_its_start_a_run_is_the_run_without_one(tmp_path):
  """The same State to the bit as that of a config that never had a start."""
  both_off = off(start__steps=0, start__start__steps=0, steps=2)
  tree = both_off.to_dict()
  tree["start"] = {}
  alone = type(both_off)(tree)
  a = train.run(both_off, tmp_path / "off")
  b = train.run(alone, tmp_path / "none")
  worker.assert_same(a.state, b.state)
  assert not (tmp_path / "off/start").exists()


def test_the_model_reads_the_last_token_and_references_have_mean_0():
  """Against a pass over each row alone, without padding."""
  config = worker.three_stages(learned__truncated=None)
  found = chain.judge(config)
  actor, task = roles.policy(found.model), registry.task(config)
  variables = actor.model.init(jax.random.key(3))
  variables["params"]["score"] = {
    "kernel": jax.random.normal(jax.random.key(4), (16, 1))
  }
  role = learned.normalised(config, task, variables)

  def alone(ids):
    row = jnp.asarray([ids])
    x = score_lib.completion_states(
      actor.model, variables, row, jnp.ones_like(row, bool), 1
    )
    return float(actor.model.score(variables, x)[0, -1, 0])

  batch = next(task.demonstrations("train", 16, config.seed))
  rows = [r[m] for r, m in zip(batch["tokens"], batch["attend"], strict=True)]
  mean = np.mean([alone(ids) for ids in rows])
  # f32 over a width of 16 in another order.
  np.testing.assert_allclose(role["shift"], mean, atol=1e-5)
  answers = [[1, 3, 0], [2, 4, 4, 0], [1, 2, 2, 2]]
  rollout = _rollout(answers)
  read = learned.reader(config)
  got = read({"reward": role}, rollout).extras["learned"]
  want = [alone(ids) - mean for ids in answers]
  np.testing.assert_allclose(got, want, atol=1e-5)
  # A cut answer has the fixed reward, whatever the model thinks of it.
  fixed = learned.reader(worker.three_stages(learned__truncated=-2.0))
  cut = fixed({"reward": role}, rollout).extras["learned"]
  np.testing.assert_allclose(cut, [*want[:2], -2.0], atol=1e-5)
  score = learned.rewarded(config, task).reward(
    rollout._replace(extras={"learned": cut}), {}
  )
  np.testing.assert_array_equal(score.value, cut)
  assert bool(score.valid.all())


def _rollout(answers):
  """Rows of one prompt token and up to three more."""
  n, slots = len(answers), 4
  tokens = np.zeros((n, slots), np.int32)
  attend = np.zeros((n, slots), bool)
  for i, ids in enumerate(answers):
    tokens[i, : len(ids)], attend[i, : len(ids)] = ids, True
  action = attend & (np.arange(slots) > 0)
  finish = [LENGTH if ids[-1] else 1 for ids in answers]
  return Rollout(
    *map(jnp.asarray, (tokens, attend, action, action)),
    logp=jnp.zeros((n, slots)),
    group=jnp.arange(n),
    finish=jnp.asarray(finish),
    version=jnp.zeros((), jnp.int32),
  )
