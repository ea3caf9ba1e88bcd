"""Scores that reproduce: the record of a reward model, and the stream."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import nano
import numpy as np
import pytest

from rlreward import cli, registry, reward_models, runs, scoring, train
from rlreward.config import freeze
from rlreward.errors import UserError
from rlreward.evals import audit, probes
from rlreward.models import (
  heads,
  parity,
  pretrained,
  reward_card,
  transformer,
)
from rlreward.rewards import learned
from rlreward.steps import roles
from rlreward.tasks import scored, tokens
from rlreward.types import Rollout

DIGITS = tokens.CharTokenizer("0123456789+-*=")
TEMPLATE = (
  "{% for m in messages %}{{ '<s>' + m['content'] + eos_token + ' ' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ '<s>' }}{% endif %}"
)
PAIRS = [
  {"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": str(a * 10 + b)}
  for a in range(1, 4)
  for b in range(3)
]


def config(folder, algorithm="reward_model"):
  """A nano reward model on a text task of pairs."""
  data = folder / "pairs.jsonl"
  data.write_text("".join(json.dumps(r) + "\n" for r in PAIRS))
  (folder / "tok").mkdir(exist_ok=True)
  DIGITS.save(folder / "tok")
  c = nano.config(algorithm=algorithm, steps=1, eval__prompts=4, eval__every=0)
  c.model.outputs = 1
  c.model.vocab = DIGITS.vocab_size
  c.prompts_per_step = 4
  c.log.tensorboard = False
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": str(data),
      "test": str(data),
      "prompt_length": 12,
      "answer_length": 12,
      "tokenizer": str(folder / "tok"),
    }
  )
  return freeze(c.to_dict())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """(directory of a recorded reward model, model, variables)."""
  folder = tmp_path_factory.mktemp("model")
  c = config(folder)
  model = roles.policy(c.model).model
  variables = model.init(jax.random.key(3))
  out = folder / "exported"
  pretrained.export(out, model.config, variables)
  DIGITS.save(out)
  reward_models.record(out, c, registry.task(c), model, variables, {"step": 0})
  return out, model, variables


@pytest.fixture
def copy(made, tmp_path):
  """A copy that a test may break."""
  return shutil.copytree(made[0], tmp_path / "copy")


@pytest.fixture(scope="module")
def found(made):
  return reward_models.load(made[0], batch=2)


@functools.cache
def reader(config):
  model = transformer.build(config)
  return jax.jit(lambda v, t: heads.last_value(model, v, t, t >= 0)[0, 0])


def one(model, variables, ids):
  """The score of one row without padding."""
  return float(reader(model.config)(variables, jnp.asarray([ids])))


def card_of(folder):
  card = reward_card.read(folder)
  assert card is not None
  return card


def refused(call, *words):
  with pytest.raises(UserError) as error:
    call()
  said = str(error.value)
  assert len(said.splitlines()) == 3
  assert all(w in said for w in words), said


# ------------------------------------------------------------ the record
def test_the_record_says_what_scores_depend_on(made, found):
  out, model, variables = made
  card = card_of(out)
  assert card.strings == "plain" and card.read == "answer_end"
  assert card.dtype == "float32" and card.max_length == 24
  assert len(card.golden) == 8 and card.texts == 2 * len(PAIRS)
  assert found.note == "8 golden scores reproduced"
  ids = [DIGITS.encode(p["prompt"]) + DIGITS.encode(p[side]) + [1]
         for p in PAIRS for side in ("chosen", "rejected")]  # fmt: skip
  scores = [one(model, variables, i) for i in ids]
  for golden, own, score in zip(card.golden, ids, scores, strict=False):
    assert golden.tokens == own
    assert golden.score == pytest.approx(score, abs=1e-5)
  assert card.mean == pytest.approx(np.mean(scores), abs=1e-5)
  assert card.scale == pytest.approx(np.std(scores), abs=1e-5)


def edit(folder, **fields):
  file = folder / reward_card.NAME
  file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def with_scores(folder, scores):
  card = card_of(folder)
  golden = [
    g._replace(score=float(s)) for g, s in zip(card.golden, scores, strict=True)
  ]
  reward_card.write(folder, card._replace(golden=golden))


def test_a_changed_tokenizer_is_refused(copy):
  tokens.CharTokenizer("1023456789+-*=").save(copy)
  refused(lambda: reward_models.load(copy), "char_tokenizer.json", "changed")


def test_scores_of_padding_are_named(copy, made):
  _, model, variables = made
  rows = [g.tokens for g in card_of(copy).golden]
  length = max(map(len, rows))
  assert len({len(r) for r in rows}) > 1
  filled = jnp.asarray([r + [0] * (length - len(r)) for r in rows])
  every = heads.token_values(
    model, variables, filled, jnp.ones(filled.shape, bool)
  )
  with_scores(copy, every[:, -1, 0])
  refused(lambda: reward_models.load(copy), "pad side right", "moved by")


def test_the_pad_side_changes_no_score(copy, found):
  edit(copy, pad_side="left")
  other = reward_models.load(copy, batch=2)
  rows = [g.tokens for g in found.model.card.golden]
  # 1e-5: the same sums in another order.
  np.testing.assert_allclose(
    other.model.scores(rows), found.model.scores(rows), atol=1e-5
  )


def test_another_read_position_is_named(copy, made):
  _, model, variables = made
  rows = [g.tokens for g in card_of(copy).golden]
  with_scores(copy, [one(model, variables, r[:-1]) for r in rows])
  refused(lambda: reward_models.load(copy), "read position 1 token before")
  card = card_of(copy)
  cut = [g._replace(tokens=g.tokens[:-1]) for g in card.golden]
  reward_card.write(copy, card._replace(golden=cut))
  refused(lambda: reward_models.load(copy), "read position changed")


def test_another_dtype_is_named(copy):
  refused(
    lambda: reward_models.load(copy, dtype="bfloat16"),
    "dtype float32, and this is bfloat16",
  )
  config, variables = pretrained.load(copy, head="score")
  rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
  half = copy.parent / "half"
  pretrained.export(half, config, rounded)
  (half / "model.safetensors").replace(copy / "model.safetensors")
  refused(lambda: reward_models.load(copy), "bfloat16", "param_dtype float32")


def test_permuted_weights_are_refused(copy):
  config, variables = pretrained.load(copy, head="score")
  kernel = variables["params"]["score"]["kernel"]
  variables["params"]["score"]["kernel"] = kernel[::-1]
  other = copy.parent / "other"
  pretrained.export(other, config, variables)
  (other / "model.safetensors").replace(copy / "model.safetensors")
  refused(
    lambda: reward_models.load(copy), "golden row", "moved by", "weights differ"
  )


@pytest.mark.parametrize(
  ("fields", "word"),
  [
    ({"format": 9}, "format"),
    ({"read": "first"}, "read='first'"),
    ({"template": "x"}, "hash"),
    ({"colour": 1}, "colour"),
  ],
)
def test_broken_records(copy, fields, word):
  edit(copy, **fields)
  refused(lambda: reward_models.load(copy), word)


# ------------------------------------------------------------ chat templates
@pytest.fixture
def chat(tmp_path):
  """A sequence-classification directory with a chat template, no record."""
  lib = pytest.importorskip("tokenizers")
  transformers = pytest.importorskip("transformers")
  chars = [*"0123456789+-*= ", "?"]
  core = lib.Tokenizer(
    lib.models.BPE({c: i for i, c in enumerate(chars)}, [], unk_token="?")
  )
  core.decoder = lib.decoders.Fuse()
  core.add_special_tokens(["</s>", "<s>"])
  hf = transformers.PreTrainedTokenizerFast(
    tokenizer_object=core, eos_token="</s>", pad_token="</s>"
  )
  hf.chat_template = TEMPLATE
  c = config(tmp_path)
  shape = roles.policy(c.model).model.config.replace(vocab=len(hf))
  model = transformer.build(shape)
  folder = tmp_path / "chat"
  pretrained.export(folder, shape, model.init(jax.random.key(5)))
  hf.save_pretrained(str(folder))
  return folder


def test_a_checkpoint_without_a_record_scores_as_transformers(chat):
  pytest.importorskip("torch")
  found = reward_models.load(chat)
  assert "nothing was checked" in found.note
  rows = [{"prompt": "1+2=", "completion": "3"},
          {"prompt": "10+21=", "completion": "31"}]  # fmt: skip
  answers = [found.encode(r).found[0] for r in rows]
  text = found.tokenizer.decode(answers[0].ids, skip_special=False)
  assert text == "<s>1+2=</s> <s>3</s> "
  width = max(len(a.ids) for a in answers)
  ids, attend = tokens.left_pad([a.ids for a in answers], width, 0)
  theirs = parity.reference(chat, np.where(attend, ids, 0), attend, "score")
  ours = found.model.scores([a.ids for a in answers])
  # 1e-5: float32, the same arithmetic in another library.
  np.testing.assert_allclose(ours, theirs[:, 0], atol=1e-5)


def test_template_and_read_position_of_a_chat(chat):
  found = reward_models.load(chat)
  row = {"prompt": [{"role": "user", "content": "1+1="}], "completion": "2"}
  card = reward_card.describe(found.tokenizer, chat)._replace(strings="chat")
  ids = scored.answers(found.tokenizer, row, "chat", "answer_end").found[0].ids
  score = float(found.model.scores([ids])[0])
  card = card._replace(golden=[reward_card.Golden(row, ids, score)])
  reward_card.write(chat, card)
  reward_models.load(chat)
  edit(chat, read="last")  # the space after the stop token
  refused(lambda: reward_models.load(chat), "read position changed")
  edit(chat, read="answer_end")
  hf = pretrained.load_tokenizer(chat)
  hf.chat_template = TEMPLATE.replace("' '", "'  '")
  hf.save_pretrained(str(chat))
  refused(lambda: reward_models.load(chat), "chat template", "sha256")


# ------------------------------------------------------------ the stream
def stream(path):
  """70 lines: several windows of a batch of 2, and every kind of line."""
  rng = np.random.default_rng(0)
  lines = []
  for i in range(70):
    a, b = rng.integers(0, 10 ** int(rng.integers(1, 7)), 2)
    lines.append(json.dumps({"prompt": f"{a}+{b}=", "completion": f"{a + b}",
                             "id": i}))  # fmt: skip
  lines[5] = '{"prompt": "1", '
  lines[11] = ""
  lines[17] = json.dumps({"prompt": "1" * 40, "completion": "2", "id": 17})
  lines[23] = json.dumps({"prompt": "a+b=", "completion": "2"})
  sides = {"chosen": "2", "rejected": "1" * 40}
  lines[29] = json.dumps({"prompt": "1+1=", **sides})
  lines[35] = json.dumps({"prompt": "1+1=", "completions": ["2", "3", "4"]})
  lines[41] = json.dumps({"prompt": "1", "completion": "1", "score": 3})
  lines[47] = "[1]"
  path.write_text("\n".join(lines))  # without a newline at the end
  return lines


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_stream_is_one_by_one_scoring_and_loses_nothing(
  found, made, tmp_path
):
  _, model, variables = made
  lines = stream(tmp_path / "in.jsonl")
  counts = scoring.run(found, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
  rows = read(tmp_path / "out.jsonl")
  assert len(rows) == counts.lines == 70
  assert (counts.scored, counts.overlong, counts.invalid) == (66, 2, 5)
  assert list(tmp_path.glob("*.partial*")) == []

  def want(prompt, answer):
    ids = [*DIGITS.encode(prompt), *DIGITS.encode(answer), 1]
    return one(model, variables, ids)

  # 1e-5: the same sums at another width.
  for i, row in enumerate(rows):
    if i in (5, 11, 41, 47):
      assert row["line"] == i + 1 and row["score"] is None
      assert row["text"] == lines[i] and f"line {i + 1} " in row["reason"]
      continue
    given = json.loads(lines[i])
    assert {k: row[k] for k in given} == given
    if "completions" in given:
      expected = [want(given["prompt"], a) for a in given["completions"]]
      np.testing.assert_allclose(row["scores"], expected, atol=1e-5)
    elif i == 29:
      assert row["scores"][1] is None and "45 tokens" in row["reason"]
      assert row["scores"][0] == pytest.approx(want("1+1=", "2"), abs=1e-5)
    elif i in (17, 23):
      assert row["score"] is None and row["reason"]
    elif i % 7 == 0:
      expected = want(given["prompt"], given["completion"])
      assert row["score"] == pytest.approx(expected, abs=1e-5)
  assert "42 tokens" in rows[17]["reason"] and "24" in rows[17]["reason"]
  assert "line 24" in rows[23]["reason"] and "'a'" in rows[23]["reason"]


def test_killed_and_resumed_is_the_same_file(found, tmp_path, monkeypatch):
  stream(tmp_path / "in.jsonl")
  scoring.run(found, tmp_path / "in.jsonl", tmp_path / "whole.jsonl")
  out = tmp_path / "out.jsonl"
  partial = tmp_path / "out.jsonl.partial"
  calls = []
  scores = learned.Learned.scores

  def dies(self, rows, starts=None):
    calls.append(len(rows))
    if len(calls) == 2:
      raise KeyboardInterrupt
    return scores(self, rows, starts)

  with monkeypatch.context() as patch:
    patch.setattr(learned.Learned, "scores", dies)
    with pytest.raises(KeyboardInterrupt):
      scoring.run(found, tmp_path / "in.jsonl", out)
  assert not out.exists() and len(read(partial)) == 32
  with partial.open("a") as file:
    file.write('{"prompt": "half a li')
  counts = scoring.run(found, tmp_path / "in.jsonl", out)
  assert counts.resumed == 32 and counts.lines == 70
  assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_partial_file_of_something_else_is_refused(found, tmp_path):
  lines = stream(tmp_path / "in.jsonl")
  out = tmp_path / "out.jsonl"
  scoring.run(found, tmp_path / "in.jsonl", out)
  again = lambda **k: scoring.run(found, tmp_path / "in.jsonl", out, **k)
  refused(again, "exists")
  partial = tmp_path / "out.jsonl.partial"
  out.rename(partial)
  refused(again, "other settings")
  about = {**scoring._Writer(found, "score", False, False).about()}
  state = tmp_path / "out.jsonl.partial.json"
  state.write_text(json.dumps({**about, "window": 32}))
  refused(lambda: again(traces=True), "other settings (traces)")
  lines[8] = json.dumps({"prompt": "1+1=", "completion": "2"})
  (tmp_path / "in.jsonl").write_text("\n".join(lines))
  refused(again, "differ at line 9")
  (tmp_path / "in.jsonl").write_text("\n".join(lines[:8]))
  refused(again, "line")


def test_traces_and_normalised_scores(found, made, tmp_path):
  _, model, variables = made
  file = tmp_path / "in.jsonl"
  file.write_text(json.dumps({"prompt": "1+2=", "completion": "3"}) + "\n")
  out = tmp_path / "out.jsonl"
  scoring.run(found, file, out, traces=True, normalise=True)
  (row,) = read(out)
  trace, card = row["score_tokens"], found.model.card
  assert trace["ids"] == [*DIGITS.encode("1+2=3"), 1] and trace["start"] == 4
  for k, value in enumerate(trace["values"]):
    raw = one(model, variables, trace["ids"][: k + 1])
    want = (raw - card.mean) / card.scale
    assert value == pytest.approx(want, abs=1e-4)  # divided by a scale of 0.05
  assert row["score"] == pytest.approx(trace["values"][-1], abs=1e-4)


# ------------------------------------------------------------ other uses
def test_as_a_scorer_of_an_audit_and_a_reward(found, made):
  _, model, variables = made
  scorer = reward_models.scorer(found)
  rows = [probes.Row("1+2=", "3"), probes.Row("1+2=", "")]
  assert scorer.score is not None
  score = scorer.score(rows)
  assert score.valid.tolist() == [True, False]
  fixtures = [
    probes.Fixture(probes.Row("1+2=", a), float(a == "3"), i)
    for i, a in enumerate(("3", "4"), 1)
  ]
  assert audit.run(scorer, fixtures)["judged"]["ok"] == 2
  ids, attend = tokens.left_pad([[*DIGITS.encode("1+2=3"), 1]], 9, 0)
  spread = {f: None for f in Rollout._fields}
  rollout = Rollout(**{**spread, "tokens": ids, "attend": attend})
  value = found.model.reward(rollout, {}).value
  card = found.model.card
  raw = one(model, variables, ids[0][attend[0]].tolist())
  assert float(value[0]) == pytest.approx((raw - card.mean) / card.scale, 1e-3)


def test_a_run_is_exported_with_its_record_and_scored(tmp_path, capsys):
  c = config(tmp_path)
  train.run(c, tmp_path / "run")
  out = tmp_path / "exported"
  assert cli.main(["export", f"--run={tmp_path / 'run'}", f"--out={out}"]) == 0
  assert "rlreward score" in capsys.readouterr().out
  file = tmp_path / "in.jsonl"
  file.write_text(json.dumps(PAIRS[0]) + "\nnot a row\n")
  words = ["score", f"--model={out}", f"--input={file}"]
  words.append(f"--out={tmp_path / 'out.jsonl'}")
  assert cli.main(words) == 0
  said = capsys.readouterr()
  assert "2 lines (0 were there), 2 scored, 0 over-long, 1 invalid" in said.out
  assert "8 golden scores reproduced" in said.err
  live = runs.load(tmp_path / "run")
  ids = [*DIGITS.encode(PAIRS[0]["prompt"] + PAIRS[0]["chosen"]), 1]
  (first, _) = read(tmp_path / "out.jsonl")
  want = one(live.model, live.variables, ids)
  assert first["scores"][0] == pytest.approx(want, abs=1e-5)
  assert cli.main(words) == 2
