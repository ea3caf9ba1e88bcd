"""TRL's DPO and Bradley-Terry steps on the pairs and weights of ours.

usage: PYTHON benchmarks/peer_trl.py {S|M} {dpo|reward_model} FOLDER

PYTHON has trl; FOLDER holds the weights, see offline.py. The trainers run their
own loop in float32 without clipping or checkpointing; a step is what lies
between two ends of a step.
"""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile
import time
from typing import Any

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent.parent)]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from benchmarks import offline, workload

NOTES = {
  "dpo": "DPOTrainer with a live reference; both answers in full with their"
  " prompt",
  "reward_model": "RewardTrainer, Bradley-Terry without centring; both answers"
  " in full with their prompt",
}
SPECIAL = {0: "<pad>", 1: "<start>", 2: "<end>", 3: "<unknown>"}
COPIES = 64  # of the pairs, so that no epoch ends inside a measurement


def word(token: int) -> str:
  """An id as text; a special one begins no other, as those match first."""
  return SPECIAL.get(token, f"t{token}")


def tokenizer(vocab: int):
  """A word for each id."""
  import tokenizers
  import transformers

  words = {word(i): i for i in range(vocab)}
  found = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(words, unk_token=word(3))
  )
  found.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=found,
    pad_token=word(0),
    bos_token=word(1),
    eos_token=word(offline.END),
    unk_token=word(3),
  )


def rows(size: workload.Size, mode: str) -> dict[str, list]:
  """Columns of the dataset: text for DPO, ids for the reward model."""
  found = offline.pairs(size)
  sides = ("chosen", "rejected")
  if mode == "reward_model":
    pair = zip(*(found[s] for s in sides), strict=True)
    whole = [
      [[*prompt, *answer] for answer in answers]
      for prompt, answers in zip(found["prompt"], pair, strict=True)
    ]
    out = {f"{s}_ids": [w[i] for w in whole] for i, s in enumerate(sides)}
  else:
    say = lambda ids: " ".join(map(word, ids.tolist()))
    out = {name: [say(row) for row in ids] for name, ids in found.items()}
    out["prompt"] = [text + " " for text in out["prompt"]]
  return {name: values * COPIES for name, values in out.items()}


def main(size: workload.Size, mode: str, folder: pathlib.Path) -> None:
  """Times the step and prints the report."""
  import datasets
  import torch
  import transformers
  import trl

  transformers.utils.logging.disable_progress_bar()
  datasets.disable_progress_bars()
  report = workload.Report("trl", size, mode, {mode: NOTES[mode]})
  report.data["threads"] = torch.get_num_threads()
  clock, begun = workload.Clock(), [0.0]
  losses = []

  class Watch(transformers.TrainerCallback):
    """The first step warms up."""

    def on_train_begin(self, *args, **kwargs):
      clock.start()

    def on_log(self, args, state, control, logs=None, **kwargs):
      if logs and "loss" in logs:
        losses.append(float(logs["loss"]))

    def on_step_end(self, args, state, control, **kwargs):
      clock.tick()
      if len(clock.rows) == 1:
        begun[0] = time.perf_counter()
      spent = time.perf_counter() - begun[0]
      if workload.enough(clock.rows[1:], size.reps, spent, workload.limit()):
        control.should_training_stop = True

  with tempfile.TemporaryDirectory() as scratch:
    shared: dict[str, Any] = dict(
      output_dir=scratch,
      report_to="none",
      logging_steps=1,
      save_strategy="no",
      use_cpu=True,
      learning_rate=offline.RATE,
      lr_scheduler_type="constant",
      max_grad_norm=0.0,
      bf16=False,
      gradient_checkpointing=False,
      disable_tqdm=True,
      train_sampling_strategy="sequential",
      per_device_train_batch_size=size.pairs,
      max_steps=COPIES,
      max_length=None,
      pad_to_multiple_of=None,
    )
    common: dict[str, Any] = dict(
      train_dataset=datasets.Dataset.from_dict(rows(size, mode)),
      processing_class=tokenizer(size.vocab),
      callbacks=[Watch()],
    )
    load = lambda kind, name: kind.from_pretrained(
      folder / name, dtype=torch.float32
    )
    if mode == "dpo":
      causal = transformers.LlamaForCausalLM
      model = load(causal, "policy")
      assert sum(p.numel() for p in model.parameters()) == size.params
      trainer = trl.DPOTrainer(
        model=model,
        ref_model=load(causal, "reference"),
        args=trl.DPOConfig(**shared, beta=offline.BETA),
        **common,
      )
    else:
      scored = transformers.LlamaForSequenceClassification
      trainer = trl.RewardTrainer(
        model=load(scored, "reward"), args=trl.RewardConfig(**shared), **common
      )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
  stats = workload.summarise(clock.rows[1:])
  report.add(mode, stats, size.pair_tokens)
  report.put("losses", losses[: offline.LOSSES])
  report.finish()


if __name__ == "__main__":
  main(workload.SIZES[sys.argv[1]], sys.argv[2], pathlib.Path(sys.argv[3]))
