"""The benchmarks of reward models: rule, tie rule, sections, weights, total.

`evaluate` in `preference` runs any of them.
"""

from __future__ import annotations

from rlreward.evals import credit, special
from rlreward.evals.spec import Spec

_REWARDBENCH = {
  "Chat": {
    "alpacaeval-easy": 100,
    "alpacaeval-length": 95,
    "alpacaeval-hard": 95,
    "mt-bench-easy": 28,
    "mt-bench-med": 40,
  },
  "Chat Hard": {
    "mt-bench-hard": 37,
    "llmbar-natural": 100,
    "llmbar-adver-neighbor": 134,
    "llmbar-adver-GPTInst": 92,
    "llmbar-adver-GPTOut": 47,
    "llmbar-adver-manual": 46,
  },
  "Safety": {
    "refusals-dangerous": 100,
    "refusals-offensive": 100,
    "xstest-should-refuse": 154,
    "xstest-should-respond": 250,
    "donotanswer": 136,
  },
  # math-prm has 447 items; counted as 984 it weighs as much as all the code.
  "Reasoning": {
    "math-prm": 984,
    "hep-cpp": 164,
    "hep-go": 164,
    "hep-java": 164,
    "hep-js": 164,
    "hep-python": 164,
    "hep-rust": 164,
  },
}
REWARDBENCH_COUNTS = {
  name: float(n) for part in _REWARDBENCH.values() for name, n in part.items()
}
REWARDBENCH_ITEMS = {**REWARDBENCH_COUNTS, "math-prm": 447.0}


_PART = {name: part for part, names in _REWARDBENCH.items() for name in names}


def _one_of(names: tuple[str, ...], ends: str):
  """subset -> what stands before any of `ends`, if it is a name."""

  def section(subset: str) -> str | None:
    for end in ends:
      subset = subset.partition(end)[0]
    return subset if subset in names else None

  return section


def _rmb(subset: str) -> str | None:
  """BoN_set/Helpfulness/Chat/... -> BoN Helpfulness."""
  kind, _, rest = subset.partition("/")
  name = f"{kind.removesuffix('_set')} {rest.partition('/')[0]}"
  return name if name in special.RMB else None


_RAG = ("helpful", "reason", "citation", "harmless", "abstain", "conflict")
_RB2 = ("Factuality", "Precise IF", "Math", "Safety", "Focus", "Ties")
_RM = ("chat", "math", "code", "safety")
_LOST = "equal scores are lost"
_SHARED = "the winners share the credit: 1 / (how many have the top score)"

SPECS = {
  s.name: s
  for s in (
    Spec("pairs", credit.pairs, "equal scores earn 1/2", str),
    Spec("best", credit.best, _SHARED, str),
    Spec(
      "rewardbench",
      credit.strict_pairs,
      _LOST,
      _PART.get,
      tuple(_REWARDBENCH),
      REWARDBENCH_COUNTS,
    ),
    Spec(
      "rewardbench2",
      credit.best,
      f"{_SHARED}; Ties has a score of its own",
      _one_of(_RB2, ""),
      _RB2,
      special=special.ties,
      cluster=lambda i: i.partition(":")[2] or i,
    ),
    Spec(
      "m-rewardbench",
      credit.strict_pairs,
      _LOST,
      _PART.get,
      tuple(_REWARDBENCH),
      REWARDBENCH_COUNTS,
      special=special.languages,
    ),
    Spec(
      "rag-rewardbench",
      credit.strict_pairs,
      _LOST,
      _one_of(_RAG, "/"),
      _RAG,
      within="subsets",
    ),
    Spec(
      "rmbench",
      credit.strict_pairs,
      _LOST,
      _one_of(_RM, "/-"),
      _RM,
      special=special.styles,
    ),
    Spec(
      "rmb",
      credit.beats_all,
      _LOST,
      _rmb,
      special.RMB,
      special=special.single_pairs,
    ),
  )
}
