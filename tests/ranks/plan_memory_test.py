"""What `moraine plan` says a rank needs, it needs: the measured peak is at most 15 % above the figure, and not far below it.

  python3 plan_memory_test.py PROGRAM [--all] [--shape SHAPE]     (standard library only)

Trains three steps on random checkpoints of a few hundred MB and watches the peak resident memory (VmHWM) of every rank. libtorch's own
part is measured on the tiny golden model with the same number of ranks. --all adds shapes and bf16 runs with many row counts.
"""
import argparse
import array
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import threading
import time

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "qwen3_moe-fp32"
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1")
SHAPES = {  # layers, hidden, experts, top-k, width, vocabulary
    "small": (8, 512, 32, 4, 384, 32000),
    "wide": (4, 1024, 16, 2, 1024, 8000),
    "vocab": (4, 512, 16, 4, 256, 150000),
    "hybrid": (8, 512, 32, 4, 384, 32000),  # Qwen3.5: three layers of linear attention, then one of full attention
    "small-fp8": (8, 512, 32, 4, 384, 32000),
    "hybrid-fp8": (8, 512, 32, 4, 384, 32000),
}
# DeepSeek-V4: layers, hidden, experts, top-k, width, vocabulary
V4_SHAPES = {
    "v4": (6, 512, 16, 4, 384, 16000),
    "v4-quantised": (6, 512, 32, 4, 768, 16000),
}
# shape, dtype, tokens per sequence, ranks, ep, further keys
CASES = [("small", "float32", 256, 2, 2, []), ("small", "bfloat16", 256, 2, 2, []), ("small", "float32", 512, 4, 4, []),
         ("hybrid", "float32", 1024, 1, 1, []), ("v4-quantised", "float32", 512, 2, 2, []), ("small-fp8", "float32", 256, 2, 2, [])]
MORE = [("small", "float32", 256, 1, 1, []), ("small", "float32", 256, 2, 1, []), ("small", "float32", 256, 4, 2, []),
        ("v4", "float32", 512, 1, 1, []), ("wide", "float32", 1024, 1, 1, []), ("wide", "bfloat16", 1024, 2, 2, []), ("vocab", "bfloat16", 256, 1, 1, []),
        ("small", "bfloat16", 256, 1, 1, []), ("small", "bfloat16", 256, 2, 1, []), ("small", "bfloat16", 256, 4, 2, []),
        ("small", "float32", 256, 2, 2, ["train.recompute=none", "mesh.resident=1GiB"]),
        ("hybrid", "float32", 256, 2, 1, []), ("hybrid", "bfloat16", 512, 2, 2, []), ("hybrid", "bfloat16", 1024, 1, 1, []),
        ("v4-quantised", "bfloat16", 512, 2, 2, []),
        ("hybrid", "float32", 512, 1, 1, ["train.recompute=none"]),
        ("v4", "float32", 2048, 1, 1, []), ("v4", "bfloat16", 2048, 2, 2, []), ("v4-quantised", "bfloat16", 1024, 1, 1, []),
        ("v4", "float32", 512, 2, 2, ["train.recompute=none", "mesh.resident=1GiB"]),
        ("small-fp8", "bfloat16", 256, 1, 1, []), ("hybrid-fp8", "bfloat16", 512, 2, 1, []), ("hybrid-fp8", "float32", 512, 1, 1, [])]


def v4_config(shape, dtype):
    layers, hidden, experts, top_k, width, vocabulary = V4_SHAPES[shape]
    quantised = {"expert_dtype": "fp4", "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0",
                                                                "weight_block_size": [128, 128]}} if "quantised" in shape else {}
    return {"architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "hc_eps": 1e-6, "hc_mult": 4, "hc_sinkhorn_iters": 20,
            "head_dim": 128, "hidden_act": "silu", "hidden_size": hidden, "index_head_dim": 64, "index_n_heads": 16, "index_topk": 64,
            "max_position_embeddings": 1048576, "moe_intermediate_size": width, "n_routed_experts": experts, "n_shared_experts": 1,
            "num_attention_heads": 16, "num_experts_per_tok": top_k, "num_hidden_layers": layers, "num_hash_layers": 2,
            "num_key_value_heads": 1, "o_groups": 4, "o_lora_rank": 128, "q_lora_rank": 256, "qk_rope_head_dim": 32, "rms_norm_eps": 1e-6,
            "rope_theta": 10000, "compress_rope_theta": 160000, "sliding_window": 128, "swiglu_limit": 10.0, "routed_scaling_factor": 1.5,
            "tie_word_embeddings": False, "torch_dtype": dtype, "vocab_size": vocabulary,
            "compress_ratios": [0, 0] + [4, 128] * ((layers - 2) // 2), **quantised}


def config(shape, dtype):
    if shape in V4_SHAPES:
        return v4_config(shape, dtype)
    if shape.endswith("-fp8"):
        return config(shape.removesuffix("-fp8"), dtype) | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    layers, hidden, experts, top_k, width, vocabulary = SHAPES[shape]
    if shape == "hybrid":
        return {"architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text", "full_attention_interval": 4,
                "head_dim": 128, "hidden_size": hidden, "linear_key_head_dim": 128, "linear_num_key_heads": hidden // 128,
                "linear_num_value_heads": 2 * hidden // 128, "linear_value_head_dim": 128, "moe_intermediate_size": width,
                "num_attention_heads": 2 * hidden // 128, "num_experts": experts, "num_experts_per_tok": top_k,
                "num_hidden_layers": layers, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "partial_rotary_factor": 0.25,
                "rope_theta": 1e7, "shared_expert_intermediate_size": width, "tie_word_embeddings": False, "torch_dtype": dtype,
                "vocab_size": vocabulary}
    return {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1,
            "head_dim": 64, "hidden_act": "silu", "hidden_size": hidden, "intermediate_size": 3 * hidden,
            "max_position_embeddings": 4096, "mlp_only_layers": [], "moe_intermediate_size": width, "norm_topk_prob": True,
            "num_attention_heads": hidden // 64, "num_experts": experts, "num_experts_per_tok": top_k, "num_hidden_layers": layers,
            "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": False,
            "torch_dtype": dtype, "vocab_size": vocabulary}


def write_tokens(path, rows, length, vocabulary):
    dice = random.Random(1)
    raw = array.array("q", [dice.randrange(vocabulary) for _ in range(rows * length)]).tobytes()
    header = json.dumps({"input_ids": {"dtype": "I64", "shape": [rows, length], "data_offsets": [0, len(raw)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + raw)


def peaks(command, ranks):
    """VmHWM of every rank, by rank, in bytes."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    highest, ended = {}, threading.Event()

    def watch():
        while not ended.wait(0.005):
            pids = [process.pid]
            if ranks > 1:
                try:
                    pids = list(map(int, pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))
                except OSError:
                    continue
            for pid in pids:
                try:
                    status = pathlib.Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                name = status.split(maxsplit=2)[1]  # "moraine:3" is rank 3
                if ranks > 1 and ":" not in name:
                    continue
                rank = int(name.partition(":")[2] or 0)
                for line in status.splitlines():
                    if line.startswith("VmHWM:"):
                        highest[rank] = max(highest.get(rank, 0), 1024 * int(line.split()[1]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, err = process.communicate(timeout=300)
    ended.set()
    watcher.join()
    if process.returncode != 0 or len(highest) != ranks:
        sys.exit(f"{command}: exit {process.returncode}, {len(highest)} ranks seen\n{err[-800:]}")
    return highest


def recipe(folder, model, tokens, length, batch):
    path = folder / "recipe.json"
    path.write_text(json.dumps({
        "model": {"path": str(model)}, "data": {"train": [str(tokens)], "shuffle": False, "max_length": length},
        "train": {"steps": 3, "batch_size": batch}, "save": {"dir": str(folder / f"run-{time.monotonic_ns()}")}}))
    return path


def with_ranks(ranks, ep):
    return [f"mesh.ep={ep}", *(["--ranks", str(ranks)] if ranks > 1 else [])]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--shape", choices=[*SHAPES, *V4_SHAPES], help="only this one")
    a = parser.parse_args()
    failures, bases, models = 0, {}, {}
    with tempfile.TemporaryDirectory(prefix="moraine-plan-") as temporary:
        folder = pathlib.Path(temporary)
        for shape, dtype, length, ranks, ep, keys in CASES + (MORE if a.all else []):
            if a.shape not in (None, shape):
                continue
            if ranks not in bases:
                path = recipe(folder, GOLDEN / "model", GOLDEN / "batch.safetensors", 40, 3)
                bases[ranks] = max(peaks([a.program, "train", path, *with_ranks(ranks, 1)], ranks).values())
            model = models.setdefault((shape, dtype), folder / f"{shape}-{dtype}")
            if not model.exists():
                (folder / "config.json").write_text(json.dumps(config(shape, dtype)))
                subprocess.run([a.program, "init", "--config", folder / "config.json", "--out", model], check=True, capture_output=True)
            tokens = folder / "tokens.safetensors"
            write_tokens(tokens, 3 * ranks, length, {**SHAPES, **V4_SHAPES}[shape][5])
            path = recipe(folder, model, tokens, length, ranks)
            measured = peaks([a.program, "train", path, *with_ranks(ranks, ep), *keys], ranks)
            plan = json.loads(subprocess.run([a.program, "plan", path, f"mesh.ep={ep}", *keys, "--world", str(ranks), "--json"],
                                             check=True, capture_output=True, text=True).stdout)
            ratios = []
            for rank in plan["ranks"]:
                planned = rank["peak_bytes"] - rank["libtorch_base_bytes"]
                ratios.append((measured[rank["rank"]] - bases[ranks]) / planned)
            ok = max(ratios) <= 1.15 and max(ratios) >= 0.6
            failures += not ok
            print(f"{'ok    ' if ok else 'FAILED'}  {shape} {dtype} {length} tokens, {ranks} ranks, ep {ep} {' '.join(keys)}: planned "
                  f"{planned / 2**20:.0f} MiB + libtorch {bases[ranks] / 2**20:.0f}, measured without libtorch / planned "
                  f"{min(ratios):.2f} to {max(ratios):.2f}", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
