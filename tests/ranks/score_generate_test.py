"""score and generate on several ranks: the loss, logits, gradients and text of one rank.

  python3 score_generate_test.py PROGRAM [--golden NAME]     (standard library only)

score runs on tests/golden/NAME (qwen3_moe-fp32): three rows, so four ranks leave one without. generate runs on the demo's model, or
on a random one of the golden's architecture with the demo's tokenizer.
"""
import argparse
import array
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DEFAULT = "qwen3_moe-fp32"
# ranks, mesh
MESHES = [(2, ["mesh.ep=2"]), (3, []), (4, ["mesh.ep=2", "mesh.fsdp=2", "load.mode=node"]), (4, ["mesh.ep=4"])]


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name == "__metadata__":
            continue
        values = array.array({"F32": "f", "I64": "q"}[entry["dtype"]])
        begin, end = entry["data_offsets"]
        values.frombytes(data[8 + length + begin:8 + length + end])
        tensors[name] = (entry["shape"], values)
    return tensors


def relative_difference(a, b):
    """max |a - b| / max |b|"""
    if a[0] != b[0]:
        return float("inf")
    return max(abs(x - y) for x, y in zip(a[1], b[1])) / max(max(map(abs, b[1])), 1e-30)


def run(command):
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    # The demo's tokenizer is none of Qwen3.5's, which is said.
    if ended.returncode != 0 or [line for line in ended.stderr.splitlines() if "tokenizer.json: followed as it is" not in line]:
        sys.exit(f"FAILED: {' '.join(map(str, command))}: exit {ended.returncode}\n{ended.stdout[-1500:]}{ended.stderr[-1500:]}")
    return ended.stdout


def score_command(program, folder, golden):
    return [program, "score", "--json", "--model", golden / "model", "--adapter", golden / "lora" / "adapter", "--tokens",
            golden / "batch.safetensors", "model.dtype=float32", "--out", folder / "out.safetensors", "--logits",
            "--grads", folder / "grads.safetensors"]


def score_result(stdout, folder):
    """(what was printed, --out and --grads)"""
    result = json.loads(stdout), read_safetensors(folder / "out.safetensors"), read_safetensors(folder / "grads.safetensors")
    for file in folder.iterdir():
        file.unlink()
    return result


def joined_by_environment(program, folder, golden, ranks):
    """As torchrun or a shell script starts ranks: only rank 0 speaks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [subprocess.Popen(score_command(program, folder, golden), env={**os.environ, **world, "RANK": str(rank)},
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for rank in range(ranks)]
    outputs = [process.communicate(timeout=120) for process in processes]
    if any(process.returncode for process in processes) or any(out or err for out, err in outputs[1:]):
        sys.exit(f"FAILED: ranks {ranks} by environment: {outputs}")
    return outputs[0][0]


def check_score(program, folder, golden_folder):
    failures = 0
    expected = score_result(run(score_command(program, folder, golden_folder)), folder)
    golden = read_safetensors(golden_folder / "lora" / "forward.safetensors")["loss"][1][0]
    if abs(expected[0]["loss"] / golden - 1) > 1e-5:
        sys.exit(f"FAILED: one rank: loss {expected[0]['loss']}, PEFT {golden}")

    def compare(title, printed, out, grads):
        nonlocal failures
        loss = abs(printed["loss"] / expected[0]["loss"] - 1)
        tokens = max(relative_difference(out[name], expected[1][name]) for name in ("loss", "token_loss"))
        logits = relative_difference(out["logits"], expected[1]["logits"])
        grad = max(relative_difference(grads[name], value) for name, value in expected[2].items())
        ok = (loss <= 1e-6 and tokens <= 1e-5 and logits <= 1e-5 and grad <= 1e-4 and grads.keys() == expected[2].keys()
              and printed["tokens"] == expected[0]["tokens"])
        failures += not ok
        print(f"score {golden_folder.name}, {title}: loss {loss:.1e}, token_loss {tokens:.1e}, logits {logits:.1e}, gradients {grad:.1e}"
              f"{'' if ok else '  FAILED'}", flush=True)

    for ranks, mesh in MESHES:
        stdout = run(score_command(program, folder, golden_folder) + ["--ranks", str(ranks), *mesh])
        compare(f"{ranks} ranks {' '.join(mesh)}", *score_result(stdout, folder))
    compare("2 ranks by environment", *score_result(joined_by_environment(program, folder, golden_folder, 2), folder))
    return failures


def random_model(program, folder, golden):
    """Of the golden's architecture, with the vocabulary of the demo's model and its tokenizer."""
    demo = ROOT / "examples" / "dictionary_model"
    config = json.loads((golden / "model" / "config.json").read_text())
    text = config.get("text_config", config)
    text["vocab_size"] = json.loads((demo / "config.json").read_text())["vocab_size"]
    text["initializer_range"] = 0.2  # so that it says more than one word
    (folder / "config.json").write_text(json.dumps(config))
    run([program, "init", "--config", folder / "config.json", "--out", folder / "model"])
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(demo / name, folder / "model")
    return folder / "model"


def check_generate(program, model, cells):
    failures = 0
    for options, meshes in cells:
        command = [program, "generate", "--json", "--model", model, *options]
        expected = json.loads(run(command))
        if not expected["text"].strip():
            sys.exit(f"FAILED: one rank answers nothing: {expected}")
        for ranks, mesh in meshes:
            found = json.loads(run(command + ["--ranks", str(ranks), *mesh]))
            failures += found != expected
            print(f"generate {model.name} {' '.join(options[:2])}, {ranks} ranks {' '.join(mesh)}: "
                  f"{'the same ' + str(len(found['ids'])) + ' tokens' if found == expected else f'{found} FAILED, one rank: {expected}'}", flush=True)
    return failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--golden", default=DEFAULT)
    a = parser.parse_args()
    # One ends by its length, the other by the model's own choice.
    greedy = ["--prompt", "hello", "--max-new-tokens", "20"]
    sampled = ["--prompt", "Who are you?", "--temperature", "1", "--seed", "5"]
    golden = ROOT / "tests" / "golden" / a.golden
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        failures = check_score(a.program, folder, golden)
        if a.golden == DEFAULT:
            failures += check_generate(a.program, ROOT / "examples" / "dictionary_model",
                                       [(greedy, [(2, []), (4, ["mesh.ep=2"])]), (sampled, [(2, ["mesh.ep=2"])])])
        else:
            failures += check_generate(a.program, random_model(a.program, folder, golden), [(greedy, [(2, ["mesh.ep=2"]), (3, [])])])
    sys.exit(1 if failures else 0)


main()
