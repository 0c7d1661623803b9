"""The loss on held-out rows (data.eval) is that of `moraine score`, the same on every mesh, and leaves the training as it is.

  python3 evaluate_test.py PROGRAM     (standard library only)

Trains six steps on four of the golden rows and evaluates on the other two, every second step, at the end, and not at all.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

from mesh_equality_test import GOLDEN, read_safetensors, training_rows, write_tokens

STEPS = 6


def run(command):
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if ended.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit {ended.returncode}\n{ended.stdout[-800:]}{ended.stderr[-800:]}")
    return ended.stdout


def train(program, folder, name, keys):
    (folder / "recipe.json").write_text(json.dumps({
        "model": {"path": str(GOLDEN / "model")}, "adapter": {"init_from": str(GOLDEN / "lora" / "adapter")},
        "data": {"train": [str(folder / "train.safetensors")]}, "save": {"dir": str(folder / name)},
        "train": {"steps": STEPS, "batch_size": 2, "learning_rate": 1e-3}}))
    text = run([program, "train", folder / "recipe.json", *keys])
    steps = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return text, steps, read_safetensors(folder / name / "adapter" / "adapter_model.safetensors")


def main():
    program = sys.argv[1]
    failures = 0

    def check(ok, what):
        nonlocal failures
        failures += not ok
        print(f"{'ok    ' if ok else 'FAILED'}  {what}", flush=True)

    with tempfile.TemporaryDirectory(prefix="moraine-evaluate-") as temporary:
        folder = pathlib.Path(temporary)
        rows = training_rows()
        write_tokens(folder / "train.safetensors", {name: values[:4] for name, values in rows.items()})
        write_tokens(folder / "eval.safetensors", {name: values[4:] for name, values in rows.items()})
        held_out = f"data.eval=[{folder / 'eval.safetensors'}]"
        _, plain, adapter = train(program, folder, "plain", [])
        check(all("eval_loss" not in step for step in plain), "no data.eval: no eval_loss")
        _, at_end, _ = train(program, folder, "end", [held_out])
        text, often, often_adapter = train(program, folder, "often", [held_out, "train.eval_every=4"])
        check([step["step"] for step in at_end if "eval_loss" in step] == [STEPS], "eval_every 0: evaluated at the end")
        check([step["step"] for step in often if "eval_loss" in step] == [4, STEPS], "eval_every 4: after step 4 and at the end")
        check(text.count("eval_loss") == 2, "and both are printed")
        check(often_adapter == adapter and [s["loss"] for s in often] == [s["loss"] for s in plain], "training has the same bits")
        for name, step in (("at the end", at_end[-1]), ("often", often[-1])):
            score = json.loads(run([program, "score", "--model", GOLDEN / "model", "--adapter", folder / "often" / "adapter",
                                    "--tokens", folder / "eval.safetensors", "--json"]))
            check(abs(step["eval_loss"] - score["loss"]) < 1e-12 and step["eval_tokens"] == score["tokens"],
                  f"{name}: eval_loss {step['eval_loss']:.12f} is that of score {score['loss']:.12f}")
        for mesh in (["--ranks", "2", "mesh.ep=2"], ["--ranks", "3"], ["--ranks", "4", "mesh.ep=2", "mesh.replicate=2"],
                     ["--ranks", "2", "load.mode=rank0"],
                     ["data.packing=true"], ["train.micro_batch_size=2"]):
            _, steps, _ = train(program, folder, "-".join(mesh), [held_out, "train.eval_every=4", *mesh])
            if "data.packing=true" in mesh:  # trains other batches: its evaluation is compared with score
                score = json.loads(run([program, "score", "--model", GOLDEN / "model", "--adapter", folder / "-".join(mesh) / "adapter",
                                        "--tokens", folder / "eval.safetensors", "--json"]))
                difference = abs(steps[-1]["eval_loss"] - score["loss"])
            else:
                difference = max(abs(steps[i]["eval_loss"] - often[i]["eval_loss"]) for i in (3, 5))
            check(difference < 1e-12, f"{' '.join(mesh)}: eval_loss differs by {difference:.1e}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
