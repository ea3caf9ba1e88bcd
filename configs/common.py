"""Fields shared by every config, with what each means; presets of models."""

from typing import Any

import ml_collections
from ml_collections import config_dict


def base() -> Any:
  """Every field of a run at its default. Configs change what they need.

  Returns:
    ml_collections.ConfigDict, whose fields have no types to check.
  """
  c = ml_collections.ConfigDict()
  c.algorithm = "grpo"  # a file of rlreward/algorithms or rlreward/methods
  c.seed = 0
  c.steps = 100  # outer steps; one step = one rollout and its updates

  # The batch arithmetic is three numbers; everything else follows from them.
  c.prompts_per_step = 32  # B
  c.samples_per_prompt = 8  # G
  c.microbatch = 0  # rows of one forward pass over all devices; 0 = all

  c.updates_per_step = 1  # optimiser updates each rollout is cut into
  c.epochs = 1  # passes over a rollout
  c.truncation = "keep"  # rows cut at the limit: keep | mask | penalise
  c.overlong_buffer = 0  # tokens of the slope below the limit (penalise)
  c.filter_on = ""  # score component that dynamic sampling looks at
  c.refill_rounds = 0  # extra rollouts to replace groups that do not vary
  c.reference = "auto"  # auto: runs if the loss needs it | always: KL logged
  # | data: its log-probs are a column of the pairs

  c.model = model()
  c.sampling = ml_collections.ConfigDict(
    {
      "max_new_tokens": 16,  # T
      "temperature": 1.0,
      "top_k": 0,  # training refuses truncated distributions
      "top_p": 1.0,
      "min_p": 0.0,
      "min_new_tokens": 0,
      "cache_dtype": "float32",
    }
  )
  c.loss = ml_collections.ConfigDict(
    {
      "clip_low": config_dict.placeholder(float),  # None: the paper's value
      "clip_high": config_dict.placeholder(float),
      "dual_clip": config_dict.placeholder(float),  # bound for A < 0; None off
      "kl_beta": 0.0,  # coefficient of the KL to the reference, per token
      "kl": "forward",  # gradient of: forward (k3, GRPO's) | reverse
      "entropy": 0.0,  # coefficient of the entropy bonus
      "kl_stop": 0.0,  # KL(old||new) of an update that ends a step; 0 = never
    }
  )
  c.kl_reward = ml_collections.ConfigDict(
    {
      "beta": 0.0,  # KL to the reference in the reward, per token; or here,
      "target": 0.0,  # or beta steered to this KL of a response, nats; 0 = not
      "horizon": 10_000.0,  # episodes in which beta follows
      "budget": 0.0,  # nats of a response: beta is that of the optimum which
      # spends them, solved for in every step; 0 = not
    }
  )
  c.credit = ml_collections.ConfigDict(
    {
      "gamma": 1.0,  # discount of one action
      "lam": 0.95,  # of GAE
      "whiten_reward": False,  # per-token rewards over their spread (ppo)
      "whiten": True,  # advantages to mean 0, variance 1 (ppo)
      "target": "gae",  # what a critic predicts: gae | return
      "baseline": "",  # of the family; "" is the paper's
      "decay": 0.95,  # of the running mean (reinforce)
    }
  )
  c.critic = ml_collections.ConfigDict(
    {
      "shared": False,  # a head on the policy's trunk instead of its own model
      "start": "policy",  # its weights at first: policy | reward (of `learned`)
      "rate": config_dict.placeholder(float),  # None: the policy's
      "coefficient": 0.1,  # of the value loss
      "clip": 0.2,  # how far a value may move for free; 0 = no clip
      "warmup": 0,  # steps in which the critic alone trains
    }
  )
  c.off_policy = ml_collections.ConfigDict(
    {
      "level": "token",  # weights of stale rows: token | sequence | geometric
      "bound": "truncate",  # outside [low, high]: truncate | mask
      "low": 0.0,
      "high": 0.0,  # 2 to 5 are usual; 0 = no weights
    }
  )
  c.preference = ml_collections.ConfigDict(
    {
      "beta": config_dict.placeholder(float),  # None: the paper's value
      "kind": "",  # shape of a pair's loss, see ops/preference.py; "" paper's
      "label_smoothing": 0.0,  # share of labels thought to be wrong
      "margin": config_dict.placeholder(float),  # of the target; None paper's
      "normalise": "",  # of a log-prob: sum | mean over tokens; "" the paper's
      "divergence": "reverse_kl",  # f-divergence to the reference
      "nll": config_dict.placeholder(float),  # weight of -log p(chosen)
      "strength": False,  # pairs weigh by their strength
      "desirable": 1.0,  # weights of kto
      "undesirable": 1.0,
      "explore": 1e-5,  # XPO's bonus
      "mixture": 0.125,  # reference's share in the opponent of Nash-MD
    }
  )
  c.rounds = ml_collections.ConfigDict(
    {
      "select": "",  # best | top | threshold | correct | draw; "" the paper's
      "fraction": 0.2,  # kept by top
      "at": 1.0,  # least reward kept by threshold, and of a correct answer
      "cap": 4,  # most answers kept of a prompt by correct and draw
      "temperature": 1.0,  # of draw, in units of the reward
      "kl": 0.0,  # ranks by reward - kl * log pi / ref (raft)
      "start": "",  # a round trains from: current | base; "" is the paper's
    }
  )
  c.distill = ml_collections.ConfigDict(
    {
      "kind": "reverse",  # forward KL(teacher||student) | reverse | js
      "mix": 0.5,  # teacher's share in the mixture of js
      "temperature": 1.0,  # of both distributions
      "on_policy": 1.0,  # share of steps on the student's own samples
    }
  )
  c.teacher = ml_collections.ConfigDict({"path": ""})  # a checkpoint directory
  c.reward_model = ml_collections.ConfigDict(
    {
      "kind": "bradley_terry",  # | rao_kupper | davidson | plackett_luce
      # | mse | huber | bce | ordinal | steps
      "grades": 5,  # of ordinal
      "margin": False,  # a pair's strength is the margin of its rewards
      "scale": 1.0,  # of the reward difference, or between grades
      "centering": 0.01,  # coefficient of (chosen + rejected)^2 of pairs
      "label_smoothing": 0.0,
      "ties": 0.0,  # log-odds of a tie at equal rewards (rao_kupper, davidson)
      "router": 1.0,  # weight of the categories' cross-entropy (moe)
      "critique": 1.0,  # weight of the critiques' log-likelihood (critique)
      "tie_weight": 1.0,  # of the squared lead of ties (critique)
      "expo": (),  # weights start + alpha (end - start) that are judged too, as
      # alphas (helpsteer2_pref)
    }
  )
  c.reward = ml_collections.ConfigDict(
    {
      "path": "",  # directory of a reward model (or ensemble) with its card:
      # its score is the reward of a text task, beside the rules it has
      "weight": 1.0,  # of its score
      "rules": 1.0,  # of the reward of task.rewards
      "rule": "sum",  # how the two are joined, see ops/aggregate.py: sum | min
      # | mean | product | geometric ..
      "shape": "",  # bounds the score first: sigmoid | tanh .. (ops/bounded.py)
      "gate": "",  # a component of task.rewards: where it is 0 or less, the
      "otherwise": 0.0,  # reward is this
      "batch": 16,  # texts of a program
      "max_length": 0,  # tokens, longer texts get no reward; 0 = the card's
    }
  )
  c.learned = ml_collections.ConfigDict(
    {
      "stage": 0,  # earlier stage, from 1, whose reward model judges; 0 = none
      "references": 0,  # demonstrations whose mean reward is made 0; 0 = as is
      "truncated": config_dict.placeholder(float),  # reward if cut; None: score
    }
  )
  c.steer = ml_collections.ConfigDict(
    {
      "samples": 10,  # answers of a group, by the policy of the start
      "attributes": (),  # components of the reward that are asked for, rated 0
      # to 4; () weighs answers by exp(reward / temperature)
      "levels": (),  # that are asked for, one of each attribute
      "concentration": 24.0,  # of the Beta law around a predicted rating
      "temperature": 1.0,  # of the reward
      "weights": "posterior",  # uniform imitates all answers alike
      "baseline": True,  # less the policy's own share of its group
      "goodness": (0.65, 0.8, 0.45, 0.0, 0.0),  # of a reward model's outputs
    }
  )
  c.ensemble = ml_collections.ConfigDict(
    {
      "pretrain": 5,  # pretraining seeds (ensembles)
      "finetune": 5,  # fine-tuning seeds of each
      "paths": (),  # checkpoints of the pretraining seeds beside model.path
      "share": 1.0,  # of the rows that a member trains on, its own ones
      "flip": 0.0,  # most labels that a member's annotators err in, as a share;
      # each member has one from 0 to this (rewardbench2)
      "chunk": 0,  # members computed at a time; 0 = all
      "rule": "mean",  # how their scores are joined: mean | median | min
      # | mean_minus_std | uwo
      "coef": 1.0,  # of the spread (mean_minus_std, uwo)
    }
  )
  c.remodetect = ml_collections.ConfigDict(
    {
      "weights": (),  # of the pairs of levels (0,1), (0,2) .. (1,2); () is 1
      "l2": 0.01,  # pull of the scores to 0
      "replay": 0.01,  # coefficient of the drift of replayed scores
      "replayed": 0,  # rows of each group that are replayed, the last ones
    }
  )
  c.shaping = ml_collections.ConfigDict(
    {
      "link": "lsc",  # lsc | sum | centred | preference (transform_combine)
      # | bounded | mean_std | minmax | clip | log_sigmoid (par)
      # | format_length | format_only | correctness (format_length)
      "names": (),  # components that are combined; () is the reward itself
      "weights": (),  # one for each name; () is 1 for each
      "reference": "quantile",  # what to beat: quantile | answer | fixed; one
      # for all names, or one for each as in "quantile,answer"
      "samples": 16,  # of the reference for each prompt, in every step
      "quantile": 0.85,  # share of them below
      "method": "empirical",  # of the quantile: empirical | gaussian
      "at": 0.0,  # of fixed
      "temperature": 1.0,  # unit of Bradley-Terry in units of the reward
      "shape": "sigmoid",  # of preference and bounded, see ops/bounded.py (par)
      "shift": 0.0,  # taken off before the shape; 3 starts slowly (par)
      "ceiling": config_dict.placeholder(float),  # of the raw reward (par)
      "long": 300,  # tokens beyond which an answer pays (par)
      "long_price": 0.0,  # for each of them, before any shape
      "peak": 0.5,  # share of the budget that pays most (format_length)
    }
  )
  c.process = ml_collections.ConfigDict(
    {
      "kind": "clip_delta",  # what becomes of scores of steps: none | raw
      # | clip | delta | clip_delta | progress | min | orm (ops/process.py)
      "alpha": 0.1,  # weight beside the reward of the answer
      "eta": 0.0,  # threshold of clip, the first score of progress; or it is
      "quantile": 0.0,  # this quantile of the first rollout's steps; 0 = not
      "judge": "",  # "file.py:f": what scores the steps of text, see
      "separator": "\n",  # rewards/process.py; and what ends a step
    }
  )
  c.noise = ml_collections.ConfigDict(
    {
      "reward": "",  # component that is the reward; "" is the task's reward
      "gate": "",  # component of the format: where it is 0 the reward is 0
      "flip": 0.0,  # chance that a reward is turned into 1 - r, in training
      "unit": "prompt",  # that a flip is drawn for: prompt | sample
      "answered": "",  # component: rows without an answer are never turned
      "aux": "",  # component that is added to rewards below tau; "" = none
      "tau": 0.5,
      "alpha": 0.1,  # its weight; 1 beside a verifier of 0 and 1
    }
  )
  c.format = ml_collections.ConfigDict(
    {
      "table": "correct",  # reward of right and formed: correct | strict | mix,
      # see rlreward/methods/simplerl_zoo.py
      "right": "",  # component of correctness; "" is the reward itself
      "formed": "",  # component of the format (strict, mix)
      "penalty": -1.0,  # of any answer that is not formed (mix)
    }
  )
  c.tina = ml_collections.ConfigDict(
    {
      "recipe": "",  # weights of rewards: a name of rlreward/methods/tina.py or
      # such as "format@1,accuracy@2"; "" is the task's own reward
      "accuracy": "math",  # the component that is 1 where an answer is right
      "format": "format",  # the component of the format
      "scale_rewards": True,  # over the spread of a group; False is Dr. GRPO's
      "target": 0,  # tokens that l1_exact and l1_max ask for
      "longest": 0,  # tokens at which the cosine ends; 0 = max_new_tokens
    }
  )
  c.calls = ml_collections.ConfigDict(
    {
      "match": "fine",  # fine | strict | intermediate | coarse | optimal
      "scale": "paper",  # of both: paper | equal | two_stage | linear
      "length": "",  # pays for words of the thought: "" off | fixed | moving
    }
  )
  c.sql = ml_collections.ConfigDict(
    {
      "execution": 3.0,  # weights of the parts of a query (reasoning_sql)
      "judge": 0.0,  # counts where execution gives 0; the paper's is 2
      "syntax": 1.0,
      "schema": 1.0,
      "ngram": 1.0,
      "format": 1.0,
      "ranks": "refuse",  # weights with which a wrong query can outrank a right
      # one: refuse | watch
    }
  )
  c.best_of_n = ml_collections.ConfigDict(
    {
      "n": 8,  # of best-of-n: the law that bond distils
      "anchors": 16,  # samples of the reference for each prompt (bond)
      "pick": "best",  # best | soft | majority | weighted (best_of_n)
      "temperature": 1.0,  # of the soft choice, in units of the reward
      "chunk": 0,  # samples of a prompt drawn at a time; 0 = all
    }
  )
  c.ahead = 0  # 1: the policy of one step ago samples while this one trains
  c.rollout_devices = 0  # devices for that alone, the last ones; 0 = all share
  c.optimizer = ml_collections.ConfigDict(
    {
      "learning_rate": 1e-6,
      "schedule": "constant",  # constant | linear | cosine
      "final_fraction": 0.1,  # rate at the end over the peak
      "warmup_steps": 0,  # updates
      "b1": 0.9,
      "b2": 0.999,
      "eps": 1e-8,
      "weight_decay": 0.0,
      "clip_norm": 1.0,  # global gradient norm; 0 = no clip
    }
  )
  c.task = ml_collections.ConfigDict({"name": "arithmetic"})
  c.mesh = ml_collections.ConfigDict(
    {
      "replica": 1,  # copies of everything
      "fsdp": -1,  # parameters and batch split; -1 = the devices left over
      "tensor": 1,  # heads, mlp and vocabulary split
    }
  )
  c.eval = ml_collections.ConfigDict(
    {
      "every": 50,  # steps; 0 = only at the ends
      "prompts": 256,
      "temperature": 1.0,
      "gold": "",  # file.py:function that judges here and is never trained
      # on; "" the task's own
    }
  )
  c.frontier = ml_collections.ConfigDict(
    {
      "samples": 0,  # of the reference for each held-out prompt; 0 = none
    }
  )
  c.log = ml_collections.ConfigDict(
    {
      "every": 1,  # steps between progress lines
      "samples_every": 25,  # steps between samples/step_N.jsonl; 0 = never
      "tensorboard": True,
    }
  )
  c.checkpoint = ml_collections.ConfigDict(
    {
      "every": 50,  # steps; also at the end and on a signal to stop
      "keep": 2,
    }
  )
  c.start = ml_collections.ConfigDict()  # what differs in the stage before, if
  # there is one; it may have a `start` of its own
  return c


def model() -> ml_collections.ConfigDict:
  """The decoder: a checkpoint (`path`) or a shape to initialise."""
  return ml_collections.ConfigDict(
    {
      "path": "",  # directory with config.json and *.safetensors
      "vocab": 16,
      "width": 64,
      "layers": 2,
      "heads": 4,
      "kv_heads": 4,
      "head_dim": 16,
      "mlp": 192,
      "norm_eps": 1e-5,
      "rope_theta": 10000.0,
      "qkv_bias": False,
      "qk_norm": False,
      "tied": False,
      "outputs": 0,  # above 0: a score head in place of the language head
      "head": {
        "kind": "scalar",  # of the score: scalar | gated | moe | features
        # | critique, see rlreward/models/reward_heads.py
        "hidden": 64,  # of the gate (gated) and of what joins experts (moe)
        "categories": 1,  # of prompts, each with experts of its own (moe)
        "experts": 4,  # of each category (moe)
        "rank": 8,  # of an expert's change of the state (moe)
        "reads": "hidden",  # what joins experts: their hidden | score (moe)
        "columns": (),  # of the data (features); () is the outputs
        "weights": (),  # of the features; () are learned
        "link": "linear",  # of the reported score: linear | sigmoid (features)
      },
      "dtype": "float32",
      "param_dtype": "float32",
      "remat": "dots",  # what layers keep: none (everything) | dots | full
      "lora_rank": 0,  # above 0: train an adapter, share the base
      "lora_alpha": 16.0,
      "lora_targets": ("q", "k", "v", "o", "gate", "up", "down"),
      "lora_path": "",  # a directory in PEFT's layout: the adapter at first
      "lora_dropout": 0.0,  # share of an adapter's input left out of gradients
    }
  )
