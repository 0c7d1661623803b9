"""Training steps of moraine beside transformers + PEFT: the same random checkpoint, rows and settings, in one run.

  python bench/step.py --program build/moraine --reference .venv-reference/bin/python [--preset small] [--steps 6]

Prints for each contender the median step time, tokens/s, CPU seconds a step and peak resident memory, then moraine's ratios.
Contenders alternate and each is run `--rounds` times, because a shared machine's speed moves. bf16, LoRA r 8 on attention
and experts, AdamW, 2 rows of 256 tokens a step and rank.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

PRESETS = {
    "tiny": dict(layers=4, hidden=256, heads=4, kv=2, head_dim=64, experts=16, top_k=4, width=128, vocab=4096),
    "small": dict(layers=8, hidden=512, heads=8, kv=2, head_dim=64, experts=32, top_k=4, width=384, vocab=32000),
    "medium": dict(layers=10, hidden=1024, heads=16, kv=4, head_dim=64, experts=128, top_k=8, width=384, vocab=32000),
}
TOKENS, ROWS = 256, 2  # of a sequence; sequences a step and rank
# moraine takes care of this itself (src/base/cpu_features); the reference would die on machines that hide AMX's description.
REFERENCE_ENVIRONMENT = {"ONEDNN_MAX_CPU_ISA": os.environ.get("ONEDNN_MAX_CPU_ISA", "AVX10_1_512")}


def config(p):
    return {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1,
        "head_dim": p["head_dim"], "hidden_act": "silu", "hidden_size": p["hidden"], "intermediate_size": 3 * p["hidden"],
        "max_position_embeddings": 4096, "mlp_only_layers": [], "moe_intermediate_size": p["width"], "norm_topk_prob": True,
        "num_attention_heads": p["heads"], "num_experts": p["experts"], "num_experts_per_tok": p["top_k"],
        "num_hidden_layers": p["layers"], "num_key_value_heads": p["kv"], "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": p["vocab"], "bos_token_id": 1, "eos_token_id": 2}


def make_tokens(python, path, vocab, rows):
    code = ("import torch; from safetensors.torch import save_file; g=torch.Generator().manual_seed(1);"
            f"ids=torch.randint(3,{vocab},({rows},{TOKENS}),generator=g); lab=ids.clone(); lab[:,:{TOKENS // 4}]=-100;"
            f"save_file({{'input_ids':ids,'labels':lab}},'{path}')")
    subprocess.run([python, "-c", code], check=True)


def run(command, env):
    """Runs a contender; returns its peak resident memory (MiB, of the largest process) and CPU seconds."""
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"bench: {' '.join(map(str, command))} failed:\n{output[-2000:]}")
    return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def moraine(a, folder, threads, ranks, recompute, number):
    out = folder / f"run{number}"
    command = [a.program, "train", str(folder / "recipe.yaml"), f"save.dir={out}", f"train.recompute={recompute}",
               f"train.batch_size={ROWS * ranks}", f"train.micro_batch_size={ROWS}"]
    if ranks > 1:
        command += ["--ranks", str(ranks), f"mesh.ep={ranks}"]
    memory, cpu = run(command, dict(os.environ, OMP_NUM_THREADS=str(threads)))
    lines = [json.loads(line) for line in open(out / "metrics.jsonl")]
    memory = max(memory, lines[-1]["peak_memory_bytes"] / 2**20)
    return [line["step_seconds"] for line in lines[2:]], memory, cpu / len(lines), [line["loss"] for line in lines]


def peft(a, folder, threads, implementation):
    out = folder / "peft.json"
    script = pathlib.Path(__file__).with_name("peft_step.py")
    memory, cpu = run([a.reference, script, folder, "--steps", str(a.steps), "--rows", str(ROWS), "--experts", implementation,
                       "--out", out], dict(os.environ, OMP_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1", **REFERENCE_ENVIRONMENT))
    result = json.load(open(out))
    return result["step_seconds"][2:], memory, cpu / a.steps, result["losses"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/moraine")
    parser.add_argument("--reference", default=".venv-reference/bin/python")
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ranks", type=int, nargs="*", default=[1])
    a = parser.parse_args()
    p = PRESETS[a.preset]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        (folder / "config.json").write_text(json.dumps(config(p)))
        subprocess.run([a.program, "init", "--config", folder / "config.json", "--out", folder / "model"], check=True,
                       stdout=subprocess.DEVNULL)
        make_tokens(a.reference, folder / "tokens.safetensors", p["vocab"], 64)
        (folder / "recipe.yaml").write_text(json.dumps({
            "model": {"path": str(folder / "model")}, "adapter": {"r": 8, "lora_alpha": 16},
            "data": {"train": [str(folder / "tokens.safetensors")], "shuffle": False},
            "load": {"verify": "off"}, "train": {"steps": a.steps, "learning_rate": 1e-3, "scheduler": "constant", "weight_decay": 0.01},
            "log": {"tensorboard": False}}))
        contenders, number = {}, 0
        for ranks in a.ranks:
            threads = max(1, a.threads // ranks)
            contenders[f"moraine, {ranks} rank(s), recompute full"] = lambda r=ranks, t=threads: moraine(a, folder, t, r, "full", number)
            if ranks == 1:
                contenders["moraine, 1 rank(s), recompute none"] = lambda t=threads: moraine(a, folder, t, 1, "none", number)
        contenders["transformers + PEFT, grouped_mm"] = lambda: peft(a, folder, a.threads, "grouped_mm")
        results = {name: [] for name in contenders}
        for _ in range(a.rounds):
            for name, contender in contenders.items():
                number += 1
                results[name].append(contender())
        base = None
        rows = {}
        for name, runs in results.items():
            ranks = int(name.split(", ")[1].split()[0]) if name.startswith("moraine") else 1
            seconds = statistics.median([s for r in runs for s in r[0]])
            rows[name] = (seconds, ranks * ROWS * TOKENS / seconds, statistics.median([r[2] for r in runs]), max(r[1] for r in runs))
            if name.startswith("transformers"):
                base = rows[name]
        print(f"preset {a.preset}, {a.threads} threads, {a.rounds} rounds of {a.steps} steps")
        print(f"{'':44} {'s/step':>8} {'tokens/s':>9} {'CPU s/step':>11} {'peak MiB':>9}   tokens/s, memory against PEFT")
        for name, (seconds, speed, cpu, memory) in rows.items():
            print(f"{name:44} {seconds:8.3f} {speed:9.0f} {cpu:11.2f} {memory:9.0f}   {speed / base[1]:.2f}x, {memory / base[3]:.2f}x")
        losses = {name: runs[0][3] for name, runs in results.items()}
        print("losses of the first and last step:", {n: (round(l[0], 4), round(l[-1], 4)) for n, l in losses.items()})


main()
