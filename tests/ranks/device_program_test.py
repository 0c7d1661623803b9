"""The whole program on the test device: training, snapshots, exact resume, export, score, merge and generate.

  python3 device_program_test.py PROGRAM     (standard library only; PROGRAM: that of tests/device/program)

A run that goes on from a snapshot ends with the bits of one that never stopped, on one rank and on two, also with weights in the host's
memory. What the run wrote the CPU reads, and the CPU's numbers are the device's, as near as the dtype lets them be.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from mesh_equality_test import GOLDENS, largest_difference, read_safetensors, training_rows, write_tokens

STEPS = 4
# How far losses may be from the CPU's: fp32 within rounding that 4 steps amplify; in bf16 a token's experts change now and then.
LIMITS = {"qwen3_moe-fp32": 1e-4, "qwen3_5_moe-bf16": 5e-2, "deepseek_v4-fp8fp4": 5e-2}
TWO_RANKS, OFFLOADED = ["--ranks", "2", "mesh.ep=2", "dist.backend=gloo"], ["mesh.offload=all"]
failures = 0


def report(what, problem):
    global failures
    failures += bool(problem)
    print(f"{'FAILED' if problem else 'ok    '}  {what}" + (f": {problem}" if problem else ""), flush=True)


class Runs:
    def __init__(self, program, folder, golden):
        self.program, self.folder, self.golden = program, folder / golden, GOLDENS / golden
        self.folder.mkdir()
        write_tokens(self.folder / "tokens.safetensors", training_rows(self.golden))
        self.recipe = self.folder / "recipe.json"
        self.recipe.write_text(json.dumps({
            "model": {"path": str(self.golden / "model")}, "adapter": {"init_from": str(self.golden / "lora" / "adapter")},
            "data": {"train": [str(self.folder / "tokens.safetensors")], "eval": [str(self.folder / "tokens.safetensors")]},
            "train": {"steps": STEPS, "batch_size": 4, "learning_rate": 1e-3, "weight_decay": 0.01}, "save": {"every": 2},
            "log": {"tensorboard": False}}))

    def run(self, *command):
        ended = subprocess.run([self.program, *map(str, command)], capture_output=True, text=True, timeout=300,
                               env=dict(os.environ, MORAINE_POISON="1"))
        if ended.returncode != 0:
            sys.exit(f"FAILED: {' '.join(map(str, command))}: exit {ended.returncode}\n{ended.stdout[-1500:]}{ended.stderr[-1500:]}")
        return ended.stdout

    def train(self, name, *overrides, device="cuda"):
        """(losses and norms of the steps that it ran, the adapter's bytes)"""
        out = self.folder / name
        self.run("train", self.recipe, f"save.dir={out}", f"dist.device={device}", *overrides)
        steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [(s["step"], s["loss"], s["grad_norm"], s.get("eval_loss")) for s in steps], (out / "adapter" / "adapter_model.safetensors").read_bytes()

    def score(self, name, model, *flags, device="cuda"):
        out = self.folder / f"{name}.safetensors"
        printed = self.run("score", "--json", "--model", model, "--tokens", self.golden / "batch.safetensors", f"dist.device={device}", *flags)
        return json.loads(printed)["loss"]


def check_resume(runs, name, *overrides):
    """Returns the straight run's losses."""
    straight, adapter = runs.train(name, *overrides)
    again, found = runs.train(f"{name}-resumed", *overrides, f"save.resume={runs.folder / name / 'checkpoints' / 'step-2'}")
    problem = "" if (again, found) == (straight[2:], adapter) and len(straight) == STEPS else f"{again}, straight {straight[2:]}"
    report(f"{runs.golden.name}, {' '.join(overrides) or 'one rank'}: resumed from step 2 with the same bits", problem)
    return straight


def apart(found, wanted):
    return max(abs(a[1] - b[1]) for a, b in zip(found, wanted, strict=True))


def check_golden(runs):
    limit, title = LIMITS[runs.golden.name], runs.golden.name
    on_device, on_cpu = check_resume(runs, "device"), runs.train("cpu", device="cpu")[0]
    report(f"{title}: losses are the CPU's", "" if apart(on_device, on_cpu) <= limit else f"{on_device}, the CPU's {on_cpu}")
    # A snapshot shows no device.
    for name, device, other in (("device-then-cpu", "cpu", "device"), ("cpu-then-device", "cuda", "cpu")):
        moved = runs.train(name, f"save.resume={runs.folder / other / 'checkpoints' / 'step-2'}", device=device)[0]
        report(f"{title}: {name.replace('-', ' ')}", "" if apart(moved, on_cpu[2:]) <= limit else f"{moved}, the CPU's {on_cpu[2:]}")
    two = check_resume(runs, "two", *TWO_RANKS)
    report(f"{title}: two ranks' losses are one rank's", "" if apart(two, on_device) <= limit else f"{two}, one rank's {on_device}")

    adapter, base = runs.folder / "device" / "adapter", runs.golden / "model"
    scores = {device: runs.score(f"scored-{device}", base, "--adapter", adapter, "--out", runs.folder / f"{device}.safetensors", "--logits", "--grads",
                                 runs.folder / f"{device}-grads.safetensors", device=device) for device in ("cuda", "cpu")}
    report(f"{title}: score's loss", "" if abs(scores["cuda"] - scores["cpu"]) <= limit else f"{scores}")
    if title.endswith("fp32"):
        for what in ("", "-grads"):
            found, wanted = [read_safetensors(runs.folder / f"{device}{what}.safetensors") for device in ("cuda", "cpu")]
            difference = largest_difference(found, wanted)
            report(f"{title}: score's {'gradients' if what else 'logits'}", "" if found.keys() == wanted.keys() and difference <= 1e-4 else f"{difference}")
    for layout in ("peft", "per-expert"):
        runs.run("export", "--model", base, "--adapter", adapter, "--layout", layout, "--out", runs.folder / f"export-{layout}")
    merged = runs.folder / "merged"
    runs.run("merge", "--model", base, "--adapter", adapter, "--out", merged)
    loss = runs.score("merged", merged)
    report(f"{title}: the merged model's loss", "" if abs(loss - scores["cuda"]) <= limit else f"{loss}, with the adapter {scores['cuda']}")


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for golden in LIMITS:
            check_golden(Runs(program, folder, golden))
        (folder / "more").mkdir()
        runs = Runs(program, folder / "more", "qwen3_moe-fp32")
        check_resume(runs, "offloaded", *OFFLOADED)
        demo = ["generate", "--json", "--model", GOLDENS.parent.parent / "examples" / "dictionary_model", "--prompt", "hello", "--max-new-tokens", "8"]
        texts = [json.loads(runs.run(*demo, f"dist.device={device}"))["ids"] for device in ("cuda", "cpu")]
        report(f"generate: {len(texts[0])} tokens", "" if texts[0] == texts[1] and len(texts[0]) > 2 else f"{texts}")
    sys.exit(1 if failures else 0)


main()
