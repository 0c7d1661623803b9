"""How far losses on many ranks are from those of one process, in fp32 and bf16.

  python bench/exactness.py --program build/moraine [--steps 20]

1. A random Qwen3-MoE with the released shapes' ratios (128 experts, top-8, tiny widths) on 8 ranks with ep 8 against one process: the
   first four losses.
2. The same model, `--steps` steps, on several meshes: the largest loss difference, and in bf16 a histogram of all of them.
Standard library only.
"""
import argparse
import collections
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "ranks"))
from mesh_equality_test import write_tokens  # noqa: E402

CONFIG = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1,
          "head_dim": 16, "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 192, "max_position_embeddings": 4096,
          "mlp_only_layers": [], "moe_intermediate_size": 24, "norm_topk_prob": True, "num_attention_heads": 4, "num_experts": 128,
          "num_experts_per_tok": 8, "num_hidden_layers": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
          "tie_word_embeddings": False, "vocab_size": 512, "initializer_range": 0.1}
MESHES = [(2, 2), (4, 1), (4, 2), (4, 4), (8, 8)]  # ranks, ep


def losses(program, folder, model, steps, ranks, ep):
    out = folder / f"run-{model.name}-{ranks}-{ep}-{steps}"
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps({
        "model": {"path": str(model)}, "data": {"train": [str(folder / "tokens.safetensors")], "shuffle": False},
        "train": {"steps": steps, "batch_size": 8, "learning_rate": 1e-3, "scheduler": "constant"}, "mesh": {"ep": ep},
        "save": {"dir": str(out)}}))
    subprocess.run([program, "train", recipe, *(["--ranks", str(ranks)] if ranks > 1 else [])], check=True, capture_output=True,
                   env=dict(os.environ, OMP_NUM_THREADS="1"))
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/moraine")
    parser.add_argument("--steps", type=int, default=20)
    a = parser.parse_args()
    dice = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="moraine-exactness-") as temporary:
        folder = pathlib.Path(temporary)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        rows = [[dice.randrange(512) for _ in range(64)] for _ in range(32)]
        write_tokens(folder / "tokens.safetensors", {"input_ids": rows, "labels": rows})
        for dtype in ("float32", "bfloat16"):
            model = folder / dtype
            subprocess.run([a.program, "init", "--config", folder / "config.json", "--out", model, "--dtype", dtype], check=True,
                           capture_output=True)
            one = losses(a.program, folder, model, a.steps, 1, 1)
            eight = losses(a.program, folder, model, a.steps, 8, 8)
            print(f"\n{dtype}: 128 experts, top-8, the first four losses\n{'step':>6} {'one process':>14} {'ep 8':>14} {'difference':>12}")
            for step in range(4):
                print(f"{step + 1:>6} {one[step]:>14.7f} {eight[step]:>14.7f} {abs(one[step] - eight[step]):>12.1e}")
            buckets = collections.Counter()
            print(f"{dtype}: largest difference from one process over {a.steps} steps")
            for ranks, ep in MESHES:
                there = eight if (ranks, ep) == (8, 8) else losses(a.program, folder, model, a.steps, ranks, ep)
                differences = [abs(x - y) for x, y in zip(there, one)]
                buckets.update(math.floor(math.log10(d)) if d else -99 for d in differences)
                print(f"  {ranks} ranks, ep {ep}: {max(differences):.1e}")
            print("  all steps of all meshes: " + ", ".join(
                f"{'equal' if b == -99 else f'1e{b}..'}: {n}" for b, n in sorted(buckets.items())), flush=True)


if __name__ == "__main__":
    main()
