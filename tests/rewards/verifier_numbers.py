"""The lines of docs/verifiers.md that hold numbers, made of results/."""


def lines(real: dict, fuzz: dict) -> list[str]:
  """Bullet points for the page.

  Args:
    real: results/verifiers.json.
    fuzz: results/fuzz_verifiers.json.
  """
  r, g, rouge = real["rollouts"], real["gsm8k"], real["rouge"]
  tasks, host = real["bbh"].values(), fuzz["host"]
  sets = real["math_sets"].values()
  second = real["second_opinion"]
  golds = sum(s["golds"] - s["no_gold"] for s in sets)
  read = golds - sum(len(s["by_text_only"]) for s in sets)
  speeds = host["strings_per_cpu_second"]
  slow, fast = min(speeds, key=speeds.get), max(speeds, key=speeds.get)
  out = [
    f"- {r['agree']} of {r['rows']} recorded scores of real GRPO rollouts are"
    f" ours too, without math-verify ({r['right']:.0f} of them right).",
    f"- {sum(t['rows'] for t in tasks)} recorded BIG-Bench Hard outputs:"
    f" {sum(t['items_unlike_exact_match'] for t in tasks)} items unlike exact"
    " match; the accuracies of all six files are the published ones.",
    f"- GSM8K: {g['gold_right']} of {g['rows']} gold solutions right,"
    f" {g['perturbed_wrong']} of {g['perturbed']} perturbed answers wrong,"
    f" {g['unmarked_wrong']} of {g['rows']} right numbers without a mark"
    " wrong.",
    f"- Six evaluation sets: {sum(s['right'] for s in sets)} of {golds} golds"
    f" equal themselves, {read} of them read as what they are and the rest"
    " compared as text.",
    f"- Our matcher and math-verify say the same of {second['agree']} of"
    f" {second['pairs']} pairs; the classes of the others:"
    f" {second['classes']}.",
    f"- BFCL: {real['bfcl']['right']} of {real['bfcl']['rows']} accepted"
    " answers right in any order; with a call left out, renamed or given an"
    f" argument too many {real['bfcl']['renamed_wrong']} wrong.",
    f"- ROUGE against {rouge['1']['summaries']} records of ROUGE 1.5.5:"
    f" {rouge['1']['exact']:.0%} equal to five digits for ROUGE-1,"
    f" {rouge['2']['exact']:.0%} for ROUGE-2, {rouge['l']['exact']:.0%} for"
    f" ROUGE-L; of ROUGE-1, {rouge['classes_of_rouge_1']}.",
    f"- Fuzzed with {host['strings']} hostile strings through"
    f" {len(speeds)} verifiers: {host['failures']} exceptions,"
    f" {host['slow_calls']} calls above a second, the slowest"
    f" {max(host['slowest_call_seconds'].values()):.3f} s,"
    f" {host['memory_mb_grown_since']:.1f} MB of growth after the first"
    " quarter.",
    f"- Strings a second of one core: {speeds[slow]:.0f} ({slow}) to"
    f" {speeds[fast]:.0f} ({fast}).",
  ]
  if "math_verify" in fuzz:
    m = fuzz["math_verify"]
    out.append(
      f"- math-verify in killed workers, on {m['strings']} of them:"
      f" {m['statuses']}, {m['zeros_that_are_no_verdict']} rewards of 0 that"
      f" are no verdict, {m['strings_per_second']:.0f} a second, machine busy."
    )
  return out
