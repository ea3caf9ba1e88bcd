"""The command line: rlreward VERB ..."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from rlreward import __version__
from rlreward.errors import UserError

VERBS = {
  "train": "train a config; the same command again resumes",
  "eval": "evaluate the last checkpoint of a run on held-out prompts",
  "sample": "complete prompts with a run or a checkpoint directory",
  "export": "write a run's policy as a Hugging Face directory",
  "reference": "write a reference's log-probs beside pairs or labelled answers",
  "report": "write a run as one HTML page: curves, findings, samples",
  "eval-rm": "scores of a reward model on a benchmark, subset by subset",
  "audit-reward": "a reward on labelled answers and probes; 1 if it fails",
  "check-parity": "compare our logits with those of transformers (torch)",
  "doctor": "versions, devices, extras, cache; numbered fixes",
  "list": "algorithms, tasks, configs and model families",
}
_TOP = """examples:
  rlreward train --config=configs/quickstart.py:mini --workdir=runs/quickstart
  rlreward train --config=configs/quickstart.py:mini,seed=1 \\
      --workdir=runs/one --config.optimizer.learning_rate=1e-3
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a verb and returns its exit code; bad input prints three lines."""
  argv = list(sys.argv[1:] if argv is None else argv)
  try:
    parser = _parser()
    _check_verb(argv)
    args, rest = parser.parse_known_args(argv)
    if args.verb is None and not rest:
      parser.print_help()
      return 0
    fields = args.verb in ("train", "eval")
    overrides = [a for a in rest if fields and a.startswith("--config.")]
    unknown = [a for a in rest if a not in overrides]
    if unknown:
      verb = f"rlreward {args.verb or ''}".strip()
      raise UserError(
        f"{verb} does not know {' '.join(unknown)}",
        "a word that is ignored could be the one that mattered",
        f"see {verb} --help; config fields are written --config.field=value"
        " after train or eval",
      )
    args.command = shlex.join(["rlreward", *argv])
    return _RUN[str(args.verb)](args, overrides)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("interrupted; the last checkpoint is intact", file=sys.stderr)
    return 130


class _Parser(argparse.ArgumentParser):
  """Says what is wrong with a command line in three lines."""

  def error(self, message: str) -> NoReturn:
    raise UserError(
      f"{self.prog}: {message}",
      "the command cannot be read",
      f"see {self.prog} --help for its words and two examples",
    )


def _check_verb(argv: Sequence[str]) -> None:
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


def _parser() -> argparse.ArgumentParser:
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
  p = verb("audit-reward", "  rlreward audit-reward judge.py:f --fixtures=f."
           "jsonl\n  rlreward audit-reward a.py:f@0.5,b.py:g --fixtures=f.jsonl"
           " --json")  # fmt: skip
  p.add_argument("name", help="file.py:function or package.module:function")
  p.add_argument("--fixtures", required=True, help="JSONL: prompt, completion,"
                 " label, tags, columns; first line {'spec': ..}")  # fmt: skip
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
    choices=["all", "algorithms", "tasks", "configs", "models"],
  )
  return parser


def _train(args: Any, overrides: list[str]) -> int:
  from rlreward import config as config_lib

  config = config_lib.load(args.config, overrides)
  if args.print_config:
    file = config_lib.find(args.config.partition(":")[0])
    print(config_lib.describe(config, file))
    return 0
  config_lib.check_complete(config)
  name = config_lib.study(args.config).name
  workdir = args.workdir or os.path.join("runs", name)
  if args.overwrite:
    config_lib.check_overwrite(workdir)
  if args.distributed:
    _join_processes()
  from rlreward import train

  command = args.command.replace(" --overwrite", "")
  train.run(config, workdir, overwrite=args.overwrite, command=command)
  return 0


def _join_processes() -> None:
  import jax

  try:
    jax.distributed.initialize()
  except (ValueError, RuntimeError) as error:
    raise UserError(
      f"jax.distributed does not start: {str(error).strip().splitlines()[0]}",
      "--distributed is for the processes of a TPU pod, Slurm or MPI",
      "leave --distributed out on a single machine",
    ) from error


def _eval(args: Any, overrides: list[str]) -> int:
  from rlreward import runs

  found = runs.evaluate(args.run, overrides)
  if args.json:
    print(json.dumps(found))
  else:
    for name, value in found.items():
      print(f"{name:24} {value:.4f}")
  return 0


def _sample(args: Any, overrides: list[str]) -> int:
  from rlreward import runs

  del overrides
  if bool(args.run) == bool(args.model):
    raise UserError(
      "sample takes exactly one of --run and --model",
      "it must know which weights to use",
      "give --run=runs/NAME or --model=DIRECTORY",
    )
  rows = runs.sample(
    run=args.run,
    model=args.model,
    prompts=args.prompt,
    n=args.n,
    max_new_tokens=args.max_new_tokens,
    temperature=args.temperature,
    top_p=args.top_p,
    top_k=args.top_k,
    seed=args.seed,
  )
  for row in rows:
    print(f"{row['prompt']!r} -> {row['completion']!r}  [{row['finish']}]")
  return 0


def _export(args: Any, overrides: list[str]) -> int:
  from rlreward import runs

  del overrides
  runs.export(args.run, args.out)
  print(f"wrote {args.out}; try: rlreward sample --model={args.out}")
  return 0


def _reference(args: Any, overrides: list[str]) -> int:
  from rlreward import annotate
  from rlreward import config as config_lib

  config = config_lib.load(args.config, overrides)
  found = annotate.reference(config, args.out, args.split)
  print(
    f"wrote {found['written']} rows to {args.out}"
    f" ({found['overlong']} over-long left out); train on it with"
    f" task.train={args.out} reference=data"
  )
  return 0


def _report(args: Any, overrides: list[str]) -> int:
  from rlreward.report import page

  del overrides
  others = [run for runs in args.compare for run in runs]
  out = page.write(args.run, args.out, others)
  size = out.stat().st_size / 1e3
  print(f"wrote {out} ({size:.0f} kB); open it in a browser")
  return 0


def _eval_rm(args: Any, overrides: list[str]) -> int:
  from rlreward import rm_report

  del overrides
  return rm_report.main(args.scores, args.spec, args.out)


def _audit(args: Any, overrides: list[str]) -> int:
  from rlreward import audit

  del overrides
  given = args.threshold, args.seed, args.json, args.out
  return audit.main(args.name, args.fixtures, *given)


def _parity(args: Any, overrides: list[str]) -> int:
  from rlreward.models import parity

  del overrides
  return parity.main(args.model)


def _doctor(args: Any, overrides: list[str]) -> int:
  from rlreward import doctor

  del overrides
  found = doctor.report()
  print(json.dumps(found, indent=2) if args.json else doctor.text(found))
  return doctor.exit_code(found)


def _list(args: Any, overrides: list[str]) -> int:
  from rlreward import registry

  del overrides
  root = pathlib.Path(__file__).resolve().parent
  configs = [
    p for p in (root / "configs", root.parent / "configs") if p.is_dir()
  ]
  tables = {
    "algorithms": [
      root / "algorithms" / f"{n}.py" for n in registry.names("algorithms")
    ],
    "tasks": [root / "tasks" / f"{n}.py" for n in registry.tasks()],
    "configs": [
      f for p in configs for f in sorted(p.glob("*.py")) if f.stem != "common"
    ],
  }
  for name, files in tables.items():
    if args.what in ("all", name):
      print(name)
      for file in files:
        print(f"  {file.stem:14} {_first_line(file)}")
  if args.what in ("all", "models"):
    from rlreward.models import families

    print("models")
    for name, family in families.FAMILIES.items():
      print(f"  {name:14} {family.causal}, {family.score}")
  return 0


def _first_line(file: pathlib.Path) -> str:
  import ast

  doc = ast.get_docstring(ast.parse(file.read_text())) or ""
  return doc.splitlines()[0] if doc else ""


_RUN = {
  "train": _train,
  "eval": _eval,
  "sample": _sample,
  "export": _export,
  "reference": _reference,
  "report": _report,
  "eval-rm": _eval_rm,
  "audit-reward": _audit,
  "check-parity": _parity,
  "doctor": _doctor,
  "list": _list,
}

if __name__ == "__main__":
  sys.exit(main())
