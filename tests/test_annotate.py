"""Log-probs of a reference as columns, and training from them."""

import json

import jax
import nano
import numpy as np
import pytest

from rlreward import annotate, cli, errors, train
from rlreward.config import freeze, replace
from rlreward.models import pretrained
from rlreward.steps import roles
from rlreward.tasks import tokens

ROWS = [
  {"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": str(a + b + 1)}
  for a in range(4)
  for b in range(3)
]


@pytest.fixture
def setting(tmp_path):
  """(config with a checkpoint and pairs, folder)."""
  tok = tokens.CharTokenizer("0123456789+-*=")
  model = roles.policy(nano.config().model).model
  folder = tmp_path / "checkpoint"
  params = model.init(jax.random.key(3))["params"]
  pretrained.export(folder, model.config, params)
  tok.save(folder)
  data = tmp_path / "pairs.jsonl"
  long = {"prompt": "1" * 40, "chosen": "1", "rejected": "2"}
  data.write_text("".join(json.dumps(r) + "\n" for r in [*ROWS, long]))
  c = nano.config(algorithm="dpo", steps=3, eval__prompts=4, eval__every=0)
  c.model.path = str(folder)
  c.prompts_per_step = 4
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": str(data),
      "test": str(data),
      "prompt_length": 8,
      "answer_length": 4,
      "row_length": 16,
    }
  )
  return freeze(c.to_dict()), tmp_path


def test_columns_are_log_probs_and_train_as_the_live_reference(setting):
  config, folder = setting
  out = folder / "with.jsonl"
  counts = annotate.reference(config, out)
  assert counts == {"written": len(ROWS), "overlong": 1}
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  assert [r["prompt"] for r in rows] == [r["prompt"] for r in ROWS]
  # One answer, token by token, by the whole logits.
  tok = tokens.load(str(folder / "checkpoint"))
  _, variables = pretrained.load(folder / "checkpoint")
  model = roles.policy(config.model).model
  ids = tok.encode(ROWS[5]["prompt"], bos=tok.adds_bos)
  said = [*tok.encode(ROWS[5]["chosen"]), tok.eos_ids[0]]
  row = np.asarray([[*ids, *said]], np.int32)
  logits = model.logits(variables, row, row >= 0)[0]
  logp = jax.nn.log_softmax(logits)[np.arange(len(ids) - 1, row.shape[1] - 1)]
  want = float(logp[np.arange(len(said)), said].sum())
  assert rows[5]["chosen_reference_logp"] == pytest.approx(want, abs=1e-5)

  live = train.run(config, folder / "live")
  files = {"task.train": str(out), "task.test": str(out)}
  given = {**files, "reference": "data"}
  stored = train.run(replace(config, given), folder / "stored")
  assert "reference" in live.state.frozen
  assert "reference" not in stored.state.frozen
  # The same sums in two programs.
  assert nano.gap(live.state.params, stored.state.params) < 1e-5


def test_the_verb_writes_and_refuses_to_overwrite(setting, capsys):
  config, folder = setting
  file = folder / "c.py"
  text = json.dumps(config.to_dict(), default=list)
  file.write_text(
    "import json\nimport ml_collections\n"
    f"def get_config(arg=''):\n  return ml_collections.ConfigDict("
    f"json.loads({text!r}))\n"
  )
  out = folder / "verb.jsonl"
  words = ["reference", f"--config={file}", f"--out={out}"]
  assert cli.main(words) == 0
  assert f"wrote {len(ROWS)} rows" in capsys.readouterr().out
  assert cli.main(words) == 2
  assert "exists" in capsys.readouterr().err


def test_bad_input(setting):
  config, folder = setting
  with pytest.raises(errors.UserError, match=r"model\.path=''"):
    annotate.reference(replace(config, {"model.path": ""}), folder / "x")
  short = replace(config, {"task.prompt_length": 1})
  with pytest.raises(errors.UserError, match="over-long"):
    annotate.reference(short, folder / "x")
  assert not list(folder.glob("x*"))
