"""Configs that cannot train are refused before anything compiles."""

import given_rows as gr
import jax
import nano
import pytest

from rlreward import registry
from rlreward.errors import UserError
from rlreward.models import pretrained

REWARD = {"model__outputs": 1}
KIND, BON = "reward_model__kind", "best_of_n__"
CASES = [
  ("kto", {"prompts_per_step": 1}, "prompts_per_step=1 with kto"),
  ("kto", {"reference": "data"}, "reference='data' with kto"),
  ("kto", {"preference__desirable": -1.0}, "desirable=-1.0"),
  ("reward_model", {}, "model.outputs=0"),
  ("reward_model", {"model__outputs": 2}, "model.outputs=2"),
  (
    "reward_model",
    {**REWARD, KIND: "ordinal", "reward_model__grades": 1},
    "grades=1",
  ),
  ("reward_model", {**REWARD, KIND: "nope"}, "'nope' is unknown"),
  ("reward_model", {**REWARD, KIND: "rao_kupper"}, "ties=0.0"),
  (
    "reward_model",
    {**REWARD, "reward_model__label_smoothing": 0.5},
    "label_smoothing=0.5",
  ),
  (
    "reward_model",
    {**REWARD, KIND: "mse", "reward_model__margin": True},
    "margin=True",
  ),
  ("reward_model", {**REWARD, "reward_model__scale": 0.0}, "scale=0.0"),
  ("dpo", {"preference__kind": "aot", "microbatch": 4}, "microbatch=4"),
  (
    "dpo",
    {"preference__kind": "exo_pair", "preference__label_smoothing": 1.0},
    "label_smoothing",
  ),
  (
    "dpo",
    {"preference__kind": "robust", "preference__label_smoothing": 0.5},
    "label_smoothing",
  ),
  (
    "dpo",
    {"preference__kind": "hinge", "preference__label_smoothing": 0.1},
    "label_smoothing",
  ),
  ("dpo", {"preference__kind": "ipo", "preference__margin": 1.0}, "margin"),
  ("dpo", {"preference__kind": "nope"}, "preference.kind='nope'"),
  ("dpo", {"preference__divergence": "nope"}, "divergence='nope'"),
  ("dpo", {"preference__beta": 0.0}, "beta=0.0"),
  ("dpo", {"reference": "sometimes"}, "reference='sometimes'"),
  ("dpo", {"microbatch": 3}, "microbatch=3"),
  ("orpo", {"preference__beta": -1.0}, "beta=-1.0"),
  ("simpo", {"preference__normalise": "max"}, "normalise='max'"),
  ("xpo", {"preference__explore": -1.0}, "explore=-1.0"),
  ("nash_md", {"preference__mixture": 1.5}, "mixture=1.5"),
  ("best_of_n", {BON + "chunk": 3}, "chunk=3"),
  ("best_of_n", {"sampling__temperature": 0.0}, "temperature=0"),
  ("best_of_n", {BON + "pick": "worst"}, "pick='worst'"),
  ("best_of_n", {BON + "temperature": 0.0}, "best_of_n.temperature=0.0"),
  ("star", {}, "holds no `hint`|hold no `hint`"),
  ("spin", {}, "no demonstrated answers"),
  ("distill", {"distill__on_policy": 0.5}, "no demonstrated answers"),
  ("self_rewarding", {}, "no words to ask with"),
  ("online_dpo", {"samples_per_prompt": 1}, "samples_per_prompt=1"),
  ("online_dpo", {"updates_per_step": 3}, "updates_per_step=3"),
  ("online_dpo", {"reference": "data"}, "reference='data'"),
  ("raft", {"updates_per_step": 3}, "updates_per_step=3"),
  ("raft", {"rounds__select": "correct", "rounds__kl": 0.1}, "rounds.kl=0.1"),
  ("raft", {"rounds__select": "worst"}, "select='worst'"),
  ("raft", {"rounds__fraction": 0.0}, "fraction=0.0"),
  ("raft", {"rounds__start": "middle"}, "start='middle'"),
  ("raft", {"sampling__top_k": 3}, "top_k=3"),
  ("rest_em", {"rounds__cap": 0}, "cap=0"),
  ("distill", {}, "without teacher.path"),
]


def refused(algorithm, changes, said, own):
  config = nano.config(algorithm=algorithm, **gr.SMALL, **changes)
  with pytest.raises(UserError, match=said) as error:
    registry.algorithm(algorithm).make(config, own)
  assert len(str(error.value).splitlines()) == 3, error.value


@pytest.mark.parametrize(("algorithm", "changes", "said"), CASES)
def test_refused(algorithm, changes, said):
  refused(algorithm, changes, said, gr.task())


@pytest.mark.parametrize(
  ("algorithm", "changes", "said"),
  [
    ("sft", {}, "no demonstrations"),
    ("dpo", {}, "no preferences"),
    ("bco", {}, "no labelled"),
    ("reward_model", REWARD, "no preferences"),
    ("reward_model", {**REWARD, KIND: "mse"}, "no labelled"),
  ],
)
def test_a_task_without_the_rows(algorithm, changes, said):
  refused(algorithm, changes, said, nano.task(answer_length=nano.T))


def test_demonstrations_that_are_longer_than_samples():
  own = gr.task(demonstrated=nano.T + 1)
  refused("spin", {}, f"max_new_tokens={nano.T}", own)


def test_hinted_answers_have_no_log_ratio():
  refused("star", {"rounds__kl": 0.1}, "with star", gr.task(hint=True))


def test_a_reference_that_is_nowhere():
  made = gr.method("dpo", reference="data")
  state = made.init(jax.random.key(0))
  with pytest.raises(UserError, match="no column reference_logp") as error:
    jax.eval_shape(made.step, state, gr.pairs(), state.key)
  assert len(str(error.value).splitlines()) == 3


def test_distillation_between_vocabularies(tmp_path):
  decoder = gr.model(model__vocab=20)
  variables = jax.jit(decoder.init)(jax.random.key(0))
  pretrained.export(tmp_path / "teacher", decoder.config, variables)
  path = {"teacher__path": str(tmp_path / "teacher")}
  refused("distill", path, "20 ids, the student 16", gr.task())
  path["model__vocab"] = 20
  for field, value in (("mix", 1.0), ("mix", 0.0), ("temperature", 0.0),
                       ("on_policy", 1.5), ("kind", "other")):  # fmt: skip
    changes = {**path, f"distill__{field}": value, "distill__kind": "js"}
    changes[f"distill__{field}"] = value
    refused("distill", changes, f"distill.{field}=", gr.task())
