"""The verifiers on real data: recorded scores, gold answers, perturbed ones.

usage: python benchmarks/real_verifiers.py [--data DIR] [--out FILE]

Writes results/verifiers.json. Every disagreement with a record is listed with
the class that explains it; a class of "unexplained" is a bug.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
OUT = ROOT / "results" / "verifiers.json"
sys.path[:0] = [str(ROOT)]

from rlreward.rewards import answers, calls, forms, grade, textmetrics, toolrl

SETS = ("aime24", "amc23", "minerva_math", "gaokao2023en",
        "olympiadbench_first150", "svamp")  # fmt: skip
EXACT = 1e-5  # ROUGE 1.5.5 prints five digits


def lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Records of a .jsonl.gz file."""
  with gzip.open(path, "rt", encoding="utf-8") as file:
    return [json.loads(line) for line in file]


def rollouts(data: pathlib.Path, engine: str = "strict") -> dict[str, Any]:
  """Our grade against the recorded score of each rollout."""
  rows = [
    {**row, "file": path.name}
    for path in sorted((data / "rl_rollouts_graded").glob("*20*.jsonl.gz"))
    for row in lines(path)
  ]
  texts, golds = (
    [r["response"] for r in rows],
    [r["ground_truth"] for r in rows],
  )
  found = grade.grade_all(texts, golds, engine=engine)
  unlike = [
    {"file": r["file"], "answer": answers.extract_answer(r["response"]),
     "gold": r["ground_truth"], "recorded": r["score"], "ours": v}
    for r, v in zip(rows, found, strict=True)
    if v[0] != float(r["score"])
  ]  # fmt: skip
  return {
    "engine": engine,
    "rows": len(rows),
    "right": sum(float(r["score"]) for r in rows),
    "agree": len(rows) - len(unlike),
    "disagreements": unlike,
    "statuses": dict(collections.Counter(s for _, s in found)),
  }


def bbh(data: pathlib.Path) -> dict[str, Any]:
  """Accuracy of recorded outputs against the published one, by task."""
  folder = data / "bbh_codex"
  published = json.loads((folder / "expected_accuracy.json").read_text())
  out = {}
  for path in sorted(folder.glob("*.jsonl.gz")):
    rows, name = lines(path), path.name.removesuffix(".jsonl.gz")
    found = grade.grade_all(
      [r["prediction"] for r in rows], [r["target"] for r in rows],
      engine="strict", whole=True,
    )  # fmt: skip
    # The authors' rule: what follows "the answer is", without its full stop.
    rule = [_bbh_rule(r["prediction"]) == r["target"] for r in rows]
    unlike = sum(bool(v[0]) != r for v, r in zip(found, rule, strict=True))
    accuracy = 100 * sum(v[0] or 0 for v in found) / len(rows)
    out[name] = {
      "rows": len(rows),
      "accuracy": accuracy,
      "published": published["accuracy"][name],
      "items_unlike_exact_match": unlike,
    }
  return out


def _bbh_rule(text: str) -> str:
  return text.rsplit("answer is ", 1)[-1].strip().removesuffix(".")


def perturbed(gold: str) -> list[str]:
  """Wrong answers that look like a right one."""
  n = int(gold.replace(",", ""))
  wrong = [n + 1, n - 1, 10 * n + 1, n + 1000, -n if n else 7, f"{n}.5",
           f"{n}1", f"1/{n + 2}", f"{n}, {n + 1}", f"{n or 1}x"]  # fmt: skip
  return [str(w) for w in wrong]


def gsm8k(data: pathlib.Path) -> dict[str, Any]:
  """Gold solutions all 1; perturbed answers and bare numbers all 0."""
  rows = lines(data / "gsm8k" / "train_first2000.jsonl.gz")
  golds = [r["answer"] for r in rows]
  right = grade.grade_all(golds, golds, engine="strict")
  boxed = [f"So \\boxed{{{answers.extract_answer(g)}}}" for g in golds]
  again = grade.grade_all(boxed, golds, engine="strict")
  wrong, paired, bare = [], [], []
  for gold in golds:
    answer = str(answers.extract_answer(gold))
    for text in perturbed(answer):
      wrong.append(f"#### {text}")
      paired.append(gold)
    bare.append(f"It comes to {answer} in all")
  zeros = grade.grade_all(wrong, paired, engine="strict")
  none = grade.grade_all(bare, golds, engine="strict")
  return {
    "rows": len(rows),
    "gold_right": sum(v == (1.0, "ok") for v in right),
    "boxed_right": sum(v == (1.0, "ok") for v in again),
    "perturbed": len(wrong),
    "perturbed_wrong": sum(v == (0.0, "wrong") for v in zeros),
    "unmarked_wrong": sum(v == (0.0, "wrong") for v in none),
  }


def golds_of(data: pathlib.Path, name: str) -> Iterator[str]:
  """Gold answers of a set, one for each row and part."""
  for row in lines(data / "math_eval_sets" / f"{name}.jsonl.gz"):
    if "final_answer" in row:
      yield from row["final_answer"]
    else:
      yield str(row.get("answer", row.get("Answer", row.get("solution"))))


def math_sets(data: pathlib.Path) -> dict[str, Any]:
  """Gold against gold: 1; and read as a form, not only as the same text."""
  out = {}
  for name in SETS:
    golds = list(golds_of(data, name))
    own = [grade.gold_answers(g) for g in golds]
    boxed = [f"\\boxed{{{o[0] if o else ''}}}" for o in own]
    found = grade.grade_all(boxed, golds, engine="strict")
    unread = [o[0] for o in own if o and not forms.understood(o[0])]
    out[name] = {
      "golds": len(golds),
      "no_gold": sum(not o for o in own),
      "right": sum(v == (1.0, "ok") for v in found),
      "by_text_only": unread,
    }
  return out


def second_opinion(data: pathlib.Path) -> dict[str, Any]:
  """Our matcher against math-verify, on answers put beside other golds."""
  pairs = []
  for name in SETS[2:5]:
    own = [o[0] for g in golds_of(data, name) if (o := grade.gold_answers(g))]
    own = own[:60]
    pairs += zip(own, own, strict=True)
    pairs += zip(own, [*own[1:], own[0]], strict=True)
  texts = [f"\\boxed{{{a}}}" for a, _ in pairs]
  golds = [b for _, b in pairs]
  ours = grade.grade_all(texts, golds, engine="strict")
  theirs = grade.grade_all(texts, golds, engine="math_verify")
  unlike = [
    {"answer": a, "gold": b, "ours": o, "math_verify": t,
     "class": _why(a, b, o, t)}
    for (a, b), o, t in zip(pairs, ours, theirs, strict=True) if o != t
  ]  # fmt: skip
  classes = collections.Counter(u["class"] for u in unlike)
  return {
    "pairs": len(pairs),
    "agree": len(pairs) - len(unlike),
    "classes": dict(classes),
    "disagreements": unlike,
  }


def _why(answer: str, gold: str, ours, theirs) -> str:
  """The class of a disagreement between the two matchers."""
  if theirs[1] in ("error", "timeout"):
    return f"math-verify: {theirs[1]}"
  if ours[1] == "abstain" or theirs[1] == "abstain":
    who = "ours" if ours[1] == "abstain" else "math-verify"
    return f"{who} does not read the gold"
  if answer == gold:
    return "the same text: math-verify reads it and finds it unequal"
  if ours[0] == 1.0:
    return "ours is more lenient"
  return "math-verify is more lenient"


def bfcl(data: pathlib.Path) -> dict[str, Any]:
  """Accepted answers as calls are 1; a changed argument or a lost call 0."""
  out: collections.Counter[str] = collections.Counter()
  for kind in ("simple_python", "multiple", "parallel"):
    for row in lines(data / "bfcl" / f"{kind}_answers.jsonl.gz"):
      gold = row["ground_truth"]
      made = [_first(g) for g in gold]
      out["rows"] += 1
      out["right"] += calls.accepted(made, gold)
      out["reversed_right"] += calls.accepted(made[::-1], gold)
      out["left_out_wrong"] += not calls.accepted(made[1:], gold)
      name, given = made[0]
      other = [calls.Call(name, {**given, "no_such": 1}), *made[1:]]
      out["extra_argument_wrong"] += not calls.accepted(other, gold)
      renamed = [calls.Call(name + "_", given), *made[1:]]
      out["renamed_wrong"] += not calls.accepted(renamed, gold)
  return dict(out)


def _first(gold: dict[str, Any]) -> calls.Call:
  ((name, values),) = gold.items()
  chosen = {k: _value(v[0]) for k, v in values.items() if v[0] != ""}
  return calls.Call(name, chosen)


def _value(found: Any) -> Any:
  """The first accepted value; objects hold lists of accepted values."""
  if isinstance(found, dict):
    return {k: _value(v[0]) for k, v in found.items() if v[0] != ""}
  if isinstance(found, list):
    return [_value(v) for v in found]
  return found


def tool_texts(data: pathlib.Path) -> dict[str, Any]:
  """ToolRL's reward of its own supervised targets: 4 with calls, else 1."""
  out: collections.Counter[str] = collections.Counter()
  for row in lines(data / "toolrl" / "rlla_sft_first200.jsonl.gz"):
    gold = row["output"]
    form = toolrl.format_score(gold, gold)
    match = toolrl.correctness(gold, gold)
    out["rows"] += 1
    out["format_1"] += form == 1
    out["with_calls"] += "<tool_call>" in gold
    out["correct"] += match == (3.0 if "<tool_call>" in gold else 0.0)
  return dict(out)


def rouge(data: pathlib.Path) -> dict[str, Any]:
  """Our ROUGE with stems against the recorded ROUGE 1.5.5."""
  sentences = lambda text: re.findall(r"<t>\s*(.*?)\s*</t>", text, re.DOTALL)
  gaps: dict[str, list[float]] = {"1": [], "2": [], "l": []}
  classes: collections.Counter[str] = collections.Counter()
  for row in lines(data / "realsumm" / "ext_first40.jsonl.gz"):
    right = sentences(row["ref_summ"])
    for made in row["system_summaries"].values():
      text, scores = sentences(made["system_summary"]), made["scores"]
      for kind, gap in gaps.items():
        if kind == "l":
          ours = textmetrics.rouge_l(text, right, stemmed=True)
        else:
          joined = " ".join(text), " ".join(right)
          ours = textmetrics.rouge_n(*joined, int(kind), stemmed=True)
        named = zip(ours, ("precision", "recall", "f_score"), strict=True)
        gap.append(max(abs(v - scores[f"rouge_{kind}_{n}"]) for v, n in named))
      classes[_rouge_class(gaps["1"][-1], scores, right, text)] += 1
  return {
    name: {
      "summaries": len(gap),
      "exact": sum(g < EXACT for g in gap) / len(gap),
      "mean_gap": sum(gap) / len(gap),
      "largest_gap": max(gap),
    }
    for name, gap in gaps.items()
  } | {"classes_of_rouge_1": dict(classes)}


def _rouge_class(gap: float, scores, right, text) -> str:
  """Why ROUGE-1 differs: the record's own word counts tell."""
  if gap < EXACT:
    return "equal"
  right, text = " ".join(right), " ".join(text)
  for other in _other_tokens(right):
    found = textmetrics.rouge_n(text, other, 1, stemmed=True)
    named = zip(found, ("precision", "recall", "f_score"), strict=True)
    if max(abs(v - scores[f"rouge_1_{n}"]) for v, n in named) < EXACT:
      return "the reference was scored in other tokens"
  size = len(textmetrics.words(right))
  if abs(scores["rouge_1_recall"] * size % 1 - 0.5) < 0.5 - 2e-3:
    return "another reference text was scored"
  return "not explained"


def _other_tokens(text: str) -> list[str]:
  """The same words in the tokens of a treebank, each rule and all of them."""
  rules: list[Callable[[str], str]] = [
    lambda t: re.sub(r"(\w)n\s*'\s*t\b", r"\1 n ' t", t),  # don't: do n't
    lambda t: re.sub(r"\bcan\s*'\s*t\b", "ca n ' t", t),
    lambda t: t.replace("(", " -lrb- ").replace(")", " -rrb- "),
    lambda t: re.sub(r"(\d)(am|pm|million)\b", r"\1 \2", t),  # 4pm: 4 pm
  ]
  out = [rule(text) for rule in rules]
  for rule in rules:
    text = rule(text)
  return [*out, text]


def main() -> None:
  """Runs all and writes the report."""
  parser = argparse.ArgumentParser(description=__doc__)
  default = os.environ.get("RLREWARD_DATA", str(ROOT.parent / "shared/data"))
  parser.add_argument(
    "--data", type=pathlib.Path, default=pathlib.Path(default)
  )
  parser.add_argument("--out", type=pathlib.Path, default=OUT)
  args = parser.parse_args()
  report = {
    "rollouts": rollouts(args.data),
    "bbh": bbh(args.data),
    "gsm8k": gsm8k(args.data),
    "math_sets": math_sets(args.data),
    "bfcl": bfcl(args.data),
    "toolrl": tool_texts(args.data),
    "rouge": rouge(args.data),
  }
  if grade.has_math_verify():
    report["second_opinion"] = second_opinion(args.data)
  text = json.dumps(report, indent=1, ensure_ascii=False)
  args.out.write_text(text + "\n")
  print(text)


if __name__ == "__main__":
  main()
