"""Packaging. Each bound says why it is there; see also `rlreward doctor`."""

import pathlib
import re
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).resolve().parent

BASE = [
  # 0.10: make_mesh with axis_types, named shardings and typed keys as used
  # here. <0.11: flax 0.12's NNX subclasses a class that jax 0.11.1 removed,
  # and 0.11 has no wheels for Python 3.11.
  "jax>=0.10,<0.11",
  # Linen as tested with jax 0.10; one minor, as it reaches into jax.
  "flax==0.12.*",
  "optax>=0.2.8",  # the first tested with jax 0.10
  # 0.12.8 marks whole checkpoints with commit_success.txt on disks as well.
  "orbax-checkpoint>=0.12.8",
  "grain>=0.2.18",  # iterator state is JSON; the first tested
  "chex>=0.1.92",  # shape checks in ops; the first tested with jax 0.10
  "ml-collections>=1.1",  # frozen configs with get_type and ignore_type
  "absl-py>=2.1",
  "etils[epath]>=1.10",  # bucket paths of checkpoints
  "numpy>=2.0",  # the bool and integer promotion that the code relies on
  # Tokenizers, chat templates and configs only. 5.5: apply_chat_template
  # returns a mapping; before it, a list.
  "transformers>=5.5",
  "safetensors>=0.7",  # bfloat16 through numpy
  # Loaded lazily; array_record sources read without TensorFlow.
  "tensorflow-datasets>=4.9.10",
  "importlib-resources>=6",  # tensorflow-datasets uses it without saying so
  "tensorboardX>=2.6.5",  # events without TensorFlow
  "tqdm>=4.66",
  "rich>=13.7",
  "jinja2>=3.1",  # the sandbox that renders chat templates
  "matplotlib>=3.9",  # numpy 2
  "packaging>=24",  # doctor compares versions
]

EXTRAS = {
  # Backends are extras: a laptop must not download them.
  "tpu": ["jax[tpu]>=0.10,<0.11"],
  "cuda13": ["jax[cuda13]>=0.10,<0.11"],
  # Rewards. math-verify: 0.9 with sympy and its own antlr pin.
  "math": ["math-verify[antlr4_13_2]>=0.9", "sympy>=1.13"],
  "sql": ["sqlglot>=27"],  # component match of queries; pure python
  "text": ["sacrebleu>=2.5"],  # works offline
  # LoRA itself needs nothing; qwix quantises the frozen base (NF4).
  "lora": ["qwix>=0.1.8"],
  "kernels": ["tokamax>=0.0.12"],  # its interface is not stable: optional
  "wandb": ["wandb>=0.20"],
  "envs": ["gymnax>=1.0"],  # brings gymnasium and plotting: optional
  "slurm": ["submitit>=1.5"],
  # Parity oracle on the CPU. Exact: a range takes a build of several GB.
  "torch": ["torch==2.13.0"],
  # Functions of other libraries that the tests compare with; after `torch`.
  "oracles": ["torch==2.13.0", "trl==1.16.*", "rlax>=0.1.6"],
  "docs": ["jupytext>=1.16", "nbclient>=0.10", "ipykernel>=6.29"],
}
EXTRAS["test"] = [
  "pytest>=9",  # strict markers and the settings in pyproject.toml
  "pytest-xdist>=3.6",
  "hypothesis>=6.100",
  "ruff==0.17.*",  # one formatter version, or lint depends on the day
  "basedpyright==1.40.*",  # the same; brings its own node
  *EXTRAS["math"],
  *EXTRAS["sql"],
  *EXTRAS["text"],
]


class BuildWithConfigs(build_py):
  """Ships `configs/` inside the package, so that wheels can train."""

  def run(self) -> None:
    super().run()
    if self.editable_mode:
      return
    target = pathlib.Path(self.build_lib) / "rlreward" / "configs"
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "configs").glob("*.py")):
      shutil.copy2(path, target / path.name)


def version() -> str:
  text = (ROOT / "rlreward" / "__init__.py").read_text()
  found = re.search(r'__version__ = "([^"]+)"', text)
  assert found
  return found.group(1)


def readme() -> str:
  path = ROOT / "README.md"
  return path.read_text() if path.is_file() else ""


setup(
  name="rlreward",
  version=version(),
  description=(
    "Reward modelling, RLHF and RL with verifiable rewards in JAX and Flax"
  ),
  long_description=readme(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11,<3.14",  # what is tested
  packages=find_packages(include=["rlreward", "rlreward.*"]),
  package_data={
    "rlreward": ["py.typed", "**/*.json", "**/*.jsonl", "**/*.html"]
  },
  install_requires=BASE,
  extras_require=EXTRAS,
  entry_points={"console_scripts": ["rlreward=rlreward.cli:main"]},
  cmdclass={"build_py": BuildWithConfigs},
  classifiers=[
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
