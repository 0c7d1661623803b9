"""Ranks and experts without tokens for 50 steps: no hang, and the losses and the adapter of one process.

  python3 zero_tokens_test.py PROGRAM     (standard library only)

A copy of the golden checkpoint whose router sends every token to one of the experts 0 to 2, so that with ep 4 most ranks'
experts never see a token; and one row per step for four ranks, so that three ranks have no rows of their own.
"""
import array
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "qwen3_moe-fp32"
STEPS = 50


def edit_tensors(path, edit):
    """Calls edit(name, shape, values) on every F32 tensor of the file; what it returns replaces the values."""
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    for name, entry in json.loads(bytes(data[8:8 + length])).items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        values = array.array("f")
        values.frombytes(bytes(data[begin:end]))
        changed = edit(name, entry["shape"], values)
        if changed is not None:
            data[begin:end] = changed.tobytes()
    path.write_bytes(data)


def force_routing(name, shape, values):
    """The first three rows of each router's weight add up to zero, so the largest of their logits is never negative; the others
    are zero. With one expert per token, only the first three are chosen; main() checks that."""
    if not name.endswith("mlp.gate.weight"):
        return None
    experts, hidden = shape
    v, w = list(values[:hidden]), list(values[hidden:2 * hidden])
    rows = [[100 * x for x in v], [-50 * x + 100 * y for x, y in zip(v, w)], [-50 * x - 100 * y for x, y in zip(v, w)]]
    rows += [[0.0] * hidden for _ in range(experts - 3)]
    return array.array("f", [x for row in rows for x in row])


def train(program, folder, model, ranks, ep):
    out = folder / f"run-{ranks}-{ep}"
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps({
        "model": {"path": str(model)}, "data": {"train": [str(GOLDEN / "batch.safetensors")], "shuffle": False},
        "mesh": {"ep": ep}, "train": {"steps": STEPS, "batch_size": 1, "learning_rate": 1e-3}, "save": {"dir": str(out)},
        "log": {"every": 1000}}))
    command = [program, "train", str(recipe)] + (["--ranks", str(ranks)] if ranks > 1 else [])
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
    if ended.returncode != 0:
        sys.exit(f"FAILED: {ranks} ranks, ep {ep}: exit {ended.returncode}\n{ended.stderr[-1500:]}")
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    tensors = {}
    edit_tensors(out / "adapter" / "adapter_model.safetensors", lambda name, shape, values: tensors.update({name: (shape, values)}))
    return steps, tensors


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        model = folder / "model"
        shutil.copytree(GOLDEN / "model", model)
        for file in model.glob("*.safetensors"):
            edit_tensors(file, force_routing)
        config = json.loads((model / "config.json").read_text())
        config["num_experts_per_tok"] = 1
        (model / "config.json").write_text(json.dumps(config))
        expected, adapter = train(program, folder, model, 1, 1)
        # Only experts 0 to 2 are ever trained: every column of B of another expert is still zero.
        experts = config["num_experts"]
        for name, (shape, values) in adapter.items():
            if "mlp.experts" in name and "lora_B" in name:
                trained = {index % experts for index, value in enumerate(values) if value != 0}
                if not trained or not trained <= {0, 1, 2}:
                    sys.exit(f"FAILED: {name}: experts {sorted(trained)} were trained, expected only 0, 1 and 2")
        failures = 0
        for ranks, ep in ((4, 4), (4, 2), (2, 2)):
            steps, other = train(program, folder, model, ranks, ep)
            loss = max(abs(s["loss"] - e["loss"]) for s, e in zip(steps, expected))
            norm = max(abs(s["grad_norm"] / e["grad_norm"] - 1) for s, e in zip(steps, expected))
            weights = max(max(abs(x - y) for x, y in zip(other[name][1], values)) / max(map(abs, values))
                          for name, (_, values) in adapter.items() if any(values))
            ok = len(steps) == STEPS and loss <= 1e-5 and norm <= 1e-4 and weights <= 1e-3
            failures += not ok
            print(f"{ranks} ranks, ep {ep}, {STEPS} steps: loss {loss:.1e}, grad_norm {norm:.1e}, adapter {weights:.1e}"
                  f"{'' if ok else '  FAILED'}", flush=True)
    sys.exit(1 if failures else 0)


main()
