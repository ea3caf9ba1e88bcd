"""Cuts Anthropic's HH-RLHF pairs into the files of configs/hh_reward.py.

  python examples/hh.py harmless_base_test_0_1200.jsonl.gz runs/hh

The source holds whole dialogues, "chosen" and "rejected", which are copied as
they are: one dialogue in four goes to `test.jsonl`, decided by what the person
opens with, so that no opening is on both sides, the others to `train.jsonl`.
`fixtures.jsonl` has answers of the test file, each under its own dialogue, for
`rlreward audit-reward`. The texts can offend.
"""

import gzip
import hashlib
import json
import pathlib
import sys

TURN = "\n\nAssistant:"
HELD_OUT = 4  # one dialogue in so many
FIXTURES = 60  # pairs
SHORT = 400  # characters of a dialogue with its answer, for the fixtures
# A reward model has no threshold; what is expected is an order and that edits
# which say nothing new do not pay.
SPEC = {"false_positive": None, "false_negative": None, "auroc": 0.6}


def held_out(dialogue):
  """Whether a dialogue is in the test file, by its opening."""
  opening = dialogue.split(TURN)[0]
  return hashlib.sha256(opening.encode()).digest()[0] % HELD_OUT == 0


def halves(pair):
  """(prompt, chosen, rejected) at the last turn of the assistant."""
  chosen, rejected = pair["chosen"], pair["rejected"]
  size = 0
  while chosen[: size + 1] == rejected[: size + 1] and size < len(chosen):
    size += 1
  end = chosen[:size].rfind(TURN) + len(TURN)
  return chosen[:end], chosen[end:], rejected[end:]


def fixtures(pairs):
  """Both answers of the first short pairs, labelled, after a spec."""
  yield {"spec": SPEC}
  short = [p for p in pairs if max(map(len, p.values())) <= SHORT]
  for pair in short[:FIXTURES]:
    prompt, good, bad = halves(pair)
    yield {"prompt": prompt, "completion": good, "label": True}
    yield {"prompt": prompt, "completion": bad, "label": False}


def cut(source, folder):
  """Writes the three files; says how many pairs went where.

  Args:
    source: a .jsonl.gz of pairs.
    folder: of the files.

  Returns:
    {"train": pairs, "test": pairs, "same": left out, both answers equal}.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  with gzip.open(source, "rt", encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines]
  pairs = [r for r in rows if r["chosen"] != r["rejected"]]
  test = [p for p in pairs if held_out(p["chosen"])]
  train = [p for p in pairs if not held_out(p["chosen"])]
  parts = {"train": train, "test": test, "fixtures": fixtures(test)}
  for name, part in parts.items():
    with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
      file.writelines(json.dumps(row) + "\n" for row in part)
  same = len(rows) - len(pairs)
  return {"train": len(train), "test": len(test), "same": same}


if __name__ == "__main__":
  print(cut(*sys.argv[1:]))
