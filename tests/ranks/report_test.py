"""A run leaves report.html: well-formed, without anything from elsewhere, with the figures of metrics.jsonl.

  python3 report_test.py PROGRAM     (standard library only)

Trains tests/golden/qwen3_moe-fp32 in one go, on two ranks with held-out rows, in two parts, and until SIGTERM; reads each report as XML.
"""
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree

from mesh_equality_test import GOLDEN, training_rows, write_tokens

HTML = "{http://www.w3.org/1999/xhtml}"
failures = 0


def check(what, ok, problem=""):
    global failures
    failures += not ok
    print(f"{'ok    ' if ok else 'FAILED'}  {what}" + ("" if ok else f"\n{problem}"), flush=True)


class Page:
    def __init__(self, out):
        self.text = (out / "report.html").read_text(encoding="utf-8")
        self.root = ElementTree.fromstring(self.text)  # throws where it is not well-formed
        self.words = " ".join(" ".join(self.root.itertext()).split())
        self.facts = {"".join(div.find(HTML + "dt").itertext()): " ".join("".join(div.find(HTML + "dd").itertext()).split())
                      for div in self.root.iter(HTML + "div") if div.find(HTML + "dt") is not None}
        self.figures = {figure.find(f".//{HTML}strong").text: figure for figure in self.root.iter(HTML + "figure")}

    def number(self, name):
        return float(self.facts[name].split()[0].replace(",", ""))


def check_figures(what, out):
    page, steps = Page(out), [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [step["loss"] for step in steps]
    for name, wanted in (("First loss", losses[0]), ("Last loss", losses[-1]), ("Lowest loss", min(losses))):
        check(f"{what}: {name.lower()}", abs(page.number(name) - wanted) <= 5.1e-5, f"{page.facts[name]}, not {wanted}")
    evals = [step["eval_loss"] for step in steps if "eval_loss" in step]
    check(f"{what}: eval_loss", ("Last eval_loss" in page.facts) == bool(evals) and
          (not evals or abs(page.number("Last eval_loss") - evals[-1]) <= 5.1e-5), str(page.facts))
    for name, key in (("Tokens seen", "tokens"), ("Tokens trained", "trained_tokens")):
        check(f"{what}: {name.lower()}", page.number(name) == sum(step[key] for step in steps), page.facts[name])
    for title in ("Loss", "Gradient norm", "Learning rate", "Throughput", "Step time", "Expert load imbalance", "Peak memory so far"):
        check(f"{what}: chart {title}", title in page.figures, str(list(page.figures)))
    curve = page.figures["Loss"].find(f".//{HTML}svg/{HTML}polyline")
    points = [tuple(map(float, point.split(","))) for point in curve.get("points").split()]
    check(f"{what}: a point per step", len(points) == len(steps) and all(a[0] < b[0] for a, b in zip(points, points[1:])), str(points))
    order = sorted(range(len(steps)), key=lambda i: losses[i])
    heights = [points[i][1] for i in order]  # down is small
    check(f"{what}: the curve is as high as the loss", all(a >= b - 0.11 for a, b in zip(heights, heights[1:])), str(points))
    no_style = re.sub(r"<style>.*?</style>", "", page.text, flags=re.S)
    outside = [word for word in ("src=", "href=", "url(", "@import", "<script", "<link", "nan", "NaN") if word in no_style]
    check(f"{what}: nothing from elsewhere, no NaN", not outside and "url(" not in page.text and "@import" not in page.text, str(outside))
    return page


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="moraine-report-") as temporary:
        folder = pathlib.Path(temporary)
        rows = training_rows()
        write_tokens(folder / "train.safetensors", {name: values[:4] for name, values in rows.items()})
        write_tokens(folder / "eval.safetensors", {name: values[4:] for name, values in rows.items()})
        recipe = folder / "recipe.json"
        recipe.write_text(json.dumps({
            "model": {"path": str(GOLDEN / "model")}, "adapter": {"r": 4, "lora_alpha": 8},
            "data": {"train": [str(folder / "train.safetensors")]}, "log": {"tensorboard": False},
            "train": {"steps": 8, "batch_size": 2, "learning_rate": 3e-3}}))

        def run(*arguments, code=0):
            ended = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=300)
            if ended.returncode != code:
                sys.exit(f"FAILED  {arguments}: exit {ended.returncode}, not {code}\n{ended.stdout[-800:]}{ended.stderr[-800:]}")
            return ended

        out = folder / "a <run> & \"more\""
        ended = run("train", recipe, f"save.dir={json.dumps(str(out))}")
        check("the run says where its report is", f"Report: {out / 'report.html'}" in ended.stdout, ended.stdout)
        page = check_figures("one rank", out)
        check("the folder's name, escaped", page.root.find(f".//{HTML}h1").text == out.name, page.words[:200])
        for words in ("The run finished: step 8 of 8", "Qwen3MoeForCausalLM", "LoRA, r 4, lora_alpha 8", "every one of steps 1 to 8",
                      "Every byte of the base weights was verified", "No held-out rows were evaluated", "adapter_model.safetensors"[:7]):
            check(f"one rank: {words}", words in page.words, page.words)
        before = (out / "report.html").read_bytes()
        (out / "report.html").unlink()
        ended = run("report", out)
        check("moraine report gives the same bytes", (out / "report.html").read_bytes() == before and "Report: " in ended.stdout)
        with (out / "metrics.jsonl").open("a") as metrics:
            metrics.write('{"step": 9, "lo')
        run("report", out)
        check("a cut last line is said", "Its last line is cut short" in Page(out).words)

        out = folder / "two"
        run("train", recipe, f"save.dir={out}", "--ranks", "2", "mesh.ep=2", f"data.eval=[{folder / 'eval.safetensors'}]", "train.eval_every=3")
        page = check_figures("two ranks", out)
        marks = [c for c in page.figures["Loss"].iter(HTML + "circle") if c.get("class") == "mark dot"]
        check("two ranks: three evaluations", len(marks) == 3, str(len(marks)))
        check("two ranks: the mesh", "2 ranks on 1 host" in page.words and "ep 2 × ep_fsdp 1" in page.words, page.words[:600])
        table = page.root.find(f".//{HTML}table/{HTML}tbody")
        load = json.loads((out / "load.json").read_text())["ranks"]
        check("two ranks: a row for each", len(table) == len(load) == 2)

        out = folder / "parts"
        run("train", recipe, f"save.dir={out}", "save.every=2", "train.stop_after=5")
        check("stopped: by what", "stopped after step 5 of 8 by train.stop_after" in Page(out).words, Page(out).words[:800])
        check("stopped: the snapshot's adapter", "checkpoints/step-5/adapter" in Page(out).text)
        run("train", recipe, f"save.dir={out}", "save.every=2")
        page = check_figures("resumed", out)
        for words in ("in 2 sessions", "resumed from", "step 8 of 8", "every one of steps 1 to 8"):
            check(f"resumed: {words}", words in page.words, page.words[:800])

        saved = json.loads((out / "run.json").read_text())["saved"]
        check("saved: what lies there", saved["bytes"] == (out / "adapter" / "adapter_model.safetensors").stat().st_size and
              saved["lora_b_zero"] == 0 and saved["tensors"] == 2 * saved["lora_b"] and len(saved["xxh3"]) == 32, str(saved))
        # The run is finished: what is missing of save.layouts is written, and nothing trained.
        layout = out / "adapter-vllm" / "adapter_model.safetensors"
        ended = run("train", recipe, f"save.dir={out}", "save.layouts=[peft,vllm]")
        check("save.layouts: written when missing", layout.exists() and "nothing to do" in ended.stdout, ended.stdout)
        check("save.layouts: how the server is started", f"--lora-modules NAME={out / 'adapter-vllm'}" in ended.stdout, ended.stdout)

        out = folder / "layouts"
        run("train", recipe, f"save.dir={out}", "save.layouts=[vllm]", "train.steps=1", "--ranks", "2", "mesh.ep=2")
        check("save.layouts: beside adapter", all((out / name / "adapter_model.safetensors").exists() for name in ("adapter", "adapter-vllm")))
        ended = run("train", recipe, f"save.dir={folder / 'refused'}", "save.layouts=[sglang]", "adapter.target_modules=[q_proj]", code=2)
        check("save.layouts: refused before training", "save.layouts: adapts" in ended.stderr and not (folder / "refused").exists(), ended.stderr)

        out = folder / "asked"
        process = subprocess.Popen([program, "train", recipe, f"save.dir={out}", "save.every=100000", "train.steps=1000000"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        stderr = process.communicate(timeout=120)[1]
        check("SIGTERM: said", process.returncode == 128 + signal.SIGTERM and "by SIGTERM" in Page(out).words, stderr)

        out = folder / "blocked"
        run("train", recipe, f"save.dir={out}", "save.every=4", "train.stop_after=4")
        (out / "report.html").unlink()
        (out / "report.html" / "in the way").mkdir(parents=True)
        ended = run("train", recipe, f"save.dir={out}", "save.every=100")
        check("a report that cannot be written is a warning", ended.stderr.startswith("moraine: warning: the report was not written: ") and
              ended.stderr.count("\n") == 1 and (out / "adapter" / "adapter_model.safetensors").exists(), ended.stderr)
        ended = run("report", out, code=1)
        check("moraine report: an error", ended.stderr.count("\n") == 1 and "report.html" in ended.stderr, ended.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
