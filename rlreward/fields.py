"""The fields of a config: set with types, flattened, compared, printed."""

from __future__ import annotations

import ast
import contextlib
import difflib
import io
import json
import pathlib
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from rlreward.errors import UserError

PACKAGE = pathlib.Path(__file__).resolve().parent
_WORDS = {"true": True, "yes": True, "1": True}
_WORDS |= {"false": False, "no": False, "0": False}


def assign(
  config: ml_collections.ConfigDict, overrides: Mapping[str, Any]
) -> None:
  """Sets dotted fields in place, each with the type of its default.

  Args:
    config: what is changed.
    overrides: {"dotted.field": value}; text is parsed.

  Raises:
    UserError: no such field (with the nearest names), or the wrong type.
  """
  for dotted, value in overrides.items():
    node: Any = config
    *parents, last = dotted.split(".")
    for depth, part in enumerate([*parents, last]):
      if not isinstance(node, ml_collections.ConfigDict) or part not in node:
        _unknown(config, dotted, depth)
      if depth < len(parents):
        node = node[part]
    parsed = _convert(dotted, node[last], value, node.get_type(last))
    with node.ignore_type():
      node[last] = parsed


def to_json(config: Any) -> str:
  """Deterministic JSON: sorted keys, two spaces, tuples as lists.

  Args:
    config: ConfigDict or mapping.

  Returns:
    The text, ending in a newline.

  Raises:
    UserError: a value has no JSON form.
  """
  try:
    return json.dumps(_plain(config), indent=2, sort_keys=True) + "\n"
  except TypeError as error:
    raise UserError(
      f"the config holds a value that JSON cannot: {error}",
      "a run keeps its config as JSON so that it can be resumed",
      "put a string in the config and look the object up by name",
    ) from error


def diff(a: Any, b: Any) -> list[str]:
  """What changes from one config to another, a line per field.

  Args:
    a: ConfigDict, mapping or JSON text.
    b: the same.

  Returns:
    Sorted lines such as "lr: 0.001 -> 0.01"; empty when equal.
  """
  old, new = dict(flatten(a)), dict(flatten(b))
  lines = []
  for key in sorted({*old, *new}):
    if key not in new:
      lines.append(f"{key}: {old[key]!r} -> (absent)")
    elif key not in old:
      lines.append(f"{key}: (absent) -> {new[key]!r}")
    elif repr(old[key]) != repr(new[key]):
      lines.append(f"{key}: {old[key]!r} -> {new[key]!r}")
  return lines


def flatten(config: Any) -> Iterator[tuple[str, Any]]:
  """Yields (dotted name, value) of every field.

  Args:
    config: ConfigDict, mapping or JSON text.

  Yields:
    Pairs in the order of the config.
  """
  tree = json.loads(config) if isinstance(config, str) else _plain(config)
  stack: list[tuple[str, Any]] = [("", tree)]
  while stack:
    prefix, node = stack.pop()
    if isinstance(node, dict) and (node or not prefix):
      dot = f"{prefix}." if prefix else ""
      stack += [(dot + str(k), v) for k, v in reversed(node.items())]
    else:
      yield prefix, node


def describe(config: Any, source: str | pathlib.Path | None = None) -> str:
  """What `--print_config` prints: each field with the file's comment on it.

  Args:
    config: the config.
    source: its file, read for trailing comments, after the `common.py` beside
      it and the module of its task.

  Returns:
    A line per field: "name = value  # comment".
  """
  comments, lines = {}, []
  if source:
    path = pathlib.Path(source)
    task = dict(flatten(config)).get("task.name")
    for file in (
      PACKAGE / f"tasks/{task}.py",
      path.with_name("common.py"),
      path,
    ):
      if file.is_file():
        comments |= _comments(file.read_text())
  for name, value in flatten(config):
    comment = comments.get(name)
    lines.append(f"{name} = {value!r}" + (f"  # {comment}" if comment else ""))
  return "\n".join(lines)


def nearest(close: Sequence[str]) -> str:
  """The words "did you mean ...", empty without a proposal."""
  return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def _unknown(config: Any, dotted: str, depth: int) -> None:
  names = [name for name, _ in flatten(config)]
  inner = {n.rsplit(".", k)[0] for n in names for k in range(n.count(".") + 1)}
  section, _, last = dotted.rpartition(".")
  own = [n for n in names if section and n.startswith(f"{section}.")]
  tails = {n.rpartition(".")[2]: n for n in (*names, *own)}
  close = [n for n in names if n.rpartition(".")[2] == last]
  if not own:  # with a section that exists, its name alone is no likeness
    close += difflib.get_close_matches(dotted, sorted(inner), n=3, cutoff=0.6)
  close += [tails[t] for t in difflib.get_close_matches(last, tails, n=2)]
  close = list(dict.fromkeys(close))[:3]
  where = ".".join(dotted.split(".")[: depth + 1])
  raise UserError(
    f"the config has no field {where!r}{nearest(close)}",
    "a misspelt field would leave the default in force without a word",
    f"use {close[0]!r}"
    if close
    else f"use one of: {', '.join(sorted(own or names))}",
  )


def _convert(name: str, default: Any, value: Any, kind: type) -> Any:
  """`value` with the type of `default`; text is parsed."""
  if kind is type(None):
    return _literal(value)
  if default is None and value in (None, "None"):
    return None
  if kind is str and isinstance(value, str):
    return value
  text = isinstance(value, str)
  if kind is bool:
    value = _WORDS.get(value.strip().lower(), value) if text else value
    good = isinstance(value, bool)
  elif isinstance(default, ml_collections.ConfigDict):
    good = isinstance(value, Mapping | ml_collections.ConfigDict)
    if good:
      section = ml_collections.ConfigDict(default.to_dict())
      assign(section, dict(value.items()))
      return section
  else:
    value = _literal(value) if text else value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number:
      return float(value)
    if kind is int and number and float(value) == int(value):
      return int(value)
    if kind in (tuple, list) and isinstance(value, tuple | list):
      return kind(value)
    good = isinstance(value, kind) and not isinstance(value, bool)
  if not good:
    example = repr(default)
    if isinstance(default, ml_collections.ConfigDict):
      example, fields = "a section", ", ".join(sorted(default.keys()))
      fix = f"name one of its fields: {name}.{{{fields}}}"
    elif default is None:
      fix = f"give it as {kind.__name__}, or None"
    else:
      fix = f"give it as {kind.__name__}, e.g. {name}={default}"
    raise UserError(
      f"{name}={value!r} is not of type {kind.__name__}",
      f"the default is {example}, and the code relies on its type",
      fix,
    )
  return value


def _literal(value: Any) -> Any:
  """The python value of a text; the text itself when it is none."""
  if not isinstance(value, str):
    return value
  for text in (value, f"({value},)" if "," in value else value):
    with contextlib.suppress(ValueError, SyntaxError):
      return ast.literal_eval(text)
  return {"true": True, "false": False}.get(value.lower(), value)


def _plain(node: Any) -> Any:
  if isinstance(node, ml_collections.ConfigDict):
    node = node.to_dict()
  if isinstance(node, Mapping):
    return {str(k): _plain(v) for k, v in node.items()}
  if isinstance(node, tuple | list):
    return [_plain(v) for v in node]
  return node


def _comments(source: str) -> dict[str, str]:
  """{dotted field: trailing comment} of a config file or a task module.

  Read are `c.field = value`, the keys of a dict in such a value or in
  `c.section.update(...)`, and those of a dict that a function returns: its
  name is the section, and `defaults` of a task module describes `task`.
  """
  notes = {
    token.start[0]: token.string.lstrip("# ")
    for token in tokenize.generate_tokens(io.StringIO(source).readline)
    if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip()
  }
  lines: dict[str, int] = {}

  def keys(section: str, node: ast.AST) -> None:
    for part in ast.walk(node):
      if isinstance(part, ast.Dict):
        for key in part.keys:
          if isinstance(key, ast.Constant):
            lines[f"{section}.{key.value}".lstrip(".")] = key.lineno

  for function in ast.walk(ast.parse(source)):
    if not isinstance(function, ast.FunctionDef):
      continue
    for node in ast.walk(function):
      if isinstance(node, ast.Assign):
        name = ast.unparse(node.targets[0]).partition(".")[2]
        if name:
          lines[name] = node.lineno
          keys(name, node.value)
      elif isinstance(node, ast.Return) and node.value:
        name = function.name
        section = {"get_config": "", "defaults": "task"}.get(name, name)
        keys(section, node.value)
      elif isinstance(node, ast.Call):
        name = ast.unparse(node.func).partition(".")[2]
        if name.endswith(".update"):
          section = name.removesuffix(".update")
          for word in node.keywords:
            lines[f"{section}.{word.arg}"] = word.value.lineno
  return {name: notes[line] for name, line in lines.items() if line in notes}
