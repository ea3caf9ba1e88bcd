"""The doctor's report, its fixes and its table of extras."""

import ast
import json
import pathlib

from rlreward import doctor

SETUP = pathlib.Path(__file__).resolve().parent.parent / "setup.py"


def test_report_is_json_and_good_here():
  found = doctor.report()
  assert json.loads(json.dumps(found)) == found
  assert found["backend"] and found["devices"] and found["error"] is None
  assert found["ok"] == (not found["fixes"])
  assert doctor.text(found).splitlines()[-1] == (
    "all good" if found["ok"] else f"  {len(found['fixes'])}. "
    + found["fixes"][-1]
  )  # fmt: skip
  assert doctor.exit_code(found) == (0 if found["ok"] else 1)


def test_each_fault_has_a_numbered_fix(monkeypatch, tmp_path):
  file = tmp_path / "file"
  file.write_text("")
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(file / "cache"))
  monkeypatch.setattr(doctor, "PYTHONS", ((3, 8), (3, 9)))
  monkeypatch.setattr(doctor, "_ram", lambda: 1.0)
  monkeypatch.setattr(
    doctor, "_conflicts", lambda: ["flax is 0.11.0, wanted ==0.12.*"]
  )
  monkeypatch.setattr(
    doctor,
    "_devices",
    lambda: {"backend": None, "devices": [], "error": "RuntimeError: none"},
  )
  found = doctor.report()
  assert doctor.exit_code(found) == 1
  text = doctor.text(found)
  for words in (
    "make an environment with Python 3.8 to 3.9",
    "flax is 0.11.0, wanted ==0.12.*: pip install --upgrade rlreward",
    "jax finds no device (RuntimeError: none): try JAX_PLATFORMS=cpu",
    "1.0 GiB of memory",
    "unset JAX_COMPILATION_CACHE_DIR",
  ):
    assert words in text
  assert "to fix:" in text and f"  {len(found['fixes'])}. " in text


def test_missing_extras_name_their_command(monkeypatch):
  monkeypatch.setattr(doctor, "_present", lambda module: False)
  text = doctor.text(doctor.report())
  assert "pip install 'rlreward[math]'" in text


def test_the_table_has_every_extra_of_setup():
  keys = set()
  for node in ast.walk(ast.parse(SETUP.read_text())):
    if not isinstance(node, ast.Assign):
      continue
    target = node.targets[0]
    if isinstance(target, ast.Name) and target.id == "EXTRAS":
      assert isinstance(node.value, ast.Dict)
      keys |= {k.value for k in node.value.keys if isinstance(k, ast.Constant)}
    elif isinstance(target, ast.Subscript):
      assert isinstance(target.slice, ast.Constant)
      keys.add(target.slice.value)
  assert keys == set(doctor.EXTRAS)
