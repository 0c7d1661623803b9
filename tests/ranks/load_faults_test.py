"""Loading on many ranks, in every mode: what goes wrong is caught and named, and slow storage is no error.

  python3 load_faults_test.py PROGRAM LOAD_WORKER     (standard library only)
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from faults_test import children, wait_until

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "qwen3_moe-fp32"
MODES = {"direct": [], "node by shm": ["load.mode=node", "load.node_transport=shm"],
         "node by p2p": ["load.mode=node", "load.node_transport=p2p"],
         "node by collective": ["load.mode=node", "load.node_transport=collective"], "rank0": ["load.mode=rank0"]}
LIMIT = 10.0  # seconds from a rank's death to the end


def worker(program, ranks, fault, overrides, seconds=60):
    return subprocess.run([program, "--ranks", str(ranks), fault, f"model.path={GOLDEN / 'model'}", *overrides],
                          capture_output=True, text=True, timeout=seconds)


def one_error(process, *words):
    lines = [line for line in process.stderr.splitlines() if line]
    if process.returncode != 1 or len(lines) != 1 or not all(word in lines[0] for word in ("moraine: error: ", *words)):
        return f"exit {process.returncode}, wanted one line with {words}:\n{process.stderr[-800:]}{process.stdout[-200:]}"
    return None


def overwritten_experts(program):
    """The field's bug: every rank's experts are rank 0's."""
    for name, mode in MODES.items():
        for victim in (1, 3):
            yield f"overwritten experts of rank {victim}, {name}", one_error(
                worker(program, 4, f"overwrite:{victim}:0", ["mesh.ep=4", *mode]), ".mlp.experts.", f"rank {victim}",
                ".safetensors", "differs from the file")
        yield f"a flipped bit, {name}", one_error(worker(program, 3, "flip:2", ["mesh.ep=3", *mode]), "model.layers.3.mlp.experts.",
                                                  "rank 2", "differs from the file")


def sound_loads(program):
    for name, mode in MODES.items():
        for ranks, mesh in ((1, []), (2, ["mesh.ep=1"]), (3, ["mesh.ep=3"]), (4, ["mesh.ep=2"]),
                            (4, ["mesh.ep=2", "mesh.replicate=2", "mesh.fsdp=1"])):
            process = worker(program, ranks, "none", [*mesh, *mode])
            wanted = f"verified {ranks} ranks" in process.stdout and process.returncode == 0
            yield f"{ranks} ranks {' '.join(mesh)}, {name}", None if wanted else process.stderr[-500:]


def other_families(program, load_worker, folder):
    """FP8 and FP4 weights with scales, fused experts, hash-routed layers: eight experts over three ranks."""
    for family in ("qwen3_5_moe-bf16", "deepseek_v4-bf16", "deepseek_v4-fp8fp4"):
        model = folder / family
        subprocess.run([program, "init", "--config", GOLDEN.parent / "headers" / family / "config.json", "--out", model],
                       check=True, capture_output=True)
        for name in ("direct", "node by shm", "rank0"):
            process = subprocess.run([load_worker, "--ranks", "3", "parts:60000", f"model.path={model}", "mesh.ep=3", *MODES[name]],
                                     capture_output=True, text=True)
            yield f"{family} on 3 ranks, {name}", None if "verified 3 ranks, in parts as at once" in process.stdout else process.stderr[-500:]


def sleeping_reader(program):
    def load(mode):
        start = time.monotonic()
        process = worker(program, 2, "sleep:8", ["mesh.ep=2", "dist.timeout_seconds=5", *mode])
        slept = time.monotonic() - start >= 8
        return None if process.returncode == 0 and slept else f"exit {process.returncode}, slept {slept}: {process.stderr[-500:]}"

    with ThreadPoolExecutor(2) as pool:
        for name, failure in zip(MODES, pool.map(load, MODES.values())):
            yield f"a reader asleep for longer than dist.timeout_seconds, {name}", failure


def killed_while_loading(program):
    for name, mode in MODES.items():
        for victim in range(3):
            process = subprocess.Popen([program, "--ranks", "3", "slow:500", f"model.path={GOLDEN / 'model'}", "mesh.ep=3", *mode],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            what = f"SIGKILL of rank {victim} while loading, {name}"
            if process.stdout.readline() != "loading\n":
                process.kill()
                yield what, "never began to load: " + process.communicate()[1][-500:]
                continue
            ranks = wait_until(lambda: (lambda r: r if len(r) == 3 else None)(children(process.pid)), process)
            time.sleep(0.3)  # into the slow reads
            hurt = time.monotonic()
            os.kill(ranks[victim], signal.SIGKILL)
            try:
                _, err = process.communicate(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                yield what, "still running after 10 s"
                continue
            alive = [rank for rank, pid in ranks.items() if pathlib.Path(f"/proc/{pid}").exists()]
            lines = [line for line in err.splitlines() if line]
            good = process.returncode == 1 and len(lines) == 1 and f"rank {victim}: killed by signal 9" in lines[0] and not alive
            yield f"{what}: {time.monotonic() - hurt:.1f} s", None if good else f"exit {process.returncode}, alive {alive}:\n{err[-600:]}"


def same_losses(program, folder):
    """Training after each mode: the same adapter bit for bit. In mode rank0 no other rank needs the files."""
    for mesh in (["--ranks", "2", "mesh.ep=2"], ["--ranks", "4", "mesh.ep=2"], ["--ranks", "4", "mesh.ep=2", "mesh.replicate=2"]):
        results = {}
        for mode, keys in MODES.items():
            out = folder / "run"
            shutil.rmtree(out, ignore_errors=True)
            recipe = folder / "recipe.json"
            recipe.write_text(json.dumps({
                "model": {"path": str(GOLDEN / "model")}, "save": {"dir": str(out)}, "train": {"steps": 2, "batch_size": 3},
                "data": {"train": [str(GOLDEN / "batch.safetensors")], "shuffle": False}}))
            process = subprocess.run([program, "train", str(recipe), *mesh, *keys], capture_output=True, text=True)
            if process.returncode != 0:
                yield f"training on {mesh}, {mode}", process.stderr[-500:]
                continue
            losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
            results[mode] = (losses, (out / "adapter" / "adapter_model.safetensors").read_bytes())
            ranks = json.loads((out / "load.json").read_text())["ranks"]
            if not all(rank["verified"] for rank in ranks):
                yield f"load.json of {mesh}, {mode}", "not every rank is verified"
        yield f"same losses and adapters in every mode on {' '.join(mesh)}", (
            None if len({str(losses) + adapter.hex() for losses, adapter in results.values()}) == 1 else "they differ")


def main():
    program, load_worker = sys.argv[1:3]
    failures = 0
    with tempfile.TemporaryDirectory(prefix="moraine-load-") as folder, ThreadPoolExecutor(2) as pool:
        folder = pathlib.Path(folder)
        # Those that mostly wait run beside those that compute.
        groups = [sleeping_reader(load_worker), sound_loads(load_worker), killed_while_loading(load_worker),
                  other_families(program, load_worker, folder), overwritten_experts(load_worker), same_losses(program, folder)]
        for cases in pool.map(list, groups):
            for what, failure in cases:
                failures += failure is not None
                print(f"{'FAILED' if failure else 'ok    '}  {what}" + (f"\n{failure}" if failure else ""), flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
