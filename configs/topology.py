"""Pairs from one tree teach finer differences than as many independent pairs.

Answers of 4 segments, of 32 types each, whose worth is hidden; 200 prompts and
4 pairs each, labelled by an annotator who errs more where more segments differ
(`*_even`: the same error everywhere). A tiny reward model is trained on pairs
of leaves of one binary tree per prompt (`tree`) or of independent answers
(`chain`). The claim, averaged over 8 seeds: on answers that differ in the last
segment alone the tree is more accurate by 0.02, on independent answers it is
not worse by 0.03. Beside it, the mean gold of the best of 4 to 32 answers that
share beginnings. `partial` cuts both answers of a pair after some segment where
they differ, which the paper found worse than whole answers.
In the record both halves hold by less than a standard error over seeds, in one
world of hidden rewards (`task.world`): the direction is measured, the margin
is not safe. With even noise the lead on fine pairs is gone. That the tree gains
more from 4 to 32 answers could not be told from chance and is not claimed.
The broken variant is one whose pairs come from no tree
(`task.pairs=chain` for both) or whose labels are coins (`task.shuffled=1`).
Paper: Reward Generalization in RLHF: A Topological Perspective, arXiv
2402.10184.

Run:  rlreward train --config=configs/topology.py:mini
      python -m rlreward.claims configs/topology.py:mini --seeds=0,1,2,3,4,5,6,7
About 15 seconds for an arm on 2 CPU cores.
At scale: configs/topology.py:pod (Alpaca-7B on pairs of HH-RLHF prompts).
"""

from typing import Any

from configs import common
from rlreward.types import Arm

PRESETS = ("mini", "pod")
_EVEN = {"task.load": 0.0, "task.noise": 1.0}
ARMS = (
  Arm("tree", {}),
  Arm("chain", {"task.pairs": "chain"}),
  Arm("tree_even", _EVEN),
  Arm("chain_even", {**_EVEN, "task.pairs": "chain"}),
  Arm("partial", {"task.text": "partial"}),
)


def claim(r):
  """The tree leads by 0.02 on fine pairs, and loses no 0.03 on others."""
  fine, other = "last/held/accuracy/fine", "last/held/accuracy/independent"
  sharper = r["tree"][fine] > r["chain"][fine] + 0.02
  return bool(sharper and r["tree"][other] > r["chain"][other] - 0.03)


def pod(c):
  """Alpaca-7B, a Llama-2-7B, on 20,000 pairs of leaves for HH-RLHF prompts.

  The pairs are a local JSONL with `prompt`, `chosen` and `rejected`, whole
  answers both: trees of depth 3 and 2 branches sampled by the policy.
  """
  c.steps = 312  # 2 epochs of 20,000 pairs
  c.prompts_per_step = 128
  c.microbatch = 32
  c.optimizer.update(
    learning_rate=2e-5, schedule="cosine", warmup_steps=10, weight_decay=0.1
  )
  c.model.update(
    path="PKU-Alignment/alpaca-7b-reproduced",
    vocab=32001,
    width=4096,
    layers=32,
    heads=32,
    kv_heads=32,
    head_dim=128,
    mlp=11008,
    outputs=1,
    dtype="bfloat16",
    remat="full",
  )
  c.task = c.task.__class__(
    {
      "name": "text",
      "train": "data/hh_rlhf_tree_pairs.jsonl",
      "holdout": 0.05,
      "prompt_length": 512,
      "answer_length": 512,
    }
  )
  c.eval.update(every=50, prompts=512)
  c.mesh.update(fsdp=8)
  return c


def get_config(arg="mini"):
  """`mini` trains on 2 CPU cores, `pod` names the real model and data."""
  c: Any = common.base()
  c.algorithm = "topology"
  c.samples_per_prompt = 1
  if arg == "pod":
    return pod(c)
  c.steps = 60
  c.prompts_per_step = 100  # pairs; 8 steps are an epoch
  c.optimizer.update(
    learning_rate=1e-2, schedule="cosine", warmup_steps=5, weight_decay=3.0
  )
  c.model.update(
    vocab=130,
    width=16,
    layers=1,
    heads=4,
    kv_heads=4,
    head_dim=16,
    mlp=16,
    outputs=1,
  )
  c.task.update(
    name="segments",
    prompts=200,
    pairs_per_prompt=4,
    pairs="tree",
    text="full",
    load=0.5,
    noise=0.0,
    shuffled=0.0,
    world=0,
  )
  c.eval.update(every=20, prompts=8192)
  c.log.every = 20
  c.checkpoint.every = 1000
  return c
