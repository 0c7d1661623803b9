"""Every way to spread a run gives one process's numbers: losses, gradient norms, every adapter gradient, the adapter at the end.

  python3 exactness_test.py PROGRAM [--golden NAME] [--full]     (standard library only)

One process is compared with ep x ep_fsdp x replicate x recompute x packing x accumulation x router loss, in fp32, on tests/golden/NAME
(qwen3_moe-fp32) with 20 steps; memory that holds no weights is filled with NaNs (MORAINE_POISON). Without --full a few telling cells; with it
all of ep, ep_fsdp in 1, 2, 4 and replicate in 1, 2 up to 8 ranks. Limits: 1e-5 relative; the adapter after 20 steps 1e-4 of each
tensor's largest element, because AdamW divides tiny gradients by their own size.
"""
import argparse
import itertools
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import mesh_equality_test
from mesh_equality_test import largest_difference, read_safetensors, training_rows, use_golden, write_tokens

ENVIRONMENT = dict(os.environ, MORAINE_POISON="1")
STEPS = 20


def golden():
    return mesh_equality_test.GOLDEN


def model(folder):
    """The golden's model. A gradient ends where SwiGLU is clamped, and at the tiny models' limit one of 200,000 values lies so near it
    now and then that the last bit decides; so it is raised to the released one."""
    copy = folder / "model"
    if not copy.exists():
        shutil.copytree(golden() / "model", copy)
        config = json.loads((copy / "config.json").read_text())
        if "swiglu_limit" in config:
            (copy / "config.json").write_text(json.dumps({**config, "swiglu_limit": 10.0}))
    return copy


def run(command):
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, env=ENVIRONMENT)
    if ended.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit {ended.returncode}\n{ended.stdout[-800:]}{ended.stderr[-800:]}")


def mesh_flags(mesh):
    ep, ep_fsdp, replicate = mesh
    ranks = ep * ep_fsdp * replicate
    flags = [f"mesh.ep={ep}", f"mesh.replicate={replicate}"]
    return flags + (["--ranks", str(ranks)] if ranks > 1 else [])


def train(program, folder, mesh, recompute, packing, micro_batch, aux):
    out = folder / f"{mesh}-{recompute}-{packing}-{micro_batch}-{aux}".replace(" ", "")
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps({
        "model": {"path": str(model(folder))}, "adapter": {"init_from": str(golden() / "lora" / "adapter")},
        "data": {"train": [str(folder / "tokens.safetensors")], "packing": packing, "max_length": 80},
        "train": {"steps": STEPS, "batch_size": 3 if packing else 6, "micro_batch_size": micro_batch, "learning_rate": 1e-3,
                  "recompute": recompute, "aux_loss_coef": aux}, "save": {"dir": str(out)}}))
    resident = ["mesh.resident=1GiB"] if recompute == "none" else []
    run([program, "train", recipe, *mesh_flags(mesh), *resident])
    return ([json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()],
            read_safetensors(out / "adapter" / "adapter_model.safetensors"))


def gradients(program, folder, mesh):
    """d loss / d adapter: what one step of plain SGD would subtract, tensor by tensor."""
    out = folder / f"grads-{'-'.join(map(str, mesh))}.safetensors"
    run([program, "score", "--model", model(folder), "--adapter", golden() / "lora" / "adapter",
         "--tokens", folder / "tokens.safetensors", "--grads", out, *mesh_flags(mesh)])
    return read_safetensors(out)


def update_ratios(grads, reference):
    """By tensor: the projection of a gradient on the reference's, 1 if they are equal."""
    ratios = {}
    for name, (_, wanted) in reference.items():
        ratios[name] = sum(x * y for x, y in zip(grads[name][1], wanted)) / sum(y * y for y in wanted)
    return ratios


def compare(cell, result, reference):
    steps, adapter = result
    wanted_steps, wanted_adapter = reference
    loss = max(abs(s["loss"] / w["loss"] - 1) for s, w in zip(steps, wanted_steps))
    norm = max(abs(s["grad_norm"] / w["grad_norm"] - 1) for s, w in zip(steps, wanted_steps))
    weights = largest_difference(adapter, wanted_adapter)
    ok = len(steps) == STEPS and loss <= 1e-5 and norm <= 1e-5 and weights <= 1e-4
    print(f"{'ok    ' if ok else 'FAILED'}  {cell}: loss {loss:.1e}, grad_norm {norm:.1e}, adapter {weights:.1e}", flush=True)
    return ok


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--golden", default=golden().name)
    parser.add_argument("--full", action="store_true")
    a = parser.parse_args()
    few = a.golden != golden().name and not a.full
    use_golden(a.golden)
    if a.full:
        meshes = [m for m in itertools.product((1, 2, 4), (1, 2, 4), (1, 2)) if math.prod(m) <= 8]
        ways = list(itertools.product(("full", "none"), (False, True), (1, 3), (0, 0.1)))
    else:
        meshes = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (2, 1, 2), (4, 1, 1)]
        ways = [("full", False, 1, 0.1), ("none", True, 3, 0)]
        if few:
            meshes = [(1, 1, 1), (2, 2, 1), (4, 1, 1)]
    failures = 0
    with tempfile.TemporaryDirectory(prefix="moraine-exactness-") as temporary:
        folder = pathlib.Path(temporary)
        write_tokens(folder / "tokens.safetensors", training_rows())
        reference_grads = gradients(a.program, folder, (1, 1, 1))
        for mesh in meshes:
            grads = gradients(a.program, folder, mesh)
            worst = largest_difference(grads, reference_grads)
            ratio = max(abs(r - 1) for r in update_ratios(grads, reference_grads).values())
            ok = worst <= 1e-5 and ratio <= 1e-5 and grads.keys() == reference_grads.keys()
            failures += not ok
            print(f"{'ok    ' if ok else 'FAILED'}  {mesh}: gradients {worst:.1e}, SGD update ratio 1 within {ratio:.1e}", flush=True)
        for recompute, packing, micro_batch, aux in ways:
            # Each way of cutting a step must give the numbers of one process too, so the reference is that of the plainest.
            reference = train(a.program, folder, (1, 1, 1), "full", packing, 1, aux)
            for mesh in meshes:
                failures += not compare(f"{mesh} recompute {recompute}, packing {packing}, micro-batch {micro_batch}, router loss {aux}",
                                        train(a.program, folder, mesh, recompute, packing, micro_batch, aux), reference)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
