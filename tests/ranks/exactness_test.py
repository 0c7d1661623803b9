"""Every way to spread a run gives one process's numbers: losses, gradient norms, every adapter gradient, the adapter at the end.

  python3 exactness_test.py PROGRAM [--golden NAME] [--cpu native|avx2] [--full]     (standard library only)

One process is compared with ep x ep_fsdp x replicate x recompute x packing x accumulation x router loss on tests/golden/NAME (by default
qwen3_moe-fp32), 8 steps each, with --full 20; memory that holds no weights is filled with NaNs (MORAINE_POISON). Without --full a few telling cells;
with it all of ep and ep_fsdp in 1, 2, 4 and replicate in 1, 2 up to 8 ranks, and 4 x 4. Limits: in fp32 1e-5 relative for losses, norms
and gradients, 1e-4 of each tensor's largest element for the adapter after 20 steps; in bf16 2e-3 for losses. "same bits" says more: that
losses and adapter are one process's to the last bit, and every cell must have them where that is promised (DESIGN.md). --cpu avx2 holds the program to AVX2, so that a processor with AVX-512 shows what others would.
"""
import argparse
import collections
import itertools
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from mesh_equality_test import GOLDENS, largest_difference, read_safetensors, training_rows, write_tokens

ENVIRONMENT = dict(os.environ, MORAINE_POISON="1")
STEPS = 20  # with --full; else 8: what differs in a bit shows in the first steps


def run(command):
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, env=ENVIRONMENT)
    if ended.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit {ended.returncode}\n{ended.stdout[-800:]}{ended.stderr[-800:]}")


def mesh_flags(mesh):
    ep, ep_fsdp, replicate = mesh
    ranks = ep * ep_fsdp * replicate
    flags = [f"mesh.ep={ep}", f"mesh.replicate={replicate}"]
    return flags + (["--ranks", str(ranks)] if ranks > 1 else [])


# LoRA's variants, each several at once: adapter keys and the ratio of learning rates.
VARIANTS = [{"r": 4, "target_parameters": [], "lora_dropout": 0.2, "rank_pattern": {"o_proj": 6}, "use_rslora": True,
             "target_modules": ["q_proj", "v_proj", "o_proj", "embed_tokens", "lm_head"]},
            {"r": 4, "expert_r": 3, "alpha_pattern": {"down_proj": 8}, "use_rslora": True, "experts": "shared_outer",
             "target_parameters": ["mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}]


def train(program, folder, model, adapter, mesh, recompute, packing, micro_batch, aux, ratio=1):
    """`adapter`: the folder that it starts from, or keys of a new one; `micro_batch`: rows, or as text tokens."""
    out = pathlib.Path(tempfile.mkdtemp(dir=folder)) / "run"
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps({
        "model": {"path": str(model)}, "adapter": adapter if isinstance(adapter, dict) else {"init_from": str(adapter)},
        "data": {"train": [str(folder / "tokens.safetensors")], "packing": packing, "max_length": 80},
        "train": {"steps": STEPS, "batch_size": 3 if packing else 6, "learning_rate": 1e-3,
                  "micro_batch_tokens" if isinstance(micro_batch, str) else "micro_batch_size": int(micro_batch), "learning_rate_b_ratio": ratio, "recompute": recompute, "aux_loss_coef": aux}, "save": {"dir": str(out)}}))
    resident = ["mesh.resident=1GiB"] if recompute == "none" else []
    run([program, "train", recipe, *mesh_flags(mesh), *resident])
    return ([json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()],
            read_safetensors(out / "adapter" / "adapter_model.safetensors"))


def gradients(program, folder, model, adapter, mesh):
    """d loss / d adapter: what one step of plain SGD would subtract, tensor by tensor."""
    out = folder / f"grads-{'-'.join(map(str, mesh))}.safetensors"
    run([program, "score", "--model", model, "--adapter", adapter,
         "--tokens", folder / "tokens.safetensors", "--grads", out, *mesh_flags(mesh)])
    return read_safetensors(out)


def update_ratios(grads, reference):
    """By tensor: the projection of a gradient on the reference's, 1 if they are equal."""
    ratios = {}
    for name, (_, wanted) in reference.items():
        ratios[name] = sum(x * y for x, y in zip(grads[name][1], wanted)) / sum(y * y for y in wanted)
    return ratios


def model_of(golden, folder):
    """The golden's model. A gradient ends where SwiGLU is clamped, and at the tiny DeepSeek-V4's limit one of 200,000 values lies so near
    it now and then that the last bit decides; so it is raised to the released one."""
    config = json.loads((golden / "model" / "config.json").read_text())
    if config["model_type"] != "deepseek_v4":
        return golden / "model"
    shutil.copytree(golden / "model", folder / "model")
    (folder / "model" / "config.json").write_text(json.dumps({**config, "swiglu_limit": 10.0}))
    return folder / "model"


class Report:
    def __init__(self, golden, cpu):
        self.is_bf16, self.failures, self.cells, self.same = golden.endswith("bf16"), 0, 0, 0
        processor = pathlib.Path("/proc/cpuinfo").read_text()
        only_avx2 = cpu == "avx2" or "avx512f" not in processor
        self.bits_are_promised = "GenuineIntel" in processor or ("AuthenticAMD" in processor and only_avx2)
        self.histogram = collections.Counter()  # of loss differences, by power of ten

    def line(self, ok, cell, same_bits, figures):
        ok = ok and (same_bits or not self.bits_are_promised)
        self.failures += not ok
        self.cells += 1
        self.same += same_bits
        print(f"{'ok    ' if ok else 'FAILED'}  {cell}: {'same bits' if same_bits else figures}", flush=True)

    def gradients(self, mesh, grads, reference):
        worst = largest_difference(grads, reference)
        ratio = max(abs(r - 1) for r in update_ratios(grads, reference).values())
        ok = (self.is_bf16 or worst <= 1e-5 and ratio <= 1e-5) and grads.keys() == reference.keys()
        self.line(ok, mesh, grads == reference, f"gradients {worst:.1e}, SGD update ratio 1 within {ratio:.1e}")

    def run(self, cell, result, reference):
        steps, adapter = result
        wanted_steps, wanted_adapter = reference
        differences = [abs(s["loss"] - w["loss"]) for s, w in zip(steps, wanted_steps)]
        # Of the sum in fp64 over all tokens, whose order shows in its last digit.
        self.histogram.update(math.floor(math.log10(d)) if d > 1e-12 else None for d in differences)
        loss = max(differences) if self.is_bf16 else max(d / w["loss"] for d, w in zip(differences, wanted_steps))
        norm = max(abs(s["grad_norm"] / w["grad_norm"] - 1) for s, w in zip(steps, wanted_steps))
        weights = largest_difference(adapter, wanted_adapter)
        ok = len(steps) == STEPS and (loss <= 2e-3 if self.is_bf16 else loss <= 1e-5 and norm <= 1e-5 and weights <= 1e-4)
        self.line(ok, cell, adapter == wanted_adapter and loss <= 1e-12,
                  f"loss {loss:.1e}, grad_norm {norm:.1e}, adapter {weights:.1e}")

    def end(self):
        print(f"{self.same} of {self.cells} have the same bits; losses of all steps: " +
              ", ".join(f"{'equal' if power is None else f'1e{power}..'}: {n}"
                        for power, n in sorted(self.histogram.items(), key=lambda item: item[0] or -99)))
        return 1 if self.failures else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--golden", default="qwen3_moe-fp32")
    parser.add_argument("--cpu", choices=["native", "avx2"], default="native")
    parser.add_argument("--full", action="store_true")
    a = parser.parse_args()
    if a.cpu == "avx2" and "avx512f" not in pathlib.Path("/proc/cpuinfo").read_text():
        print("skipped: this processor has no more than AVX2, so the native cells are the same")
        sys.exit(77)
    ENVIRONMENT["MORAINE_CPU"] = a.cpu
    global STEPS
    STEPS = STEPS if a.full else 8
    golden = GOLDENS / a.golden
    if a.full:
        meshes = [m for m in itertools.product((1, 2, 4), (1, 2, 4), (1, 2)) if math.prod(m) <= 8] + [(4, 4, 1)]
        ways = list(itertools.product(("full", "none"), (False, True), (1, 3), (0, 0.1)))
    elif a.golden == "qwen3_moe-fp32":
        meshes = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (2, 1, 2), (4, 1, 1)]
        ways = [("full", False, 1, 0.1), ("none", True, 3, 0)]
    else:
        meshes = [(1, 1, 1), (2, 2, 1), (2, 1, 2)]
        ways = [("full", False, 1, 0.1), ("none", True, 3, 0)]
    report = Report(a.golden, a.cpu)
    with tempfile.TemporaryDirectory(prefix="moraine-exactness-") as temporary:
        folder = pathlib.Path(temporary)
        write_tokens(folder / "tokens.safetensors", training_rows(golden))
        start = model_of(golden, folder), golden / "lora" / "adapter"
        reference_grads = gradients(a.program, folder, *start, (1, 1, 1))
        for mesh in meshes[1:]:
            report.gradients(mesh, gradients(a.program, folder, *start, mesh), reference_grads)
        for recompute, packing, micro_batch, aux in ways:
            # Each way of cutting a step must give the numbers of one process too, so the reference is that of the plainest.
            plainest = ("full", packing, 1, aux)
            reference = train(a.program, folder, *start, (1, 1, 1), *plainest)
            for mesh in meshes:
                if mesh == (1, 1, 1) and (recompute, packing, micro_batch, aux) == plainest:
                    continue
                report.run(f"{mesh} recompute {recompute}, packing {packing}, micro-batch {micro_batch}, router loss {aux}",
                           train(a.program, folder, *start, mesh, recompute, packing, micro_batch, aux), reference)
            if recompute != "full":
                continue
            # By tokens: a row alone, some together, all of a rank's at once. Several rows of DeepSeek-V4's without its routers' loss, whose
            # last bit they change (DESIGN.md).
            if a.golden.startswith("deepseek_v4"):
                aux = 0
                reference = train(a.program, folder, *start, (1, 1, 1), recompute, packing, 1, aux)
            for mesh, tokens in ((1, 1, 1), "1"), ((2, 2, 1), "90"), ((2, 1, 1), "9999"):
                report.run(f"{mesh} recompute {recompute}, packing {packing}, micro-batch of {tokens} tokens, router loss {aux}",
                           train(a.program, folder, *start, mesh, recompute, packing, tokens, aux), reference)
        for adapter in VARIANTS if a.golden == "qwen3_moe-fp32" else []:
            reference = train(a.program, folder, start[0], adapter, (1, 1, 1), "full", False, 1, 0.1, 4)
            report.run(f"(2, 2, 1) recompute none, micro-batch 3, router loss 0.1, {adapter}",
                       train(a.program, folder, start[0], adapter, (2, 2, 1), "none", False, 3, 0.1, 4), reference)
    sys.exit(report.end())


if __name__ == "__main__":
    main()
