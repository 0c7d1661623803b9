"""Adapters in the layout that `moraine export` writes for a version of PEFT give the reference's loss in that version: fp32, to 1e-5.

    peft_versions.py MORAINE_PROGRAM [--folder DIR] [PEFT[:TRANSFORMERS] ...]

To be run by hand: each version is installed by pip, without what it depends on, into a folder of its own under DIR (a temporary one without
it), before the packages of the environment that has transformers and peft (tests/reference.py), so torch is shared. `newest` is the newest on
the package index. A version of transformers behind a colon goes before the environment's in the same way. PEFT up to 0.19.0 gets the layout
peft-0.19.0, later ones peft, and those from 0.21 on also per-expert where they read it (tests/golden/families.json). A family that the
installed transformers does not know is named and left out. Without versions: 0.18.1, 0.19.0 and 0.19.1 with transformers 5.5.0 (with 5.18, PEFT 0.19.1 ends in a TypeError), 0.21.0 and newest.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from reference import GOLDEN  # first: it may start this script again
from families import facts_of, golden_models

TOLERANCE = 1e-5
VERSIONS = ["0.18.1:5.5.0", "0.19.0:5.5.0", "0.19.1:5.5.0", "0.21.0", "newest"]
OF_TRANSFORMERS = ["tokenizers==0.22.2", "huggingface_hub==1.33.0"]  # that 5.5.0 asks for


def losses(adapters):
    """In a process of its own, with one version of PEFT: prints a line of JSON for each (golden, layout, adapter)."""
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    print(json.dumps({"peft": peft.__version__, "transformers": transformers.__version__}), flush=True)
    for golden, layout, adapter in adapters:
        model = GOLDEN / golden / "model"
        said = {"golden": golden, "layout": layout}
        try:
            base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
        except (ValueError, KeyError) as error:
            print(json.dumps(said | {"unknown": str(error)[:100]}), flush=True)
            continue
        with torch.no_grad():
            batch = load_file(GOLDEN / golden / "batch.safetensors")
            before = base(**batch, use_cache=False).loss.item()
            wrapped = peft.PeftModel.from_pretrained(base, adapter).eval()
            print(json.dumps(said | {"base": before, "loss": wrapped(**batch, use_cache=False).loss.item()}), flush=True)


def installed(folder, name, *packages):
    """The folder that pip has put the packages into."""
    target = folder / name
    if not target.is_dir():
        subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--target", target, *packages],
                       check=True)
    return str(target)


def reads_swapped(version):
    """Whether that version of PEFT has the factors of experts as 0.19.0 has them."""
    return version != "newest" and tuple(map(int, version.split("."))) <= (0, 19, 0)


def check(program, version, folder, adapters_folder):
    peft, _, transformers = version.partition(":")
    path = [installed(folder, f"peft-{peft}", "peft" if peft == "newest" else f"peft=={peft}")]
    if transformers:
        path.append(installed(folder, f"transformers-{transformers}", f"transformers=={transformers}", *OF_TRANSFORMERS))
    layouts = ["peft-0.19.0"] if reads_swapped(peft) else ["peft"]
    adapters = []
    for golden in golden_models("fp32"):
        per_expert = facts_of(golden)["peft_reads_per_expert"] and (peft == "newest" or tuple(map(int, peft.split("."))) >= (0, 21, 0))
        for layout in layouts + ["per-expert"] * per_expert:
            adapter = adapters_folder / golden / layout
            if not adapter.is_dir():
                subprocess.run([program, "export", "--model", GOLDEN / golden / "model", "--adapter", GOLDEN / golden / "lora" / "adapter", "--layout",
                                layout, "--out", adapter], check=True, stdout=subprocess.DEVNULL)
            adapters.append((golden, layout, str(adapter)))
    child = subprocess.run([sys.executable, __file__, "--losses", json.dumps(adapters)], capture_output=True, text=True,
                           env=os.environ | {"PYTHONPATH": os.pathsep.join(path)})
    lines = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
    title = "PEFT {peft}, transformers {transformers}".format(**lines[0]) if lines else f"PEFT {version}"
    failures = 0
    for line in lines[1:]:
        if "unknown" in line:
            print(f"left out: {title}: {line['golden']}: {line['unknown']}")
            continue
        expected = reference_loss(line["golden"])
        good = abs(line["loss"] - expected) <= TOLERANCE and abs(line["base"] - expected) > 10 * TOLERANCE  # else a lost adapter would pass
        failures += not good
        print(f"{'ok' if good else 'FAILED'}: {title}: {line['golden']}, {line['layout']}: {line['loss']:.7f}, reference {expected:.7f}, "
              f"without adapter {line['base']:.7f}", flush=True)
    if child.returncode or len(lines) != len(adapters) + 1:
        print(f"FAILED: {title}: {child.stderr.strip().splitlines()[-1:]}", flush=True)
        failures += 1
    return failures


def reference_loss(golden):
    from safetensors.torch import load_file
    return load_file(GOLDEN / golden / "lora" / "forward.safetensors")["loss"].item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    a = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory(prefix="moraine-peft-") as temporary:
        temporary = pathlib.Path(temporary)
        folder = a.folder or temporary / "packages"
        return 1 if sum(check(a.program.resolve(), version, folder, temporary / "adapters") for version in a.versions) else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--losses"]:
        losses(json.loads(sys.argv[2]))
    else:
        sys.exit(main())
