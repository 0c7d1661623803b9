"""The golden training curve on many meshes: every combination of ranks, ep and fsdp gives the losses of one rank.

  python3 mesh_equality_test.py PROGRAM [--golden NAME] [--torchrun PATH]     (standard library only)

Trains tests/golden/NAME (qwen3_moe-fp32; other families on a few meshes) from its adapter for 12 steps in fp32. Losses and gradient
norms must agree with one rank within 1e-5 and with transformers + PEFT (train.json) within 1e-4; final adapters with one rank's within
1e-4 of their largest element. Of Qwen3.5 only three steps are compared with PEFT: this model amplifies rounding, transformers' own too
(see tests/golden/families.json).
"""
import argparse
import array
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from families import GOLDENS, facts_of  # noqa: E402

GOLDEN = GOLDENS / "qwen3_moe-fp32"
# ranks, ep, fsdp, replicate
MESHES = [(1, 1, 1, 1), (2, 1, 2, 1), (2, 2, 1, 1), (2, 2, 2, 1), (2, 1, 1, 2), (3, 1, 3, 1), (3, 3, 3, 1), (4, 1, 4, 1),
          (4, 2, 4, 1), (4, 2, 2, 1), (4, 4, 4, 1), (4, 2, 2, 2)]
MESHES_OF_OTHERS = [(1, 1, 1, 1), (2, 2, 1, 1), (3, 3, 3, 1), (4, 2, 4, 1), (4, 2, 2, 2), (4, 4, 4, 1)]


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        values = array.array({"F32": "f", "I64": "q"}[entry["dtype"]])
        values.frombytes(data[8 + length + begin:8 + length + end])
        tensors[name] = (entry["shape"], values)
    return tensors


def write_tokens(path, columns):
    """columns: name -> list of rows."""
    header, body = {}, b""
    for name, rows in columns.items():
        raw = array.array("q", [v for row in rows for v in row]).tobytes()
        header[name] = {"dtype": "I64", "shape": [len(rows), len(rows[0])], "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def training_rows(golden=GOLDEN):
    """The three golden batches of two rows each, as six rows of one width."""
    batches = read_safetensors(golden / "lora" / "train_batches.safetensors")
    width = max(shape[1] for shape, _ in batches.values())
    columns = {}
    for name, fill in (("input_ids", 0), ("attention_mask", 0), ("labels", -100)):
        columns[name] = []
        for batch in range(3):
            (rows, length), values = batches[f"{batch}.{name}"]
            columns[name] += [list(values[r * length:(r + 1) * length]) + [fill] * (width - length) for r in range(rows)]
    return columns


def train(program, folder, mesh, launcher=None, overrides=(), golden=GOLDEN):
    ranks, ep, fsdp, replicate = mesh
    out = folder / f"run-{golden.name}-{'-'.join(map(str, mesh))}{'-t' if launcher else ''}{'-'.join(overrides)}"
    recipe = {"model": {"path": str(golden / "model"), "dtype": "float32"}, "adapter": {"init_from": str(golden / "lora" / "adapter")},
              "data": {"train": [str(folder / "tokens.safetensors")], "shuffle": False},
              "mesh": {"ep": ep, "fsdp": fsdp, "replicate": replicate}, "save": {"dir": str(out)},
              "train": {"steps": 12, "batch_size": 2, "learning_rate": 1e-3, "weight_decay": 0.01, "warmup_steps": 2},
              "log": {"tensorboard": False}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    command = (launcher or []) + [program, "train", str(folder / "recipe.json"), *overrides]
    if ranks > 1 and not launcher:
        command += ["--ranks", str(ranks)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if ended.returncode != 0:
        sys.exit(f"{' '.join(command)} {mesh}: exit {ended.returncode}\n{ended.stdout[-1500:]}{ended.stderr[-1500:]}")
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return steps, read_safetensors(out / "adapter" / "adapter_model.safetensors")


def peak_memory(program, folder, lengths):
    """peak_memory_bytes after a step of a row of so many tokens per rank."""
    width = max(lengths)
    rows = [[1 + column % 50 for column in range(width)] for _ in lengths]
    mask = [[int(column < length) for column in range(width)] for length in lengths]
    write_tokens(folder / "rows.safetensors", {"input_ids": rows, "attention_mask": mask})
    out = folder / f"peak-{'-'.join(map(str, lengths))}"
    recipe = {"model": {"path": str(GOLDEN / "model")}, "data": {"train": [str(folder / "rows.safetensors")], "shuffle": False},
              "train": {"steps": 1}, "save": {"dir": str(out)}, "log": {"tensorboard": False}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    subprocess.run([program, "train", folder / "recipe.json", "--ranks", str(len(lengths))], check=True, capture_output=True, timeout=300)
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["peak_memory_bytes"]


def largest_difference(a, b):
    """Over all tensors: max |a - b| / max |b|."""
    worst = 0.0
    for name, (_, values) in b.items():
        scale = max(abs(v) for v in values)
        worst = max(worst, max(abs(x - y) for x, y in zip(a[name][1], values)) / scale)
    return worst


def check_meshes(program, folder, golden, meshes, peft_steps):
    """The first `peft_steps` of the curve's 12 are compared with PEFT's, all of them and the adapter with one rank's."""
    reference = json.loads((golden / "lora" / "train.json").read_text())["steps"][:peft_steps]
    write_tokens(folder / "tokens.safetensors", training_rows(golden))
    failures, one_rank, one_adapter = 0, None, None
    for mesh in meshes:
        steps, adapter = train(program, folder, mesh, golden=golden)
        if one_rank is None:
            one_rank, one_adapter = steps, adapter
        loss = max(abs(s["loss"] - o["loss"]) for s, o in zip(steps, one_rank))
        norm = max(abs(s["grad_norm"] / o["grad_norm"] - 1) for s, o in zip(steps, one_rank))
        peft = max(abs(s["loss"] - g["loss"]) for s, g in zip(steps, reference))
        peft_norm = max(abs(s["grad_norm"] / g["grad_norm"] - 1) for s, g in zip(steps, reference))
        weights = largest_difference(adapter, one_adapter)
        ok = (len(steps) == 12 and loss <= 1e-5 and norm <= 1e-5 and peft <= 1e-4 and peft_norm <= 1e-4
              and weights <= 1e-4 and adapter.keys() == one_adapter.keys())
        failures += not ok
        print(f"ranks {mesh[0]} ep {mesh[1]} fsdp {mesh[2]} replicate {mesh[3]}: against one rank loss {loss:.1e}, grad_norm {norm:.1e}, "
              f"adapter {weights:.1e}; against PEFT loss {peft:.1e}, grad_norm {peft_norm:.1e}{'' if ok else '  FAILED'}", flush=True)
    return failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--golden", default=GOLDEN.name)
    parser.add_argument("--torchrun", help="also run two ranks under this torchrun: the same losses bit for bit")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        if a.golden != GOLDEN.name:
            steps = facts_of(a.golden).get("steps_that_equal_peft", 12)
            sys.exit(1 if check_meshes(a.program, folder, GOLDENS / a.golden, MESHES_OF_OTHERS, steps) else 0)
        failures = check_meshes(a.program, folder, GOLDEN, MESHES, 12)
        sharded, _ = train(a.program, folder, (4, 2, 4, 1))
        for overrides in (["mesh.resident=300KiB"], ["mesh.resident=1GiB"], ["mesh.resident=1GiB", "train.recompute=none"]):
            kept, _ = train(a.program, folder, (4, 2, 4, 1), overrides=overrides)
            same = [s["loss"] for s in kept] == [s["loss"] for s in sharded]
            failures += not same
            print(f"{' '.join(overrides)}: losses {'equal those of gathered weights bit for bit' if same else 'differ  FAILED'}")
        # What a step reports is the memory of the rank that needs the most, also when that is not rank 0.
        short, long = peak_memory(a.program, folder, (8, 8)), peak_memory(a.program, folder, (8, 2048))
        failures += long < 1.1 * short
        print(f"peak memory {short / 1e6:.0f} MB, {long / 1e6:.0f} MB when rank 1 has a long row{'  FAILED' if long < 1.1 * short else ''}")
        if a.torchrun:
            launcher = [a.torchrun, "--no-python", "--nproc-per-node", "2"]
            by_torchrun, _ = train(a.program, folder, (2, 2, 2, 1), launcher)
            by_ranks, _ = train(a.program, folder, (2, 2, 2, 1))
            same = [s["loss"] for s in by_torchrun] == [s["loss"] for s in by_ranks]
            failures += not same
            print(f"torchrun --nproc-per-node 2: losses {'equal those of --ranks 2 bit for bit' if same else 'differ  FAILED'}")
        else:
            print("torchrun was not found: the part under torchrun was not run")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":  # hosts_test.py imports the helpers
    main()
