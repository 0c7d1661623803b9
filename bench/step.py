"""Training steps of moraine beside transformers + PEFT and twinkle: the same random checkpoint, rows and settings, in one run.

  python bench/step.py --program build/moraine --reference .venv-reference/bin/python [--twinkle PYTHON] [--preset small]

Prints for each contender the median step time, tokens/s, CPU seconds a step and peak resident memory of the largest process, and
the ratios to PEFT and to twinkle on as many ranks. PEFT runs in one process; moraine and twinkle (PYTHON: an interpreter that has
twinkle-kit 0.5.1; left out, it is not run) on 1 and 2 ranks with the experts split between them and the threads shared out. CPU
seconds a step are the whole command's over its steps; twinkle's, whose start costs as much as several steps, of its steps alone.
Contenders alternate and each is run `--rounds` times, because a shared machine's speed moves. bf16, LoRA r 8 on linear layers and
experts, AdamW, 2 rows of 256 tokens per step and rank.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from presets import PRESETS, PYTHON_ENVIRONMENT, make_model

TOKENS, ROWS = 256, 2  # of a sequence; sequences per step and rank
PEFT = "transformers + PEFT, grouped_mm"
HERE = pathlib.Path(__file__).parent


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
    memory, cpu = run([a.reference, HERE / "peft_step.py", folder, "--steps", str(a.steps), "--rows", str(ROWS),
                       "--experts", implementation, "--out", out], dict(os.environ, OMP_NUM_THREADS=str(threads), **PYTHON_ENVIRONMENT))
    result = json.load(open(out))
    return result["step_seconds"][2:], memory, cpu / a.steps, result["losses"]


def twinkle(a, folder, threads, ranks):
    out = folder / "twinkle.json"
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    memory, _ = run([a.twinkle, *launch, HERE / "twinkle_step.py", folder, "--steps", str(a.steps), "--rows", str(ROWS),
                     "--out", out], dict(os.environ, OMP_NUM_THREADS=str(threads), **PYTHON_ENVIRONMENT))
    result = json.load(open(out))
    return result["step_seconds"][2:], memory, result["cpu_seconds"] / a.steps, result["losses"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/moraine")
    parser.add_argument("--reference", default=".venv-reference/bin/python")
    parser.add_argument("--twinkle", metavar="PYTHON", help="left out: not run")
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2])
    a = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        make_model(a.program, a.preset, folder)
        make_tokens(a.reference, folder / "tokens.safetensors", PRESETS[a.preset]["vocab"], 64)
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
            if a.twinkle:
                contenders[f"twinkle, {ranks} rank(s)"] = lambda r=ranks, t=threads: twinkle(a, folder, t, r)
        contenders[PEFT] = lambda: peft(a, folder, a.threads, "grouped_mm")
        results = {name: [] for name in contenders}
        for _ in range(a.rounds):
            for name, contender in contenders.items():
                number += 1
                results[name].append(contender())
        rows = {}
        for name, runs in results.items():
            ranks = 1 if name == PEFT else int(name.split(", ")[1].split()[0])
            seconds = statistics.median([s for r in runs for s in r[0]])
            rows[name] = (seconds, ranks * ROWS * TOKENS / seconds, statistics.median([r[2] for r in runs]), max(r[1] for r in runs),
                          (PEFT, f"twinkle, {ranks} rank(s)"))
        print(f"preset {a.preset}, {a.threads} threads, {a.rounds} rounds of {a.steps} steps" +
              ("" if a.twinkle else "; twinkle is not run: --twinkle names no interpreter"))
        print(f"{'':44} {'s/step':>8} {'tokens/s':>9} {'CPU s/step':>11} {'peak MiB':>9}   tokens/s, memory against PEFT; twinkle")
        for name, (seconds, speed, cpu, memory, peers) in rows.items():
            ratios = "; ".join(f"{speed / rows[peer][1]:.2f}x, {memory / rows[peer][3]:.2f}x" for peer in peers if peer in rows)
            print(f"{name:44} {seconds:8.3f} {speed:9.0f} {cpu:11.2f} {memory:9.0f}   {ratios}")
        losses = {name: runs[0][3] for name, runs in results.items()}
        print("losses of the first and last step:", {n: (round(l[0], 4), round(l[-1], 4)) for n, l in losses.items()})


main()
