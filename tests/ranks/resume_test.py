"""A run that is stopped, killed or moved to another mesh ends with the bits of one that never was.

  python3 resume_test.py PROGRAM [--torchrun PATH] [--full]     (standard library only)

Trains tests/golden/qwen3_moe-fp32 (and -bf16) for 20 steps: straight, and in parts with snapshots between them. On the same mesh losses,
gradient norms and the adapter must have the same bits. On other meshes too where straight runs on them have the same bits (see
exactness_test.py), else they are held to its limits. --full: every pair of meshes, more kills, all kinds of damage at every file.
"""
import argparse
import json
import math
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from mesh_equality_test import GOLDENS, largest_difference, read_safetensors, training_rows, write_tokens

STEPS = 20
# ep, ep_fsdp, replicate
ONE, EP2, FSDP2, REPLICATE2, EP3, FOUR, FOUR_REPLICAS = (1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (3, 1, 1), (2, 2, 1), (2, 1, 2)
ENVIRONMENT = dict(os.environ, MORAINE_POISON="1")
failures = 0


def report(what, problem):
    global failures
    failures += problem is not None
    print(f"{'FAILED' if problem else 'ok    '}  {what}" + (f"\n{problem}" if problem else ""), flush=True)


class Runs:
    """Runs of one recipe in folders below `folder`."""

    def __init__(self, program, folder, golden="qwen3_moe-fp32"):
        self.program, self.folder, self.golden = program, folder / golden, GOLDENS / golden
        self.folder.mkdir()
        rows = training_rows(self.golden)
        write_tokens(self.folder / "tokens.safetensors", rows)
        write_tokens(self.folder / "other.safetensors", {name: values[::-1] for name, values in rows.items()})
        self.recipe = self.folder / "recipe.json"
        self.recipe.write_text(json.dumps({
            "model": {"path": str(self.golden / "model")}, "adapter": {"r": 4, "lora_alpha": 8},
            "data": {"train": [str(self.folder / "tokens.safetensors")]},
            "train": {"steps": STEPS, "batch_size": 4, "learning_rate": 3e-3, "weight_decay": 0.01, "warmup_steps": 2},
            "log": {"tensorboard": False}}))
        self.count = 0

    def out(self, name=None):
        self.count += 1
        return self.folder / (name or f"run-{self.count}")

    def command(self, out, mesh, overrides):
        ep, ep_fsdp, replicate = mesh
        ranks = ep * ep_fsdp * replicate
        flags = [f"mesh.ep={ep}", f"mesh.replicate={replicate}"] + (["--ranks", str(ranks)] if ranks > 1 else [])
        return [self.program, "train", str(self.recipe), f"save.dir={out}", *flags, *overrides]

    def start(self, out, mesh, *overrides, **options):
        return subprocess.Popen(self.command(out, mesh, overrides), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env=ENVIRONMENT, **options)

    def run(self, out, mesh, *overrides, code=0, **options):
        """Returns the ended process; another exit code ends the test."""
        process = self.start(out, mesh, *overrides, **options)
        stdout, stderr = process.communicate(timeout=300)
        process.out, process.err = stdout, stderr
        if code is not None and process.returncode != code:
            sys.exit(f"FAILED  {' '.join(process.args)}: exit {process.returncode}, not {code}\n{stdout[-1500:]}{stderr[-1500:]}")
        return process

    def straight(self, mesh):
        out = self.out("straight-" + "-".join(map(str, mesh)))
        if not out.exists():
            self.run(out, mesh)
        return result(out)


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def result(out):
    """What must be equal: every step's figures, and the adapter's bytes."""
    return ([(s["step"], s["loss"], s["grad_norm"], s["lr"], s["tokens"]) for s in lines(out)],
            (out / "adapter" / "adapter_model.safetensors").read_bytes(), read_safetensors(out / "adapter" / "adapter_model.safetensors"))


def same_numbers(found, wanted):
    """The adapter's bits, and figures but for the last digit of their sums in fp64, which shows the mesh."""
    return found[1] == wanted[1] and len(found[0]) == len(wanted[0]) and all(
        math.isclose(x, y, rel_tol=1e-12) for a, b in zip(found[0], wanted[0]) for x, y in zip(a, b))


def difference(found, wanted, same_bits=True):
    if [s[0] for s in found[0]] != [s[0] for s in wanted[0]]:
        return f"steps {[s[0] for s in found[0]]}"
    if found[:2] == wanted[:2]:
        return None
    loss = max(abs(a[1] / b[1] - 1) for a, b in zip(found[0], wanted[0]))
    norm = max(abs(a[2] / b[2] - 1) for a, b in zip(found[0], wanted[0]))
    weights = largest_difference(found[2], wanted[2])
    if not same_bits and loss <= 1e-5 and norm <= 1e-5 and weights <= 1e-4:
        return None
    first = next((a[0] for a, b in zip(found[0], wanted[0]) if a != b), "none")
    return f"first step that differs: {first}; loss {loss:.1e}, grad_norm {norm:.1e}, adapter {weights:.1e}"


def in_parts(runs, parts, *overrides, by_tokens=False):
    """parts: (mesh, stop_after). All but the last end by train.stop_after. by_tokens: every other one has micro-batches by tokens, which
    gradients' sums in fp64 show in their last digit, and so the norm."""
    out = runs.out()
    for number, (mesh, stop_after) in enumerate(parts):
        runs.run(out, mesh, f"train.stop_after={stop_after}", *["train.micro_batch_tokens=90"] * (by_tokens and number % 2), *overrides)
        if stop_after < STEPS and ((out / "adapter").exists() or not (out / "checkpoints" / f"step-{stop_after}").exists()):
            sys.exit(f"FAILED  after train.stop_after={stop_after}: {sorted(p.name for p in out.iterdir())}")
    return result(out)


def check_parts(runs, meshes, chains):
    straights = {mesh: runs.straight(mesh) for mesh in meshes}
    wanted = straights[ONE]
    same_bits = {mesh: same_numbers(straight, wanted) for mesh, straight in straights.items()}
    for mesh, stops in ((ONE, (1, 8, 13)), (EP2, (8,)), (FOUR, (7,))):
        if mesh in meshes:
            parts = [(mesh, stop) for stop in (*stops, STEPS)]
            report(f"{runs.golden.name}, {mesh} stopped after {stops}: the bits of a straight run",
                   difference(in_parts(runs, parts), straights[mesh]))
    for chain in chains:
        all_same = all(same_bits[mesh] for mesh, _ in chain)
        # What does not change the mathematics may differ from part to part.
        found = in_parts(runs, chain, by_tokens=True)
        problem = None if same_numbers(found, wanted) else difference(found, wanted, all_same or runs.golden.name.endswith("bf16"))
        report(f"{runs.golden.name}, meshes {' → '.join(f'{mesh} to {stop}' for mesh, stop in chain)}: "
               f"{'same bits' if all_same else 'as near as straight runs on them'}", problem)


def check_variants(runs):
    """Dropout goes on with the step it was stopped at; ratios of learning rates cut the experts' moments into pieces."""
    all_same = same_numbers(runs.straight(FOUR), runs.straight(ONE))
    for keys in (["adapter.target_parameters=[]", "adapter.lora_dropout=0.2", "adapter.rank_pattern={o_proj: 2}"],
                 ["adapter.expert_r=2", "adapter.use_rslora=true", "train.learning_rate_b_ratio=4"]):
        whole = runs.out()
        runs.run(whole, ONE, *keys)
        found = in_parts(runs, [(ONE, 5), (FOUR, STEPS)], *keys, by_tokens=True)
        problem = None if same_numbers(found, result(whole)) else difference(found, result(whole), all_same)
        report(f"{' '.join(keys)}, {ONE} to 5 → {FOUR}", problem)


def check_kills(runs, rounds, mesh):
    """kill -9 at random moments; with a snapshot each step most of them fall into saving."""
    wanted = runs.straight(mesh)
    out, seen, seconds = runs.out(), [], 1.0
    randomness = random.Random(7)
    for round_ in range(rounds):
        process = runs.start(out, mesh, "save.every=1")
        before = steps_done(out)
        # Not before there is something new to lose, except now and then.
        limit = time.monotonic() + 60
        while round_ % 4 and steps_done(out) <= before and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.002)
        time.sleep(randomness.random() * 0.15)
        process.kill()
        process.communicate()
        seen.append(steps_done(out))
        if (out / "adapter").exists():
            break
    (out / "metrics.jsonl").open("a").write('{"step": 3, "lo')  # as a kill in the middle of a line leaves it
    problem = None
    if not (out / "adapter").exists():
        ended = runs.run(out, mesh, "save.every=1", code=None)
        problem = None if ended.returncode == 0 and not ended.err else ended.err + ended.out[-500:]
        problem = problem or difference(result(out), wanted)
    left = [str(p.relative_to(out)) for p in out.rglob(".*") if p.name != ".lock"]
    if not problem and left:
        problem = f"left behind: {left}"
    report(f"killed {len(seen)} times on {mesh}, at steps {seen}: the bits of a straight run", problem)


def steps_done(out):
    try:
        return (out / "metrics.jsonl").read_text().count("\n")
    except OSError:
        return 0


def check_damage(runs, base, full):
    """`base`: a run folder with snapshots of steps 4, 8 and 12."""
    wanted = runs.straight(ONE)

    def truncate(path):
        path.write_bytes(path.read_bytes()[:-1])

    def flip(path):
        data = bytearray(path.read_bytes())
        at = next(i for i in range(len(data) // 2, len(data)) if not chr(data[i]).isspace())  # JSON's white space may be anything
        data[at] ^= 1
        path.write_bytes(data)

    files = ["state.json", "optimizer.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
    cases = [(truncate, "optimizer.safetensors"), (flip, "adapter/adapter_model.safetensors"), (flip, "state.json"),
             (lambda path: path.unlink(), "state.json")]
    if full:
        cases = [(damage, file) for damage in (truncate, flip, lambda path: path.unlink()) for file in files]
    for damage, file in cases:
        out = runs.out()
        shutil.copytree(base, out)
        damage(out / "checkpoints" / "step-12" / file)
        ended = runs.run(out, ONE)
        warned = [line for line in ended.err.splitlines() if "step-12 is damaged" in line and file.split("/")[-1] in line]
        problem = None if len(warned) == 1 and "going on after step 8" in ended.out else ended.err + ended.out[-500:]
        report(f"damaged {file} of the newest snapshot: the one before, with a warning", problem or difference(result(out), wanted))
    out = runs.out()
    shutil.copytree(base, out)
    for step in (4, 8, 12):
        flip(out / "checkpoints" / f"step-{step}" / "optimizer.safetensors")
    ended = runs.run(out, ONE, code=2)
    report("no whole snapshot is left: an error", None if "no whole snapshot" in ended.err and steps_done(out) == 12 else ended.err)
    # A snapshot written again over a damaged one, and save.keep.
    out = runs.out()
    shutil.copytree(base, out)
    truncate(out / "checkpoints" / "step-12" / "state.json")
    runs.run(out, ONE, "save.every=4", "train.stop_after=16", "save.keep=2")
    kept = sorted(p.name for p in (out / "checkpoints").iterdir())
    report("save.keep counts whole snapshots", None if kept == ["step-12", "step-16"] else str(kept))


def check_agreement(runs, base):
    changes = {"train.learning_rate": "0.004", "train.seed": "1", "adapter.seed": "1", "adapter.r": "8", "data.shuffle": "false",
               "train.steps": "21", "train.scheduler": "linear", "data.train": f"[{runs.folder / 'other.safetensors'}]",
               "model.dtype": "bfloat16", "adapter.target_modules": "[q_proj]", "data.packing": "true",
               "adapter.rank_pattern": "{o_proj: 2}", "train.learning_rate_b_ratio": "2"}
    for key, value in changes.items():
        ended = runs.run(base, ONE, f"{key}={value}", code=2)
        shown = {"adapter.target_modules": "q_proj", "adapter.rank_pattern": "o_proj"}.get(key, value.strip("[]"))
        good = len(ended.err.splitlines()) == 1 and f"error: {key}: is " in ended.err and shown in ended.err
        report(f"changed {key} is refused: {ended.err.strip()[:150]}", None if good else ended.err)
    recipe = json.loads(runs.recipe.read_text())
    del recipe["train"]["batch_size"]
    (runs.folder / "no_batch_size.json").write_text(json.dumps(recipe))
    ended = subprocess.run([runs.program, "train", runs.folder / "no_batch_size.json", f"save.dir={base}"], capture_output=True, text=True)
    report("a batch size that follows the ranks is refused with what to write",
           None if ended.returncode == 2 and "train.batch_size=4" in ended.stderr else ended.stderr)
    # Rows that changed under the same name.
    recipe["train"]["batch_size"] = 4
    moved = runs.folder / "moved.safetensors"
    recipe["data"]["train"] = [str(moved)]
    recipe["train"]["stop_after"] = 13
    (runs.folder / "moved.json").write_text(json.dumps(recipe))
    out = runs.out()
    shutil.copytree(base, out)
    shutil.copy(runs.folder / "tokens.safetensors", moved)
    ended = subprocess.run([runs.program, "train", runs.folder / "moved.json", f"save.dir={out}"], capture_output=True, text=True)
    report("the same rows from another place are fine", None if ended.returncode == 0 else ended.stderr)
    shutil.copy(runs.folder / "other.safetensors", moved)
    ended = subprocess.run([runs.program, "train", runs.folder / "moved.json", f"save.dir={out}"], capture_output=True, text=True)
    report("other rows under the same name are refused",
           None if ended.returncode == 2 and "data.train: is the same, but what it names has changed" in ended.stderr else ended.stderr)


def check_folders(runs, base):
    wanted = runs.straight(ONE)
    done = runs.straight_folder = runs.folder / "straight-1-1-1"
    ended = runs.run(done, ONE)
    report("a finished run says so", None if "finished run" in ended.out and result(done)[:2] == wanted[:2] else ended.out + ended.err)
    for change in "train.learning_rate=1e-2", f"train.steps={STEPS + 5}", f"data.train=[{runs.folder / 'other.safetensors'}]", "adapter.r=8":
        key = change.split("=")[0]
        ended = runs.run(done, ONE, change, code=2)
        report(f"a finished run refuses another {key}", None if f"{key}: is " in ended.err and "the run of" in ended.err else ended.err)
    ended = runs.run(done, ONE, "log.every=7")
    report("what comes too late for a finished run is said",
           None if "has no effect: log.every" in ended.err and result(done)[:2] == wanted[:2] else ended.err)
    # A run of a version whose run.json does not say what it was about, without snapshots.
    old = runs.out()
    shutil.copytree(done, old)
    record = json.loads((old / "run.json").read_text())
    del record["resume"]
    (old / "run.json").write_text(json.dumps(record))
    ended = runs.run(old, ONE, code=2)
    report("a finished run that does not say what it was about is refused", None if "save.dir" in ended.err else ended.err)
    ended = runs.run(base, ONE, "save.resume=never", code=2)
    report("save.resume=never refuses a used folder", None if "is not empty" in ended.err else ended.err)
    ended = runs.run(runs.out(), ONE, "save.resume=/nowhere", code=2)
    report("save.resume names no snapshot", None if "/nowhere holds no snapshot" in ended.err else ended.err)
    ended = runs.run(base, ONE, f"save.resume={base / 'checkpoints' / 'step-8'}", code=2)
    report("going back within a run does not overwrite what came after", None if "holds what came after" in ended.err else ended.err)
    out = runs.out()
    runs.run(out, ONE, f"save.resume={base / 'checkpoints' / 'step-8'}")
    steps, adapter, _ = result(out)
    report("from a snapshot of another run's folder",
           None if steps == wanted[0][8:] and adapter == wanted[1] else "the steps after the snapshot differ")
    ended = runs.run(base, ONE, "train.stop_after=12")
    report("train.stop_after that is reached already", None if "12 steps are done already" in ended.out else ended.out)
    ended = runs.run(base, ONE, f"save.resume={runs.folder / 'straight-1-1-1'}", code=2)
    report("a finished run without snapshots is none to go on from", None if "holds no snapshot" in ended.err else ended.err)


def check_full_disk(runs, base):
    """A limit on the size of files that the moments exceed stands for a full disk."""
    out = runs.out()
    shutil.copytree(base, out)
    before = {p: p.read_bytes() for p in (out / "checkpoints").rglob("*") if p.is_file()}
    limit = (out / "checkpoints" / "step-12" / "optimizer.safetensors").stat().st_size - 1
    ended = runs.run(out, ONE, "save.every=4", code=1, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    after = {p: p.read_bytes() for p in (out / "checkpoints").rglob("*") if p.is_file()}
    good = before == after and "step-16: cannot write: File too large" in ended.err and len(ended.err.splitlines()) == 1
    report(f"a disk without room: {ended.err.strip()[:200]}", None if good else ended.err + str(after.keys() - before.keys()))
    runs.run(out, ONE, "save.every=4")
    report("and on from there", difference(result(out), runs.straight(ONE)))


def check_signals(runs, mesh, number, torchrun=None, again=3):
    name, out = f"{number.name} on {mesh}{' under torchrun' if torchrun else ''}", runs.out()
    command = runs.command(out, mesh, ["save.every=100"])
    if torchrun:
        at = command.index("--ranks")
        command = [torchrun, "--no-python", "--nproc-per-node", command[at + 1]] + command[:at] + command[at + 2:]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while steps_done(out) < 1 and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(number)
    process.send_signal(number)  # as launchers do that signal a process and its group
    stdout, stderr = process.communicate(timeout=60)
    steps = steps_done(out)
    if steps == STEPS and again:  # it was faster than the signal
        return check_signals(runs, mesh, number, torchrun, again - 1)
    good = "start the same command again to go on" in stdout and (out / "checkpoints" / f"step-{steps}").exists() and steps < STEPS
    if not torchrun:
        good = good and process.returncode == 128 + number and not stderr
    if not good:
        return report(name, f"exit {process.returncode}, {steps} steps\n{stdout[-800:]}{stderr[-800:]}")
    runs.run(out, mesh)
    report(f"{name} after step {steps}: a snapshot, and the bits of a straight run", difference(result(out), runs.straight(mesh)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--torchrun")
    parser.add_argument("--full", action="store_true")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="moraine-resume-") as temporary:
        folder = pathlib.Path(temporary)
        runs = Runs(a.program, folder)
        chain = [(ONE, 4), (EP2, 7), (FSDP2, 10), (FOUR, 13), (EP3, 16), (REPLICATE2, 18), (ONE, STEPS)]
        meshes = [ONE, EP2, FSDP2, REPLICATE2, EP3, FOUR]
        chains = [chain]
        if a.full:
            meshes.append(FOUR_REPLICAS)
            chains += [[(first, 9), (second, STEPS)] for first in meshes for second in meshes if first != second]
        check_parts(runs, meshes, chains)
        bf16 = Runs(a.program, folder, "qwen3_moe-bf16")
        check_parts(bf16, [ONE, FOUR], [[(ONE, 6), (FOUR, 14), (ONE, STEPS)]])

        base = runs.out()
        runs.run(base, ONE, "save.every=4", "save.keep=3", "train.stop_after=12")
        kept = sorted(p.name for p in (base / "checkpoints").iterdir())
        report("save.every and save.keep", None if kept == ["step-12", "step-4", "step-8"] else str(kept))
        check_damage(runs, base, a.full)
        check_agreement(runs, base)
        check_variants(runs)
        check_folders(runs, base)
        check_full_disk(runs, base)
        saved = runs.out()
        runs.run(saved, EP2, "save.every=20")
        report("the last snapshot's adapter is the final one",
               None if all((saved / "checkpoints/step-20/adapter" / f).read_bytes() == (saved / "adapter" / f).read_bytes()
                           for f in ("adapter_model.safetensors", "adapter_config.json")) else "they differ")
        check_signals(runs, ONE, signal.SIGTERM)
        check_signals(runs, EP2, signal.SIGTERM)
        check_signals(runs, EP2, signal.SIGINT)
        check_signals(runs, ONE, signal.SIGUSR1)
        check_signals(runs, EP2, signal.SIGUSR1)
        if a.torchrun and a.full:
            check_signals(runs, EP2, signal.SIGTERM, a.torchrun)
        check_kills(runs, 40 if a.full else 10, EP2)
        if a.full:
            for mesh in (ONE, FOUR):
                check_kills(runs, 40, mesh)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
