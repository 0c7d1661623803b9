"""Loading a checkpoint: moraine beside plain reads, twinkle and fastsafetensors, on the same files in one run.

  cmake --build --preset release --target load_speed
  python bench/load.py --program build/moraine [--twinkle PYTHON] [--fastsafetensors PYTHON] [--preset medium] [--rounds 3]

PYTHON: an interpreter that has twinkle-kit 0.5.1 (with transformers 5.18), or fastsafetensors 0.5.0. Every contender reads a random
checkpoint from a warm page cache; they alternate, `--rounds` times each, and medians are printed. "load" is what a contender says
of itself, from before the first read until the weights are in their places (plain reads: in fresh memory); "wall" is the whole
command with its start. Memory is sampled over the process tree: VmHWM of the worst process, and the sum of PSS (shared pages
counted once), which is what the node pays. moraine's ranks split the experts (ep = ranks) and the rest between them. Its share of
plain reads' speed is measured apart, by load_speed beside the program: both turn by turn in the same ranks, the best of each, because
what a virtual machine's host takes for giving memory only ever adds (the medians are printed too).
"""
import argparse
import collections
import json
import os
import pathlib
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from presets import PRESETS, PYTHON_ENVIRONMENT, make_model

HERE = pathlib.Path(__file__).parent
MB = 1e6
FASTSAFETENSORS = """
import glob, json, sys, time
from fastsafetensors import SafeTensorsFileLoader, SingleGroup
start = time.monotonic()
loader = SafeTensorsFileLoader(SingleGroup(), "cpu", nogds=True)
loader.add_filenames({0: sorted(glob.glob(sys.argv[1] + "/*.safetensors"))})
buffer = loader.copy_files_to_device()
kept = [buffer.get_tensor(key) for key in loader.get_keys()]
seconds = time.monotonic() - start
json.dump({"load_seconds": seconds, "bytes": sum(t.numel() * t.element_size() for t in kept)}, open(sys.argv[2], "w"))
"""
# Seconds: load, verify (after it), wall, cpu. MB: hwm, pss, read.
Run = collections.namedtuple("Run", "load verify wall cpu hwm pss read")


def process_tree(root):
    """Of programs whose main thread starts the others."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        try:
            todo += map(int, open(f"/proc/{pid}/task/{pid}/children").read().split())
        except OSError:  # it has ended
            pass
    return found


def kilobytes(path, key):
    try:
        for line in open(path):
            if line.startswith(key):
                return int(line.split()[1])
    except OSError:  # it has ended
        pass
    return 0


def own_memory(pids):
    """MB that are not mapped files, cheaply."""
    pages = 0
    for pid in pids:
        try:
            _, resident, shared, *_ = map(int, open(f"/proc/{pid}/statm").read().split())
            pages += resident - shared
        except OSError:
            pass
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


class WarmMemory:
    """The files in the page cache, which idle pages may have left, and memory for the contender: a virtual machine's host takes free
    memory back within a second, and giving it again costs several times what reading into it does. So it is held until the
    contender itself begins to take memory."""

    def __init__(self, folder, files, copies):
        self.holder = subprocess.Popen([folder / "warm_memory", str(os.cpu_count()), *files * copies],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.holder.stdout.readline()

    def release(self):
        self.holder.stdin.close()
        self.holder.wait()


def watch(command, threads, memory, start_memory, python=False):
    """Runs a command, and releases `memory` (WarmMemory) when it has more than `start_memory` MB, which it takes before it loads.
    (Output, wall seconds, CPU seconds of all its processes, VmHWM of the worst and the peak sum of PSS in MB.)"""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), **(PYTHON_ENVIRONMENT if python else {}))
    with tempfile.TemporaryFile("w+") as log:
        start = time.monotonic()
        process = subprocess.Popen([str(c) for c in command], env=environment, stdout=log, stderr=subprocess.STDOUT)
        ended = queue.Queue()
        threading.Thread(target=lambda: ended.put((*os.wait4(process.pid, 0), time.monotonic()))).start()
        hwm = pss = cost = 0
        sampled = start
        while True:
            try:
                _, status, usage, end = ended.get(timeout=0.05 if memory is None else 0.01)
                break
            except queue.Empty:
                pids = process_tree(process.pid)
            if memory and own_memory(pids) > start_memory:
                memory = memory.release()
            before = time.monotonic()
            if before - sampled < max(0.05, 12 * cost):  # the kernel walks page tables for a sample: not too often
                continue
            pss = max(pss, sum(kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids))
            hwm = max([hwm] + [kilobytes(f"/proc/{pid}/status", "VmHWM:") for pid in pids])
            sampled = time.monotonic()
            cost = sampled - before
        if memory:
            memory.release()
        log.seek(0)
        output = log.read()
    if status != 0:
        sys.exit(f"bench: {' '.join(map(str, command))} failed:\n{output[-2000:]}")
    return output, end - start, usage.ru_utime + usage.ru_stime, max(hwm, usage.ru_maxrss) * 1024 / MB, pss * 1024 / MB


def threads_of(a, ranks):
    return max(1, a.threads // ranks)


def moraine(a, folder, memory, ranks, mode, verify):
    command = [a.program, "verify", folder / "recipe.yaml", f"mesh.ep={ranks}", f"load.mode={mode}", f"load.verify={verify}",
               "--ranks", ranks, "--json"]
    output, wall, cpu, hwm, pss = watch(command, threads_of(a, ranks), memory, 80 * (ranks + 1))
    report = json.loads(output)["ranks"]
    load = max(r["read_seconds"] for r in report)
    verification = max(r["seconds"] - r["read_seconds"] for r in report)
    hwm = max([hwm] + [r["peak_rss_bytes"] / MB for r in report])
    return Run(load, verification, wall, cpu, hwm, pss, sum(r["bytes_read"] + r["bytes_verify_read"] for r in report) / MB)


def share_of_pread(a, folder, files, ranks):
    """Speed of a load / of plain reads: of the best of each, and of the medians."""
    memory = WarmMemory(folder, files, 1)
    command = [pathlib.Path(a.program).parent / "load_speed", "--ranks", ranks, 16, f"model.path={folder / 'model'}",
               "data.train=[not read]", f"save.dir={folder / 'run'}", f"mesh.ep={ranks}"]
    output, *_ = watch(command, threads_of(a, ranks), memory, 80 * (ranks + 1))
    pairs = [json.loads(line) for line in output.splitlines()]
    return tuple(of(pair["pread"] for pair in pairs) / of(pair["load"] for pair in pairs) for of in (min, statistics.median))


def twinkle(a, folder, memory, ranks):
    out = folder / "twinkle.json"
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    _, *rest = watch([a.twinkle, *launch, HERE / "twinkle_step.py", folder, "--steps", 0, "--out", out], threads_of(a, ranks),
                     memory, 300 * (ranks + 1), True)
    # It maps the files: what it reads is not counted.
    return Run(json.loads(out.read_text())["load_seconds"], 0, *rest, float("nan"))


def fastsafetensors(a, folder, memory):
    out = folder / "fastsafetensors.json"
    _, *rest = watch([a.fastsafetensors, "-c", FASTSAFETENSORS, folder / "model", out], a.threads, memory, 200, True)
    result = json.loads(out.read_text())
    return Run(result["load_seconds"], 0, *rest, result["bytes"] / MB)


def print_ratios(a, rows, size, shares):
    """`rows`: contender -> Run of medians; `shares`: ranks -> what share_of_pread found."""
    print(f"\n{'moraine, load.verify=off':30} {'of pread speed':>15} {'x twinkle':>10} {'x twinkle wall':>15} {'x fastsafet.':>13} "
          f"{'node peak / limit':>18} {'verify full':>12} {'CPU of it':>12}")
    print(f"{'wanted':30} {'>= 0.85':>15} {'>= 8':>10} {'':>15} {'> 1':>13} {'<= 1':>18}")
    for ranks in a.ranks:
        for mode in a.modes:
            own, full = rows[f"moraine {ranks} ranks {mode} off"], rows[f"moraine {ranks} ranks {mode} full"]
            peer, single = rows.get(f"twinkle {ranks} ranks"), rows.get("fastsafetensors 1 process")
            limit = 1.15 * size + 150 * ranks  # MB: the weights once, some slack, and the program itself on every rank
            share = f"{shares[ranks][0]:.2f}" if mode == "direct" else "-"
            print(f"{f'{ranks} ranks {mode}':30} {share:>15} "
                  f"{f'{peer.load / own.load:.1f}' if peer else '-':>10} {f'{peer.wall / own.wall:.1f}' if peer else '-':>15} "
                  f"{f'{single.load / own.load:.1f}' if single else '-':>13} {own.pss / limit:18.2f} "
                  f"{f'{full.verify:.2f} s':>12} {f'{full.cpu - own.cpu:+.2f} s':>12}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/moraine")
    parser.add_argument("--twinkle", metavar="PYTHON", help="left out: not run")
    parser.add_argument("--fastsafetensors", metavar="PYTHON", help="left out: not run")
    parser.add_argument("--preset", choices=PRESETS, default="medium")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the node, shared out over the ranks")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--modes", nargs="+", default=["direct", "node", "rank0"])
    a = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        files = sorted(make_model(a.program, a.preset, folder).glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files) / MB
        (folder / "recipe.yaml").write_text(json.dumps({
            "model": {"path": str(folder / "model")}, "data": {"train": ["not read"]}, "save": {"dir": str(folder / "run")}}))
        subprocess.run(["c++", "-O2", "-std=c++20", HERE / "warm_memory.cpp", "-o", folder / "warm_memory"], check=True)
        contenders = {}
        for ranks in a.ranks:
            for mode in a.modes:
                for verify in ("off", "full"):
                    contenders[f"moraine {ranks} ranks {mode} {verify}"] = lambda m, c=(ranks, mode, verify): moraine(a, folder, m, *c)
            if a.twinkle:
                contenders[f"twinkle {ranks} ranks"] = lambda m, r=ranks: twinkle(a, folder, m, r)
        if a.fastsafetensors:
            contenders["fastsafetensors 1 process"] = lambda m: fastsafetensors(a, folder, m)
        for name in ("twinkle", "fastsafetensors"):
            if not getattr(a, name):
                print(f"{name} is not run: --{name} names no interpreter")
        runs = {name: [] for name in contenders}
        for _ in range(a.rounds):
            for name, contender in contenders.items():
                runs[name].append(contender(WarmMemory(folder, files, 3 if name.startswith("twinkle") else 1)))
        rows = {name: Run(*map(statistics.median, zip(*of_one))) for name, of_one in runs.items()}
        print(f"preset {a.preset}, {size:.0f} MB in {len(files)} file(s), {a.threads} threads a node, {a.rounds} rounds, medians")
        print(f"{'':30} {'load s':>8} {'GB/s':>6} {'verify s':>9} {'wall s':>8} {'CPU s':>8} {'worst HWM MB':>13} "
              f"{'node PSS MB':>12} {'read MB':>9}")
        for name, row in rows.items():
            print(f"{name:30} {row.load:8.2f} {size / 1e3 / row.load:6.2f} {row.verify:9.2f} {row.wall:8.2f} {row.cpu:8.2f} {row.hwm:13.0f} "
                  f"{row.pss:12.0f} {'' if row.read != row.read else f'{row.read:.0f}':>9}")
        shares = {ranks: share_of_pread(a, folder, files, ranks) for ranks in a.ranks}
        for ranks, (best, median) in shares.items():
            print(f"share of plain reads' speed, {ranks} ranks: {best:.2f} of the best rounds, {median:.2f} of the medians")
        print_ratios(a, rows, size, shares)


main()
