"""The page of tasks is current, and its examples are those of the tasks."""

import pathlib
import sys

import paths
import pytest

from rlreward import registry
from rlreward.tasks import catalogue, chinook, grid

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import worlds

PAGE = (paths.REPO / "docs" / "tasks.md").read_text(encoding="utf-8")
FIX = "run: python -m rlreward.tasks.catalogue docs/tasks.md"


def test_every_task_is_listed():
  assert catalogue.listing() in PAGE, FIX
  for name in registry.tasks():
    assert f"| {name} | " in PAGE


@pytest.mark.parametrize("name", catalogue.LEVELED)
def test_a_section_is_current(name, monkeypatch):
  if name == "chinook":
    monkeypatch.setenv(
      "RLREWARD_DATA", str(paths.shared_data(chinook.FOLDER).parent)
    )
  assert catalogue.section(name) in PAGE, FIX


def test_the_page_has_nothing_else(monkeypatch):
  monkeypatch.setenv(
    "RLREWARD_DATA", str(paths.shared_data(chinook.FOLDER).parent)
  )
  assert catalogue.page() == PAGE, FIX


def test_an_example_is_the_first_problem():
  task = grid.make({"level": 2})
  ask, answer = worlds.asked(task, worlds.first(task, size=1))[0]
  assert f"`{ask} {answer}`" in catalogue.section("grid")


def test_every_task_with_levels_has_a_section():
  found = [n for n in registry.tasks()
           if "\ndef levels(" in catalogue._source(n)]  # fmt: skip
  assert sorted(found) == sorted(catalogue.LEVELED)


def test_the_command(capsys, tmp_path, monkeypatch):
  assert catalogue.main([]) == 2 and "usage" in capsys.readouterr().out
  monkeypatch.setattr(catalogue, "LEVELED", ("grid",))
  assert catalogue.main([str(tmp_path / "page.md")]) == 0
  text = (tmp_path / "page.md").read_text(encoding="utf-8")
  assert "### grid" in text and "### cipher" not in text
