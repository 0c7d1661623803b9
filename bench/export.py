"""Exporting a large adapter: its time beside a plain write of as many bytes, and its peak memory beside its largest tensor.

  python bench/export.py --program build/moraine [--rank 256] [--rounds 5]

A random Qwen3-MoE is trained for one step on 8 ranks (ep 4 × ep_fsdp 2) with adapters of that rank on every linear layer and on all experts, and
once more with outer factors that all experts share. The adapter is then exported to each layout, and merged with itself by merge-adapters;
after each, the bytes that were written are written and synced again by dd. All of them take turns, round by round; the first round, in which
the page cache finds its memory, does not count, and of the others the medians do. Printed: wall and CPU seconds of both, how many
times as long the export takes, without the start of the program (that of `moraine --version`), and its peak memory above that of
`moraine --version`, less the largest tensor of what it reads and writes. Exits 1 where an export takes more than twice as long, or a command
more than 64 MiB; merge-adapters, which reads twice what export does, is held to the memory alone. Standard library only.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

from presets import make_model

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "ranks"))
from mesh_equality_test import write_tokens  # noqa: E402

MIB = 2**20
LAYOUTS = ("peft", "peft-0.19.0", "per-expert", "vllm", "sglang")


def measured(command):
    """(wall seconds, CPU seconds, peak memory in bytes) of a command that must succeed."""
    start = time.perf_counter()
    # A child's peak begins with its parent's memory: this process has to stay small.
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command[:2]} ended with {child.returncode}: {error.decode()[-1000:]}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def largest_tensor(adapter):
    with open(adapter / "adapter_model.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return max(end - begin for begin, end in (value["data_offsets"] for key, value in header.items() if key != "__metadata__"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/moraine")
    parser.add_argument("--rank", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    program, dice, failures = pathlib.Path(a.program).resolve(), random.Random(0), 0
    with tempfile.TemporaryDirectory(prefix="moraine-export-") as temporary:
        folder = pathlib.Path(temporary)
        model = make_model(program, "small", folder)
        rows = [[dice.randrange(32000) for _ in range(32)] for _ in range(8)]
        write_tokens(folder / "tokens.safetensors", {"input_ids": rows, "labels": rows})
        for experts in ("each", "shared_outer"):
            (folder / "recipe.json").write_text(json.dumps({
                "model": {"path": str(model)}, "data": {"train": [str(folder / "tokens.safetensors")]},
                "adapter": {"r": a.rank, "lora_alpha": a.rank, "experts": experts}, "train": {"steps": 1, "batch_size": 8}, "mesh": {"ep": 4},
                "log": {"tensorboard": False}, "save": {"dir": str(folder / experts)}}))
            subprocess.run([program, "train", folder / "recipe.json", "--ranks", "8"], check=True, stdout=subprocess.DEVNULL,
                           env=dict(os.environ, OMP_NUM_THREADS="1"))
        adapter, shared, out = folder / "each" / "adapter", folder / "shared_outer" / "adapter", folder / "out"
        starts = [measured([program, "--version"]) for _ in range(a.rounds)]
        start, start_cpu, base = (statistics.median(column) for column in zip(*starts))
        print(f"adapter: {(adapter / 'adapter_model.safetensors').stat().st_size / MIB:.0f} MiB, of 8 ranks (ep 4 × ep_fsdp 2); "
              f"program start {start:.2f} s, CPU {start_cpu:.2f} s, {base / MIB:.0f} MiB; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
        flags = ["--model", model, "--out", out]
        commands = {layout: (adapter, ["export", "--layout", layout, *flags, "--adapter", adapter]) for layout in LAYOUTS}
        commands["shared-outer"] = (shared, ["export", "--layout", "shared-outer", *flags, "--adapter", shared])
        for method in ("cat", "linear"):
            commands[f"merge-adapters {method}"] = (adapter, ["merge-adapters", "--method", method, *flags, "--adapter", adapter, "--adapter", adapter])
        runs, writes, written = ({name: [] for name in commands} for _ in range(3))
        for _ in range(a.rounds + 1):
            for name, (_, command) in commands.items():
                shutil.rmtree(out, ignore_errors=True)
                runs[name].append(measured([program, *command]))
                source = out / "adapter_model.safetensors"  # which the page cache has
                writes[name].append(measured(["dd", f"if={source}", f"of={folder / 'plain'}", "bs=1M", "conv=fsync"]))
                (folder / "plain").unlink()
                written[name] = (source.stat().st_size, largest_tensor(out))
        print(f"  {'':22} {'MiB':>6} {'export: s':>10} {'CPU s':>7} {'write: s':>9} {'CPU s':>7} {'ratio':>6} {'memory over base and tensor':>28}")
        for name, (source, command) in commands.items():
            wall, cpu, _ = (statistics.median(column) for column in zip(*runs[name][1:]))
            write_wall, write_cpu, _ = (statistics.median(column) for column in zip(*writes[name][1:]))
            size, largest = written[name]
            over = max(memory for _, _, memory in runs[name]) - base - max(largest_tensor(source), largest)
            ratio = (wall - start) / write_wall
            good = (ratio <= 2 or command[0] != "export") and over <= 64 * MIB
            failures += not good
            print(f"  {name:22} {size / MIB:6.0f} {wall:10.2f} {cpu:7.2f} {write_wall:9.2f} {write_cpu:7.2f} {ratio:6.2f} "
                  f"{over / MIB:24.0f} MiB{'' if good else '  too much'}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
