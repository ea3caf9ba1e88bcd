# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does best-of-n buy with its KL?
#
# Draw n answers, keep the best: no training, more reward. What it costs is
# distance from the base model, KL(best-of-n || base). The least KL that buys a
# mean reward is that of an exponential tilt, p(y) exp(alpha r(y)) / Z. So:
#
# **Question.** At the KL that best-of-n spends, how much more could the tilt
# have earned? And how good a guide is log n - (n - 1) / n to that KL?
#
# **Knob.** `top`, the base's chance of its best answer. Where it is small the
# rewards look continuous and the formula is exact; where it is large, the best
# answer is soon found, the KL stops growing and the formula does not know.

# %%
# On Colab: !pip install -q rlreward
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from rlreward.analytic import best_of_n, frontier, tilt

top = 0.02  # try 0.2 and 0.0001
answers = 400
sizes = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256])

# %% [markdown]
# The world: 400 answers with normal rewards, and one that is best of all and
# has probability `top`. Everything below is exact, in float64.

# %%
jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
reward = np.append(np.sort(rng.normal(size=answers)), 4.0)
chance = np.append(rng.dirichlet(np.ones(answers)) * (1 - top), top)
logp = jnp.log(chance)

law = lambda fn: np.array([float(fn(chance, reward, int(n))) for n in sizes])
bon_kl, bon_reward = law(best_of_n.kl), law(best_of_n.mean_reward)
bound = np.asarray(best_of_n.kl_bound(sizes))

alpha = jax.vmap(lambda kl: tilt.solve_alpha(logp, reward, kl))(bon_kl)
best = np.asarray(jax.vmap(lambda a: tilt.mean_reward(logp, reward, a))(alpha))

# %% [markdown]
# The same picture as a run sees it: 256 samples of the base for each of 64
# prompts (here all alike), without their probabilities.

# %%
drawn = rng.choice(reward, (64, 256), p=chance)
grid = np.linspace(0.02, 3.5, 40)
seen = frontier.from_samples(jnp.asarray(drawn), jnp.asarray(grid))
sure = np.asarray(seen.trusted)

# %%
figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
line = np.linspace(1e-3, min(float(-np.log(top)), 4.5), 80)
curve = jax.vmap(lambda kl: tilt.solve_alpha(logp, reward, kl))(line)
curve = jax.vmap(lambda a: tilt.mean_reward(logp, reward, a))(curve)
axes.plot(line, curve, color="black", label="optimum: the tilt")
axes.fill_between(grid[sure], seen.low[sure], seen.high[sure], alpha=0.3,
                  label="the optimum from samples, 90 %")  # fmt: skip
axes.plot(bon_kl, bon_reward, "o-", color="tab:red", label="best of n, exact")
axes.plot(bound, bon_reward, "x:", color="tab:gray",
          label="best of n at log n - (n-1)/n")  # fmt: skip
for n, x, y in zip(sizes, bon_kl, bon_reward, strict=True):
  axes.annotate(f"n={n}", (x, y), xytext=(6, -12), textcoords="offset points")
axes.set_xlabel("KL to the base, nats")
axes.set_ylabel("mean reward")
axes.set_xlim(-0.1, bon_kl[-1] + 1)
axes.set_title(f"P(best answer) = {top}")
axes.legend()
plt.show()

# %% [markdown]
# **Answer.** Best-of-n is below the optimum, for it sees ranks only: it cannot
# tell a best answer that is far better from one that is barely so. Count wins
# against the base instead of reward and almost nothing is lost. The formula is
# an upper bound of the KL, and a bad one beyond n = 1 / top.

# %%
lost = np.max(best - bon_reward)
wins = law(best_of_n.win_rate)
most = np.asarray(best_of_n.optimal_win_rate(bon_kl))
print(f"most reward that best-of-n leaves on the table: {lost:.3f}")
print(f"most wins that it leaves there: {np.max(most - wins):.3f}")
print(f"KL of n = {sizes[-1]}: {bon_kl[-1]:.2f} nats, formula {bound[-1]:.2f}")
assert np.all(bon_kl <= bound + 1e-9)
assert np.all(best >= bon_reward - 1e-9) and np.all(most >= wins - 1e-9)
assert np.max(most - wins) < 0.02
