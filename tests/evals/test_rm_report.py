"""rlreward eval-rm: table, JSON, and what a bad line says."""

import gzip
import json

import pytest

from rlreward import cli, errors, rm_report

GOOD = [
  {"scores": [1.0, 0.5, 0, -1], "num_correct": 1, "subset": "Math", "id": "1"},
  {"scores": [0, 1, 0, 0], "num_correct": 1, "subset": "Math", "text": "x"},
  {"scores": [1, 1, 0, 0], "num_correct": 1, "group": "Focus", "weight": 2},
  {"scores": [None, 1, 0, 0], "num_correct": 1, "subset": "Focus"},
]


def lines(path, rows):
  text = [r if isinstance(r, str) else json.dumps(r) for r in rows]
  path.write_text("\n".join(text) + "\n")
  return path


def run(capsys, *argv):
  code = cli.main(["eval-rm", *map(str, argv)])
  return code, capsys.readouterr()


def test_table_and_json(tmp_path, capsys):
  path = lines(tmp_path / "s.jsonl", [GOOD[0], "", *GOOD[1:]])
  out = tmp_path / "made" / "r.json"
  code, said = run(
    capsys, f"--scores={path}", "--spec=rewardbench2", f"--out={out}"
  )
  assert code == 0
  row = {r.split()[0]: r.split() for r in said.out.splitlines() if r}
  assert row["Math"][:3] == ["Math", "2", "0.5000"]
  assert row["Math"][-2:] == ["0", "0"]
  assert row["Focus"][:3] == ["Focus", "2", "0.5000"]
  assert row["Focus"][-2:] == ["1", "1"]  # a tie and an abstention
  assert row["total"][1] == "0.5000"
  assert "not the whole benchmark: no Factuality" in said.out
  assert "the winners share the credit" in said.out
  found = json.loads(out.read_text())
  assert found["total"]["value"] == 0.5 and found["abstained"] == 1
  assert found["subsets"]["Math"]["interval"] == "wilson"
  assert found["subsets"]["Focus"]["interval"] == "bootstrap"
  assert found["subsets"]["Focus"]["floor"] == pytest.approx(1 / 3)
  assert [p.name for p in out.parent.iterdir()] == ["r.json"]


def test_a_result_is_never_overwritten(tmp_path, capsys):
  path = lines(tmp_path / "s.jsonl", GOOD)
  out = tmp_path / "r.json"
  out.write_text("mine")
  code, said = run(capsys, f"--scores={path}", f"--out={out}")
  assert code == 2 and "exists" in said.err
  with pytest.raises(errors.UserError, match="exists"):
    rm_report.write(out, {})
  assert out.read_text() == "mine"
  assert not list(tmp_path.glob("*.partial"))


def test_languages_and_styles_arrive(tmp_path, capsys):
  rows = [
    {"scores": [1, 0], "subset": "math-prm", "id": i, "language": code}
    for i in range(3)
    for code in ("eng", "fra")
  ]
  rows[1]["scores"] = [0, 1]
  path = lines(tmp_path / "l.jsonl", rows)
  code, said = run(capsys, f"--scores={path}", "--spec=m-rewardbench")
  assert code == 0
  assert "language/fra" in said.out and "kappa" in said.out
  rows = [{"scores": [1, 0], "subset": "chat", "style": s}
          for s in ("hard", "normal", "easy")]  # fmt: skip
  path = lines(tmp_path / "s.jsonl", rows)
  code, said = run(capsys, f"--scores={path}", "--spec=rmbench")
  assert code == 0 and "hard" in said.out


@pytest.mark.parametrize(
  ("row", "match"),
  [
    ("{", "line 2 of .* is not JSON: .*column"),
    ("[1, 2]", "is a list, not an object"),
    ({"score": [1, 0], "subset": "a"}, "no field 'scores'; it has 'score'"),
    ({"scores": 3, "subset": "a"}, "has 'scores' 3"),
    ({"scores": [1], "subset": "a"}, r"has 'scores' \[1\]"),
    ({"scores": [1, "x"], "subset": "a"}, r"'scores'\[1\] 'x'"),
    ({"scores": [1, True], "subset": "a"}, r"'scores'\[1\] True"),
    ({"scores": [1, 0]}, "no field 'subset'"),
    ({"scores": [1, 0], "subset": None}, "has 'subset' None"),
    ({"scores": [1, 0, 0], "subset": "a"}, "no field 'num_correct'"),
    (
      {"scores": [1, 0], "num_corect": 1, "subset": "a"},
      "no field 'num_correct'; it has 'num_corect'",
    ),
    (
      {"scores": [1, 0], "num_correct": 2, "subset": "a"},
      "'num_correct' 2 and 2 scores",
    ),
    (
      {"scores": [1, 0], "num_correct": True, "subset": "a"},
      "'num_correct' True",
    ),
    ({"scores": [1, 0], "subset": "a", "weight": -1}, "'weight' -1"),
    ({"scores": [1, 0], "subset": "a", "weight": None}, "'weight' None"),
    ({"scores": [1, 0], "subset": "a", "id": [1]}, r"'id' \[1\]"),
  ],
)
def test_a_bad_line_is_named_with_its_field(tmp_path, capsys, row, match):
  path = lines(tmp_path / "s.jsonl", [{"scores": [1, 0], "subset": "a"}, row])
  with pytest.raises(errors.UserError, match=match) as caught:
    rm_report.read(path)
  assert caught.value.what.startswith("line 2 of")
  code, said = run(capsys, f"--scores={path}")
  assert code == 2 and len(said.err.strip().splitlines()) == 3


def test_other_bad_input(tmp_path, capsys):
  code, said = run(capsys, f"--scores={tmp_path / 'none'}")
  assert code == 2 and "there is no file" in said.err
  empty = lines(tmp_path / "e.jsonl", [])
  assert "has no lines" in run(capsys, f"--scores={empty}")[1].err
  binary = tmp_path / "b.jsonl"
  binary.write_bytes(b"\xff\xfe")
  assert "is not text" in run(capsys, f"--scores={binary}")[1].err
  path = lines(tmp_path / "s.jsonl", GOOD)
  packed = tmp_path / "s.jsonl.gz"
  packed.write_bytes(gzip.compress(path.read_bytes()))
  assert run(capsys, f"--scores={packed}")[0] == 0
  code, said = run(capsys, f"--scores={path}", "--spec=rewardbench")
  assert code == 2 and "has no subset 'Math'" in said.err
  code, said = run(capsys, f"--scores={path}", "--spec=rewardbench9")
  assert code == 2 and "no spec 'rewardbench9'" in said.err
