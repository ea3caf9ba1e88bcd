"""Hostile strings through every verifier on the host: does one break it?

usage: python benchmarks/fuzz_verifiers.py [--strings 1000000] [--out FILE]

Each string goes through every verifier that runs in the training process; a
call that raises, or that takes more than `SLOW` seconds of processor time, is
recorded with its string. Memory is the
peak of the process after a warm-up of the caches against that at the end. A
thousand of the strings also go to math-verify, in workers that are killed.
Writes results/fuzz_verifiers.json.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import random
import resource
import string
import sys
import time
from collections.abc import Callable
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
OUT = ROOT / "results" / "fuzz_verifiers.json"
sys.path[:0] = [str(ROOT)]

from rlreward.rewards import (
  answers,
  calls,
  grade,
  phrases,
  readability,
  tags,
  text_tool,
  textmetrics,
  tina,
  toolrl,
  verify,
)

SLOW = 1.0
GOLD = ("42", "\\frac{1}{2}", "[1,2)", "\\{1,2\\}", "x^2+1", "(B)", "5 cm",
        "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "True")  # fmt: skip
CALL = '<tool_call>\n{"name": "f", "parameters": {"x": 1}}\n</tool_call>'
PIECES = [
  "\\boxed{", "}", "{", "\\{", "\\}", "####", "The answer is ", "\\frac",
  "\\sqrt[", "\\left(", "\\right]", "^", "_", "!", "%", "$", "$$", "\\(",
  "\\begin{pmatrix}", "\\end{pmatrix}", "\\\\", "&", "\\text{", "\\cup", "|",
  "\\pm", "1e999", "9" * 50, "0.", ",", "1,234", "-", "+", "*", "/", "(", ")",
  "[", "]", "\\infty", "\\sin", "\\log_", "pi", "x", "y^2", "\\le", "=", " ",
  "\n", "<think>", "</think>", "<answer>", "</answer>", "<tool_call>",
  "</tool_call>", '{"name": "f", "parameters": {', '"x": 1', "}}", "[[", "]]",
  "f(x=", "'", '"', "\\u", "\\x00", "\x00", "\ud800", "\u202e", "\u0301",
  "\uff11", "\u00bd", "\u221e", "\U0001f600", "NaN", "Infinity", "null",
  "true", "lambda", "__import__('os')", "%s%n", "../", "<response>",
  "user: ", "therefore", "km", "per", "\\circ", "\u00b0", "\\%", "{,}",
]  # fmt: skip


def hostile(rng: random.Random) -> str:
  """One string: pieces of the grammars, noise, or a repetition of both."""
  kind = rng.random()
  if kind < 0.55:
    return "".join(rng.choices(PIECES, k=rng.randint(1, 25)))
  if kind < 0.75:
    signs = string.printable + "\\{}[]()^_$%&"
    return "".join(rng.choices(signs, k=rng.randint(0, 80)))
  if kind < 0.9:
    seed = "".join(rng.choices(PIECES, k=rng.randint(1, 3)))
    return seed * rng.randint(1, 40)
  if kind < 0.9985:
    wild = [chr(rng.choice((rng.randrange(0x3000), rng.randrange(0x110000))))
            for _ in range(rng.randint(1, 40))]  # fmt: skip
    return "\\boxed{" + "".join(wild) + "}"
  return rng.choice(PIECES) * rng.randint(500, 20_000)


FORMAT = tags.compile("think answer")
VERIFIERS: dict[str, Callable[[str, random.Random], object]] = {
  "extract_answer": lambda s, r: answers.extract_answer(s, last_number=True),
  "grade_strict": lambda s, r: grade.grade(s, r.choice(GOLD), engine="strict"),
  "same_strict": lambda s, r: grade.same(s, r.choice(GOLD), engine="strict"),
  "as_gold": lambda s, r: grade.same("42", s, engine="strict"),
  "think_answer": lambda s, r: FORMAT.accepts(s),
  "tool_call": lambda s, r: _called(s),
  "toolrl": lambda s, r: (
    toolrl.format_score(s, CALL), toolrl.correctness(s, CALL)),
  "phrases": lambda s, r: phrases.reward(s) + phrases.repetition(s),
  "readability": lambda s, r: readability.counts(s),
  "rouge_l": lambda s, r: textmetrics.rouge_l(s[:2000], "the answer is 42 x"),
  "sari": lambda s, r: textmetrics.sari("a b c", s[:2000], ["a b"]),
  "formats": lambda s, r: [
    float(f(s)) for f in (verify.boxed, verify.thought, verify.readable,
                          verify.answered, verify.reasoning)],
  "thoughts": lambda s, r: (
    tina.format(s), tina.tag_count(s, ""), tina.reasoning_steps(s)),
  "calls_of_tools": lambda s, r: (
    text_tool.call(s, text_tool.TAGS), text_tool.call(s, text_tool.SQL)),
}  # fmt: skip


def _called(text: str) -> object:
  try:
    found = calls.parse(text)
  except calls.BadCallError:
    return None
  return calls.graded(found, calls.parse(CALL)), calls.same(found, found)


def memory_mb() -> float:
  """What the process holds now, not its peak; the peak where it is unknown."""
  try:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
  except OSError:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def fuzz(count: int, seed: int = 0, minutes: float = 1e9) -> dict:
  """Every verifier on every string.

  Args:
    count: strings.
    seed: of the strings.
    minutes: of wall time, after which it stops and says how far it came.
  """
  rng = random.Random(seed)
  spent: dict[str, float] = dict.fromkeys(VERIFIERS, 0.0)
  worst: dict[str, float] = dict.fromkeys(VERIFIERS, 0.0)
  failed: list[dict] = []
  slow: list[dict] = []
  warm, done, end = 0.0, 0, time.monotonic() + 60 * minutes
  while done < count and time.monotonic() < end:
    if done == count // 4:
      warm = memory_mb()
    text = hostile(rng)
    about = {"text": ascii(text[:300]), "length": len(text)}
    for name, check in VERIFIERS.items():
      start = time.process_time()
      try:
        check(text, rng)
      except Exception as error:  # what the fuzzing looks for
        failed.append({"verifier": name, "error": repr(error)[:200], **about})
      took = time.process_time() - start
      spent[name] += took
      worst[name] = max(worst[name], took)
      if took > SLOW:
        slow.append({"verifier": name, "seconds": took, **about})
    done += 1
  return {
    "strings": done,
    "failed": failed[:20],
    "failures": len(failed),
    "slow": slow[:20],
    "slow_calls": len(slow),
    "memory_mb_after_a_quarter": warm,
    "memory_mb_grown_since": memory_mb() - warm,
    "strings_per_cpu_second": {k: done / v for k, v in spent.items()},
    "slowest_call_seconds": worst,
  }


def workers(count: int, seed: int = 1) -> dict:
  """math-verify in workers, on strings put beside a gold answer.

  Args:
    count: strings.
    seed: of the strings.
  """
  rng = random.Random(seed)
  texts = [hostile(rng)[:1000] for _ in range(count)]
  golds = [rng.choice(GOLD) for _ in texts]
  start = time.perf_counter()
  out = grade.grade_all(
    texts, golds, engine="math_verify", whole=True, timeout=5.0, workers=1
  )
  wall = time.perf_counter() - start
  zeros = sum(v == 0 and s != "wrong" for v, s in out)
  return {
    "strings": count,
    "statuses": dict(collections.Counter(s for _, s in out)),
    "zeros_that_are_no_verdict": zeros,
    "strings_per_second": count / wall,
  }


def main() -> None:
  """Runs both and writes the report."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--strings", type=int, default=1_000_000)
  parser.add_argument("--minutes", type=float, default=1e9)
  parser.add_argument("--asked", type=int, default=1000)
  parser.add_argument("--out", type=pathlib.Path, default=OUT)
  args = parser.parse_args()
  report: dict[str, Any] = {"host": fuzz(args.strings, minutes=args.minutes)}
  if args.asked and grade.has_math_verify():
    report["math_verify"] = workers(args.asked)
  report["python"] = sys.version.split()[0]
  text = json.dumps(report, indent=1)
  args.out.write_text(text + "\n")
  print(text)


if __name__ == "__main__":
  main()
