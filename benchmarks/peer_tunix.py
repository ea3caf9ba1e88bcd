"""Tunix's DPO step on the pairs and weights of ours.

usage: PYTHON benchmarks/peer_tunix.py {S|M} dpo FOLDER

PYTHON has google-tunix; FOLDER holds the weights, see offline.py.
"""

from __future__ import annotations

import functools
import os
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent.parent)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from benchmarks import offline, workload

NOTES = {
  "dpo": "DPOTrainer's jitted train step on _prepare_inputs(batch), which runs"
  " the reference; its own Llama3; both answers in full with their prompt",
}


def main(size: workload.Size, mode: str, folder: pathlib.Path) -> None:
  """Times the step and prints the report."""
  assert mode == "dpo", "Tunix trains no reward model"
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax
  from flax import nnx
  from tunix.models.llama3 import model as llama
  from tunix.models.llama3 import params
  from tunix.sft.dpo import dpo_trainer

  report = workload.Report("tunix", size, mode, NOTES)
  shape = llama.ModelConfig(
    num_layers=size.layers,
    vocab_size=size.vocab,
    embed_dim=size.width,
    hidden_dim=size.mlp,
    num_heads=size.heads,
    head_dim=size.head_dim,
    num_kv_heads=size.heads,
    rope_theta=int(offline.THETA),
    norm_eps=1e-5,
    weight_tying=False,
  )
  mesh = jax.sharding.Mesh(
    np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp")
  )
  load = functools.partial(
    params.create_model_from_safe_tensors,
    config=shape,
    mesh=mesh,
    dtype=jnp.float32,
  )
  with mesh:
    policy = load(str(folder / "policy"))
    leaves = jax.tree.leaves(nnx.state(policy, nnx.Param))
    assert sum(x.size for x in leaves) == size.params
    assert all(x.dtype == jnp.float32 for x in leaves)
    trainer = dpo_trainer.DPOTrainer(
      policy,
      load(str(folder / "reference")),
      optax.adam(offline.RATE),
      dpo_trainer.DPOTrainingConfig(
        eval_every_n_steps=10_000, max_steps=1000, beta=offline.BETA
      ),
    )
    given = {}
    for name, ids in offline.pairs(size).items():
      given |= {f"{name}_ids": ids, f"{name}_mask": np.ones_like(ids)}
    batch = dpo_trainer.TrainingInput(**given)
    train, _ = trainer.jit_train_and_eval_step(False, True)
    losses = []

    def step():
      loss, *_ = train(trainer._prepare_inputs(batch))
      jax.block_until_ready(nnx.state(trainer.model))
      losses.append(float(loss))

    report.add("dpo", workload.measure(step, size.reps), size.pair_tokens)
  report.put("losses", losses[: offline.LOSSES])
  report.finish()


if __name__ == "__main__":
  main(workload.SIZES[sys.argv[1]], sys.argv[2], pathlib.Path(sys.argv[3]))
