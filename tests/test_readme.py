"""The README's snippets run as written; its numbers and the pages are true."""

import json
import re

import paths
import pytest

TEXT = (paths.REPO / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_there_are_three_of_at_most_twelve_lines():
  assert len(SNIPPETS) == 3
  assert all(len(s.strip().splitlines()) <= 12 for s in SNIPPETS)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_snippet_runs(index, tmp_path, monkeypatch, capsys):
  code = SNIPPETS[index]
  if "dreams_hf" in code:
    from rlreward.models import llama2c

    source = paths.shared_data("tiny_llama_dreams")
    target = tmp_path / "runs" / "dreams_hf"
    llama2c.convert(
      source / "aidreams260K.bin.gz", source / "tok512.bin", target
    )
  monkeypatch.chdir(tmp_path)
  (tmp_path / "configs").symlink_to(paths.REPO / "configs")
  exec(compile(code, f"README snippet {index}", "exec"), {})
  assert capsys.readouterr().out.strip()


def test_links_lead_somewhere():
  for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
    if target.startswith("https://"):
      assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", target)
    else:
      assert (paths.REPO / target).exists(), target


def test_numbers_are_those_of_a_recorded_run():
  result = json.loads((paths.REPO / "results/quickstart.json").read_text())
  (first,) = [r for r in result["arms"]["grpo"]["runs"] if r["seed"] == 0]
  for step in (0, 200):
    want = first["evals"][str(step)]["correct"]
    assert f"held out, step {step}: correct {want:.3f}" in TEXT
  assert result["holds"]


def test_each_warning_has_its_paragraph():
  code = "".join(f.read_text() for f in (paths.REPO / "rlreward").rglob("*.py"))
  page = (paths.REPO / "docs/warnings.md").read_text()
  used = set(re.findall(r"RLR-W\d{3}", code))
  assert used == set(re.findall(r"^\*\*(RLR-W\d{3}):", page, re.M))


def test_each_rule_of_the_contract_has_its_test():
  page = (paths.REPO / "docs/numerics.md").read_text()
  intro, _, table = page.partition("| rule |")
  tests = (paths.REPO / "tests/test_numerics_contract.py").read_text()
  tested = set(re.findall(r"^def test_(p\d+)_", tests, re.M))
  tested |= {n.lower() for n in re.findall(r"\bP\d+", intro)}
  assert {n.lower() for n in re.findall(r"^\| (P\d+) ", table, re.M)} == tested
  for file in re.findall(r"`(tests/[\w/]+\.py)`", intro):
    assert (paths.REPO / file).is_file(), file
  for place in re.findall(r"`(\w+/(?:\w+\.py)?)` \|$", table, re.M):
    assert (paths.REPO / "rlreward" / place).exists(), place
