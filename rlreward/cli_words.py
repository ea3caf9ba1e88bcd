"""The words of the command line: its verbs, their arguments and examples."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import NoReturn

from rlreward import __version__
from rlreward.errors import UserError

VERBS = {
  "train": "train a config; the same command again resumes",
  "eval": "evaluate the last checkpoint of a run on held-out prompts",
  "sample": "complete prompts with a run or a checkpoint directory",
  "export": "write a run's policy as a Hugging Face directory",
  "score": "a reward model's scores beside the rows of a JSONL; it resumes",
  "card": "mean, scale and golden scores beside a reward model without them",
  "reference": "write a reference's log-probs beside pairs or labelled answers",
  "report": "write a run as one HTML page: curves, findings, samples",
  "eval-rm": "scores of a reward model on a benchmark, subset by subset",
  "audit-reward": "a reward on labelled answers and probes; 1 if it fails",
  "check-parity": "compare our logits with those of transformers (torch)",
  "doctor": "versions, devices, extras, cache; numbered fixes",
  "list": "algorithms, papers, tasks, configs and model families",
}
_TOP = """examples:
  rlreward train --config=configs/quickstart.py:mini --workdir=runs/quickstart
  rlreward train --config=configs/quickstart.py:mini,seed=1 \\
      --workdir=runs/one --config.optimizer.learning_rate=1e-3
"""


class _Parser(argparse.ArgumentParser):
  """Says what is wrong with a command line in three lines."""

  def error(self, message: str) -> NoReturn:
    raise UserError(
      f"{self.prog}: {message}",
      "the command cannot be read",
      f"see {self.prog} --help for its words and two examples",
    )


def check_verb(argv: Sequence[str]) -> None:
  """Refuses a first word that is no verb.

  Raises:
    UserError: says which verb is nearest.
  """
  verb = argv[0] if argv else "-"
  if verb.startswith("-") or verb in VERBS:
    return
  near = difflib.get_close_matches(verb, VERBS, 1)
  raise UserError(
    f"there is no verb {verb!r}",
    "the first word says what to do",
    f"write rlreward {near[0]}"
    if near
    else f"use one of: {', '.join(VERBS)}; see rlreward --help",
  )


def parser() -> argparse.ArgumentParser:
  """The parser of every verb."""
  raw = argparse.RawDescriptionHelpFormatter
  parser = _Parser(
    "rlreward",
    description="Reward modelling, RLHF and RL with verifiable rewards in JAX.",
    epilog=_TOP,
    formatter_class=raw,
    allow_abbrev=False,
  )
  parser.add_argument("--version", action="version", version=__version__)
  verbs = parser.add_subparsers(dest="verb", metavar="VERB")

  def verb(name: str, example: str) -> argparse.ArgumentParser:
    return verbs.add_parser(
      name,
      help=VERBS[name],
      description=VERBS[name],
      epilog=f"examples:\n{example}",
      formatter_class=raw,
      allow_abbrev=False,
    )

  p = verb(
    "train",
    "  rlreward train --config=configs/quickstart.py:mini --workdir=runs/a\n"
    "  rlreward train --config=configs/dreams.py --print_config",
  )
  p.add_argument("--config", required=True, help="file[:preset][,field=value]")
  p.add_argument("--workdir", help="run directory (default runs/<config>)")
  p.add_argument("--overwrite", action="store_true", help="start again there")
  p.add_argument(
    "--print_config", action="store_true", help="show every field and exit"
  )
  p.add_argument(
    "--distributed",
    action="store_true",
    help="several processes: jax.distributed finds them (TPU pod, Slurm)",
  )
  p = verb("eval", "  rlreward eval --run=runs/a\n  rlreward eval --run=runs/a"
           " --config.eval.prompts=1024 --json")  # fmt: skip
  p.add_argument("--run", required=True, help="a run directory")
  p.add_argument("--json", action="store_true", help="print JSON")
  p = verb(
    "sample",
    "  rlreward sample --run=runs/quickstart --prompt='12+34='\n"
    "  rlreward sample --model=path/to/hf --prompt='Once' --n=4",
  )
  p.add_argument("--run", help="a run directory")
  p.add_argument("--model", help="a directory with config.json and weights")
  p.add_argument("--prompt", action="append", help="may be given repeatedly")
  p.add_argument("--n", type=int, default=1, help="samples for each prompt")
  p.add_argument("--max_new_tokens", type=int, help="default: the run's")
  p.add_argument("--temperature", type=float, help="0 greedy; else the run's")
  p.add_argument("--top_p", type=float, default=1.0)
  p.add_argument("--top_k", type=int, default=0)
  p.add_argument("--seed", type=int, default=0)
  p = verb("export", "  rlreward export --run=runs/a --out=exported\n"
           "  rlreward sample --model=exported --prompt='12+34='")  # fmt: skip
  p.add_argument("--run", required=True, help="a run directory")
  p.add_argument("--out", required=True, help="a directory that does not exist")
  p.add_argument("--adapter", action="store_true",
                 help="the adapter alone, as PEFT saves it")  # fmt: skip
  p = verb("score", "  rlreward score --model=exported --input=rows.jsonl"
           " --out=s.jsonl\n  rlreward score --model=path/to/hf"
           " --input=rows.jsonl.gz --out=s.jsonl --tokens")  # fmt: skip
  p.add_argument("--model", required=True, help="a directory or a hub name")
  p.add_argument("--input", required=True, help="JSONL(.gz) or parquet:"
                 " prompt, completion(s); a pair; messages")  # fmt: skip
  p.add_argument("--out", required=True, help="a JSONL that does not exist")
  p.add_argument("--column", default="score", help="name of the score")
  p.add_argument("--tokens", action="store_true", help="a value of each token")
  p.add_argument("--normalise", action="store_true", help="mean 0, scale 1")
  p.add_argument("--batch", type=int, default=16, help="rows of a program")
  p.add_argument("--max_length", type=int, help="tokens; longer rows get null")
  p.add_argument("--dtype", help="float32 or bfloat16; default the model's")
  p.add_argument("--output", type=int, help="which output is the score")
  p = verb("card", "  rlreward card --model=path/to/hf --input=answers.jsonl\n"
           "  rlreward card --model=path/to/hf --input=answers.parquet"
           " --output=0")  # fmt: skip
  p.add_argument("--model", required=True, help="a directory without a card")
  p.add_argument("--input", required=True, help="answers, as those of score")
  p.add_argument("--batch", type=int, default=16, help="rows of a program")
  p.add_argument("--max_length", type=int, help="tokens of the longest text")
  p.add_argument("--dtype", help="float32 or bfloat16; default the model's")
  p.add_argument("--output", type=int, help="which output is the score")
  p = verb("reference", "  rlreward reference --config=configs/pairs.py"
           " --out=pairs.jsonl\n  rlreward reference --config=configs/pairs.py"
           " --out=test.jsonl --split=test")  # fmt: skip
  p.add_argument("--config", required=True, help="file[:preset][,field=value]")
  p.add_argument("--out", required=True, help="a JSONL that does not exist")
  p.add_argument("--split", default="train", help="train or test")
  p = verb(
    "report",
    "  rlreward report runs/a\n"
    "  rlreward report runs/a --compare=runs/b --out=pages/a.html",
  )
  p.add_argument("run", help="a run directory; it may still be training")
  p.add_argument("--out", help="the file (default RUN/report.html)")
  p.add_argument(
    "--compare",
    action="append",
    nargs="+",
    default=[],
    metavar="OTHER_RUN",
    help="other runs, drawn beside it",
  )
  p = verb("eval-rm", "  rlreward eval-rm --scores=s.jsonl\n  rlreward eval-rm"
           " --scores=s.jsonl --spec=rewardbench2 --out=s.json")  # fmt: skip
  p.add_argument("--scores", required=True, help="JSONL, right answers first")
  p.add_argument("--spec", default="pairs", help="rewardbench2, rmbench, ..")
  p.add_argument("--out", help="a JSON file that does not exist")
  p = verb(
    "audit-reward",
    "  rlreward audit-reward a.py:f@0.5,b.py:g"
    " --fixtures=f.jsonl --json\n  rlreward audit-reward exported",
  )
  p.add_argument("name", help="file.py:function, package.module:function, or"
                 " the directory of a reward model")  # fmt: skip
  p.add_argument("--fixtures", help="JSONL: prompt, completion, label, tags,"
                 " columns; a spec first; a directory needs none")  # fmt: skip
  p.add_argument("--threshold", type=float, help="accepted from this value on")
  p.add_argument("--seed", type=int, default=0, help="of the probes")
  p.add_argument("--json", action="store_true", help="print JSON")
  p.add_argument("--out", help="a JSON file that does not exist")
  p = verb("check-parity", "  rlreward check-parity --model=path/to/hf\n"
           "  rlreward check-parity --model=exported")  # fmt: skip
  p.add_argument("--model", required=True, help="a directory with weights")
  p = verb("doctor", "  rlreward doctor\n  rlreward doctor --json")
  p.add_argument("--json", action="store_true", help="for bug reports")
  p = verb("list", "  rlreward list\n  rlreward list algorithms")
  p.add_argument(
    "what",
    nargs="?",
    default="all",
    choices=["all", "algorithms", "papers", "tasks", "configs", "models"],
  )
  return parser
