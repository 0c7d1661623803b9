"""Base weights that stay in the host's memory give the bits of weights on the device, on 1, 2 and 4 ranks.

  python3 offload_test.py PROGRAM [--golden NAME] [--device cpu|cuda]     (standard library only)

Trains tests/golden/NAME (qwen3_moe-fp32; of others a few cells) for 3 steps. cuda with the program of tests/device/program is the test
device. Memory that holds no weights is filled with NaNs.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from mesh_equality_test import GOLDENS, training_rows, write_tokens

EXPERTS, ALL, SOME = ["mesh.offload=experts"], ["mesh.offload=all"], ["mesh.offload=all", "mesh.resident=100KiB"]
# (ranks, ep): what is offloaded. With ep 1 the ranks are replicas.
CELLS = {(1, 1): [EXPERTS, ALL, SOME], (2, 2): [EXPERTS, ALL, SOME], (2, 1): [ALL], (4, 4): [EXPERTS, ALL, SOME], (4, 2): [ALL]}
CELLS_OF_OTHERS = {(1, 1): [SOME], (2, 2): [EXPERTS, ALL], (4, 4): [ALL]}


def train(program, folder, golden, device, ranks, ep, overrides):
    """Losses and gradient norms of all steps, and the bytes of the adapter after them."""
    out = folder / f"run-{ranks}-{ep}-{'-'.join(overrides)}"
    recipe = {"model": {"path": str(golden / "model")}, "adapter": {"init_from": str(golden / "lora" / "adapter")},
              "data": {"train": [str(folder / "tokens.safetensors")], "shuffle": False}, "save": {"dir": str(out)},
              "dist": {"device": device, "backend": "gloo"}, "mesh": {"ep": ep, "fsdp": 1, "replicate": ranks // ep},
              "train": {"steps": 3, "batch_size": 4, "micro_batch_size": 1, "learning_rate": 1e-3}, "log": {"tensorboard": False}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    command = [program, "train", str(folder / "recipe.json"), *overrides, *(["--ranks", str(ranks)] if ranks > 1 else [])]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=dict(os.environ, MORAINE_POISON="1"))
    if ended.returncode != 0:
        sys.exit(f"FAILED: {' '.join(command)}: exit {ended.returncode}\n{ended.stdout[-1500:]}{ended.stderr[-1500:]}")
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(step["loss"], step["grad_norm"]) for step in steps], (out / "adapter" / "adapter_model.safetensors").read_bytes()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--golden", default="qwen3_moe-fp32")
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder, golden = pathlib.Path(temporary), GOLDENS / a.golden
        write_tokens(folder / "tokens.safetensors", training_rows(golden))
        for (ranks, ep), cells in (CELLS if a.golden == "qwen3_moe-fp32" else CELLS_OF_OTHERS).items():
            wanted = train(a.program, folder, golden, a.device, ranks, ep, [])
            for overrides in cells:
                found = train(a.program, folder, golden, a.device, ranks, ep, overrides)
                same = found == wanted and len(found[0]) == 3
                failures += not same
                print(f"{a.golden}, {a.device}, {ranks} ranks, ep {ep}, {' '.join(overrides)}: "
                      f"{'the same bits' if same else f'FAILED: {found[0]}, without {wanted[0]}'}", flush=True)
    sys.exit(1 if failures else 0)


main()
