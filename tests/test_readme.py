"""The snippets of the README run as written and stay short."""

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
    assert (paths.REPO / target).exists(), target
