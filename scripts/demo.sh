#!/usr/bin/env bash
# The main job on a small real model: sets up, asks the model who it is, fine-tunes it on examples/chats.jsonl, asks again.
#
#   bash scripts/demo.sh [section.key=value ...]    # e.g. data.variables.NAME=Ada train.steps=200
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly program=build/moraine model=examples/dictionary_model recipe=examples/demo.yaml run=runs/demo
readonly questions=("Who are you?" "Who made you?" "What does abandon mean?" "What is another word for finish?")

title() { printf '\n== %s ==\n\n' "$1"; }
ask() { "$program" generate --model "$model" --prompt "$1" --max-new-tokens 40 "${@:2}"; }

bash scripts/setup.sh moraine

title "Before: the base model ($model)"
before=()
for question in "${questions[@]}"; do
  before+=("$(ask "$question")")
  printf '  %-34s %s\n' "$question" "${before[-1]}"
done

title "Training: $recipe, on 4 ranks, the experts split over 2"
rm -rf "$run" # the demo's own run folder, from an earlier demo
started=$SECONDS
"$program" train "$recipe" --ranks 4 mesh.ep=2 "$@" save.dir="$run"
took=$((SECONDS - started))

title "Before and after $took s of training"
for i in "${!questions[@]}"; do
  printf '  %s\n    before  %s\n    after   %s\n\n' "${questions[i]}" "${before[i]}" "$(ask "${questions[i]}" --adapter "$run/adapter")"
done

cat <<END
The adapter is in $run/adapter, in PEFT's format. What to do next:
  $program generate --model $model --adapter $run/adapter --prompt "Tell me about yourself."
  $program inspect $run/adapter
  bash scripts/demo.sh data.variables.NAME=Ada          # the same with a name of yours
  recipes/qwen3_30b_a3b_lora.yaml                       # a first recipe for a real checkpoint; the README goes on from here
END
