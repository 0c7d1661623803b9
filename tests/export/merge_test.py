"""What `moraine merge`, `merge-adapters` and `convert` write is what transformers and PEFT make of the same files.

    merge_test.py MORAINE_PROGRAM

- Merged checkpoints of every family load in transformers, and their weights are those of PEFT's merge_and_unload: in fp32
  to the last bits, in bf16 to one unit in the last place.
- Adapters combined by merge-adapters have the numbers of PEFT's add_weighted_adapter, and both of them, the combined
  adapter and the two on the model at once score PEFT's loss in fp32 to 1e-5; experts too, of which PEFT combines none:
  there it merges one adapter after the other into the weights.
- The converted FP8 and FP4 checkpoints load in transformers and score the reference's loss.

Needs transformers and peft (tests/reference.py).
"""
import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from reference import GOLDEN  # first: it may start this test again
from families import golden_models

import torch
from peft import PeftModel
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

# golden: dtype it is loaded in
MERGED = {golden: torch.float32 for golden in golden_models("fp32")}
MERGED |= {golden: torch.bfloat16 for golden in ("qwen3_moe-bf16", "qwen3_5_moe-bf16")}
FP32_TOLERANCE = 2**-21  # of the largest element: a few last bits, for other BLAS kernels
failures = 0


def report(good, text):
    global failures
    failures += not good
    print(f"{'ok' if good else 'FAILED'}: {text}", flush=True)


def run(program, *arguments):
    done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"FAILED: moraine {arguments[0]} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def load(model, dtype):
    loaded, info = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="eager",
                                                        experts_implementation="eager", output_loading_info=True)
    missing, mismatched = info["missing_keys"], info["mismatched_keys"]
    if missing or mismatched:
        report(False, f"{model}: transformers misses {sorted(missing)[:4]}, finds other shapes of {sorted(mismatched)[:4]}")
    return loaded.eval()


def ulp(tensor):
    """The distance to the next bf16 number, of each element."""
    return torch.exp2(torch.floor(torch.log2(tensor.float().abs().clamp_min(2.0**-126))) - 7)


def compare(golden, merged, expected, base):
    """Two state dicts of merged models; `base` is that of the model before."""
    if merged.keys() != expected.keys():
        return report(False, f"{golden}: names differ: {sorted(merged.keys() ^ expected.keys())[:4]}")
    changed, same_bits, worst = 0, 0, 0.0
    for name, theirs in expected.items():
        ours, before = merged[name], base[name]
        if torch.equal(theirs, before):
            if not torch.equal(ours, before):
                return report(False, f"{golden}: {name} has changed")
            continue
        changed += 1
        same_bits += torch.equal(ours, theirs)
        difference = (ours.float() - theirs.float()).abs()
        if ours.dtype == torch.float32:
            worst = max(worst, (difference.max() / theirs.abs().max()).item())
        else:  # PEFT rounds an expert's product before it is added, so a unit is one of the largest of the three numbers
            largest = torch.maximum(torch.maximum(ours.float().abs(), theirs.float().abs()), (theirs.float() - before.float()).abs())
            worst = max(worst, (difference / ulp(largest)).max().item())
    fp32 = "fp32" in golden
    report(worst <= (FP32_TOLERANCE if fp32 else 1) and changed > 0,
           f"{golden}: {changed} merged weights, {same_bits} with the same bits as PEFT's; largest difference {worst:.2g} "
           f"{'of the largest element' if fp32 else 'units in the last place'}")


def loss_of(model, batch):
    with torch.no_grad():
        return model(**batch, use_cache=False).loss.item()


def score(program, golden, *adapters):
    flags = [word for adapter in adapters for word in ("--adapter", adapter)]
    tokens = GOLDEN / golden / "batch.safetensors"
    return json.loads(run(program, "score", "--json", "--model", GOLDEN / golden / "model", "--tokens", tokens, *flags))["loss"]


def linear_adapter(source, out, modules, change):
    """The adapters of some linear layers of `source`, with other numbers."""
    config = json.loads((source / "adapter_config.json").read_text()) | {"target_modules": modules, "target_parameters": None}
    tensors = {name: change(tensor) for name, tensor in load_file(source / "adapter_model.safetensors").items()
               if name.split(".")[-3] in modules and ".experts" not in name}
    out.mkdir()
    (out / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, out / "adapter_model.safetensors")


def combine_linear(program, golden, modules, folder):
    """Two adapters of which the second has fewer targets, weighted and combined here and by add_weighted_adapter."""
    source, batch = GOLDEN / golden / "lora" / "adapter", load_file(GOLDEN / golden / "batch.safetensors")
    one, two, weights = folder / f"{golden}-one", folder / f"{golden}-two", (0.7, -1.5)
    linear_adapter(source, one, modules, torch.clone)
    linear_adapter(source, two, modules[:1], lambda tensor: tensor.flip(0).contiguous())
    weighted = [f"{adapter}={weight}" for adapter, weight in zip((one, two), weights)]
    model = PeftModel.from_pretrained(load(GOLDEN / golden / "model", torch.float32), one, adapter_name="one")
    model.load_adapter(two, adapter_name="two")
    for method in ("linear", "cat"):
        model.add_weighted_adapter(["one", "two"], list(weights), method, combination_type=method)
        model.set_adapter(method)
        out = folder / f"{golden}-{method}"
        run(program, "merge-adapters", *[word for text in weighted for word in ("--adapter", text)], "--method", method,
            "--model", GOLDEN / golden / "model", "--out", out)
        ours, theirs = load_file(out / "adapter_model.safetensors"), get_peft_model_state_dict(model, adapter_name=method)
        report(ours.keys() == theirs.keys(), f"{golden}, {method}: the names of PEFT's add_weighted_adapter")
        # PEFT fills modules that only one adapter has up with zeros.
        same = all(torch.equal(torch.nn.functional.pad(tensor, (0, theirs[name].shape[1] - tensor.shape[1], 0,
                                                               theirs[name].shape[0] - tensor.shape[0])), theirs[name])
                   for name, tensor in ours.items())
        report(same, f"{golden}, {method}: the numbers of PEFT's add_weighted_adapter")
        expected = loss_of(model.eval(), batch)
        losses = [score(program, golden, out)] + ([score(program, golden, *weighted)] if method == "cat" else [])
        report(all(abs(loss - expected) <= 1e-5 for loss in losses),
               f"{golden}, {method}: PEFT {expected:.7f}, here {', '.join(f'{loss:.7f}' for loss in losses)}")


def combine_with_experts(program, golden, folder):
    one, two, weight = GOLDEN / golden / "lora" / "adapter", GOLDEN / golden / "lora" / "adapter_after", 0.5
    model, batch = GOLDEN / golden / "model", load_file(GOLDEN / golden / "batch.safetensors")
    halved = folder / f"{golden}-halved"
    halved.mkdir()
    config = json.loads((two / "adapter_config.json").read_text())
    (halved / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] * weight}))
    (halved / "adapter_model.safetensors").symlink_to(two / "adapter_model.safetensors")
    merged = PeftModel.from_pretrained(load(model, torch.float32), one).merge_and_unload()
    expected = loss_of(PeftModel.from_pretrained(merged, halved).merge_and_unload().eval(), batch)
    out = folder / f"{golden}-both"
    run(program, "merge-adapters", "--adapter", one, "--adapter", f"{two}={weight}", "--model", model, "--out", out)
    at_once, combined = score(program, golden, one, f"{two}={weight}"), score(program, golden, out)
    in_peft = loss_of(PeftModel.from_pretrained(load(model, torch.float32), out).eval(), batch)
    report(at_once == combined and max(abs(loss - expected) for loss in (at_once, in_peft)) <= 1e-5,
           f"{golden}, experts: PEFT merges both to {expected:.7f}; here at once {at_once:.7f}, combined {combined:.7f}, and that in PEFT {in_peft:.7f}")


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for golden, dtype in MERGED.items():
            model, adapter, merged = GOLDEN / golden / "model", GOLDEN / golden / "lora" / "adapter", folder / golden
            run(program, "merge", "--model", model, "--adapter", adapter, "--out", merged)
            base = {name: tensor.clone() for name, tensor in load(model, dtype).state_dict().items()}
            peft = PeftModel.from_pretrained(load(model, dtype), adapter).merge_and_unload()
            ours = load(merged, dtype)
            compare(golden, ours.state_dict(), peft.state_dict(), base)
            if dtype == torch.float32:
                loss = loss_of(ours, load_file(GOLDEN / golden / "batch.safetensors"))
                expected = load_file(GOLDEN / golden / "lora" / "forward.safetensors")["loss"].item()
                report(abs(loss - expected) <= 1e-5 * expected, f"{golden}: transformers scores the merged model {loss:.7f}, "
                       f"model and adapter {expected:.7f}")

        combine_linear(program, "qwen3_moe-fp32", ["q_proj", "v_proj"], folder)
        combine_linear(program, "deepseek_v4-fp32", ["q_a_proj", "q_b_proj"], folder)
        for golden in ("qwen3_moe-fp32", "qwen3_5_moe-fp32"):
            combine_with_experts(program, golden, folder)

        # In a dtype that holds every value exactly: DeepSeek-V4's scales are powers of two.
        for name, dtype in {"deepseek_v4-fp8fp4": "bfloat16", "qwen3_moe-fp8": "float32", "qwen3_5_moe-fp8": "float32"}.items():
            golden, converted = GOLDEN / name, folder / f"{name}-converted"
            run(program, "convert", "--model", golden / "model", "--out", converted, "--dtype", dtype)
            loss = loss_of(load(converted, torch.float32), load_file(golden / "batch.safetensors"))
            expected = load_file(golden / "forward.safetensors")["loss"].item()
            report(abs(loss - expected) <= 1e-5 * expected, f"{name}: transformers scores the converted model {loss:.7f}, the reference {expected:.7f}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
