"""A policy learns to look things up: GRPO through turns with a search tool.

"Aa=" asks for relation a of A, and the fact lies in a store of that problem
alone: the policy asks "?Aa", reads ">C;" and answers "C". It starts from
demonstrations of which three in five are wrong in the answer, so it knows the
form of a turn and seldom repeats what it has read. The claim: the share of
right answers held out rises by 0.25. In the broken variant the tool is never
asked (`sampling.max_new_tokens` leaves the turns, `task.shown` takes the store
away) and an answer is a guess.

Run:  rlreward train --config=configs/search.py:mini --workdir=runs/search
"""
