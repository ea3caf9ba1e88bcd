"""The command line: rlreward VERB ..."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from rlreward import cli_words
from rlreward.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a verb and returns its exit code; bad input prints three lines."""
  argv = list(sys.argv[1:] if argv is None else argv)
  try:
    parser = cli_words.parser()
    cli_words.check_verb(argv)
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
  from rlreward import adapters, runs

  del overrides
  write = adapters.export if args.adapter else runs.export
  then = write(args.run, args.out)
  print(f"wrote {args.out}; try: {then}")
  return 0


def _score(args: Any, overrides: list[str]) -> int:
  from rlreward import reward_models, runs, scoring

  del overrides
  limits = {"max_length": args.max_length, "batch": args.batch}
  if runs.holds(args.model):
    found = runs.reward_model(args.model, **limits)
  else:
    found = reward_models.load(
      args.model, dtype=args.dtype, output=args.output, **limits
    )
  print(f"{args.model}: {found.note}", file=sys.stderr)
  counts = scoring.run(
    found,
    args.input,
    args.out,
    column=args.column,
    traces=args.tokens,
    normalise=args.normalise,
  )
  print(f"wrote {args.out}: {counts.text()}")
  return 0


def _card(args: Any, overrides: list[str]) -> int:
  from rlreward import calibrate

  del overrides
  found = calibrate.calibrate(
    args.model,
    args.input,
    dtype=args.dtype,
    output=args.output,
    max_length=args.max_length,
    batch=args.batch,
  )
  card = found.model.card
  print(
    f"wrote the card of {args.model}: {card.texts} answers, mean"
    f" {card.mean:.4g}, scale {card.scale:.4g}, strings are {card.strings};"
    f" {found.note}"
  )
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
  from rlreward import papers, registry

  del overrides
  root = pathlib.Path(__file__).resolve().parent
  tables = {
    "algorithms": [
      root / "algorithms" / f"{n}.py" for n in registry.names("algorithms")
    ],
    "tasks": [root / "tasks" / f"{n}.py" for n in registry.tasks()],
    "configs": [f for f in papers.files() if f.stem != "common"],
  }
  for name, files in tables.items():
    if args.what in ("all", name):
      print(name)
      for file in files:
        print(f"  {file.stem:14} {_first_line(file)}")
  if args.what in ("all", "papers"):
    print("papers", *papers.lines(papers.papers()), sep="\n")
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
  "score": _score,
  "card": _card,
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
