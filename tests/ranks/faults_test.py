"""A rank that dies or stops ends the run: within 10 s, exit 1, one line that names it, no process left.

  python3 faults_test.py PROGRAM [--torchrun PATH]     (standard library only)
"""
import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "qwen3_moe-fp32"
RANKS = 3
LIMIT = 10.0  # seconds from the fault to the end


def children(pid):
    """The ranks, by rank, as their names tell ("moraine:3")."""
    ranks = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent != pid:
                continue
            name = (entry / "comm").read_text().strip()
        except (OSError, IndexError):
            continue
        if name.startswith("moraine:"):
            ranks[int(name.removeprefix("moraine:"))] = int(entry.name)
    return ranks


def wait_until(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        if process.poll() is not None:
            return None
        time.sleep(0.005)
    return None


def steps_done(out):
    try:
        return (out / "metrics.jsonl").read_text().count("\n")
    except OSError:
        return -1


# When the fault happens: a condition on the run folder.
STAGES = {
    "load": lambda out: True,                       # as soon as all ranks are there
    "first step": lambda out: steps_done(out) == 0,  # the metrics file is open, no step is done
    "later step": lambda out: steps_done(out) >= 3,
}


def run_case(program, folder, stage, victim, fault, torchrun=None):
    """torchrun ends the other ranks as soon as it sees one die, and adds a report of its own."""
    out = folder / f"{stage.replace(' ', '-')}-{victim}-{fault.name}{'-torchrun' if torchrun else ''}"
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps({
        "model": {"path": str(GOLDEN / "model")},
        "data": {"train": [str(GOLDEN / "batch.safetensors")], "shuffle": False},
        "mesh": {"ep": RANKS}, "train": {"steps": 100000, "batch_size": 3}, "save": {"dir": str(out)}, "log": {"every": 1000}}))
    command = [program, "train", str(recipe)]
    command = [torchrun, "--no-python", "--nproc-per-node", str(RANKS)] + command if torchrun else command + ["--ranks", str(RANKS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ranks = wait_until(lambda: (lambda r: r if len(r) == RANKS else None)(children(process.pid)), process)
    if ranks is None or not wait_until(lambda: STAGES[stage](out), process):
        process.kill()
        return f"never came to {stage}: {process.communicate()[1][-500:]}"
    hurt = time.monotonic()
    os.kill(ranks[victim], fault)
    try:
        _, errors = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        return "hung for 60 s"
    seconds = time.monotonic() - hurt
    left = [pid for pid in ranks.values() if pathlib.Path(f"/proc/{pid}").exists()]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    lines = [line for line in errors.splitlines() if line.startswith("moraine: error:")]
    print(f"{'torchrun: ' if torchrun else ''}{fault.name} of rank {victim} in {stage}: {seconds:.1f} s, exit {process.returncode}: "
          f"{' '.join(lines)[:160]}", flush=True)
    if left:
        return f"processes left: {left}"
    if process.returncode != 1:
        return f"exit code {process.returncode}"
    if seconds > LIMIT:
        return f"took {seconds:.1f} s"
    if len(lines) != 1 or f"rank {victim}" not in lines[0]:
        return f"expected one line that names rank {victim}, got {errors!r}"
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--torchrun", help="also kill ranks under this torchrun")
    a = parser.parse_args()
    failures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        cases = [(stage, victim, signal.SIGKILL) for stage in STAGES for victim in range(RANKS)]
        cases += [("later step", 1, signal.SIGSTOP)]
        cases = [(*case, None) for case in cases]
        if a.torchrun:
            # Not in "load": a rank that dies before it has joined the others is named by torchrun alone.
            cases += [(stage, victim, signal.SIGKILL, a.torchrun) for stage, victim in (("first step", 0), ("later step", 0), ("later step", 2))]
        else:
            print("torchrun was not found: the part under torchrun was not run")
        for stage, victim, fault, torchrun in cases:
            problem = run_case(a.program, folder, stage, victim, fault, torchrun)
            if problem:
                failures.append(f"{'torchrun: ' if torchrun else ''}{fault.name} of rank {victim} in {stage}: {problem}")
    for failure in failures:
        print("FAILED:", failure)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
