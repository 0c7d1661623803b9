"""Makes docs/plans.md: what real models need on 1, 8, 64 and 1,024 ranks, and how many GPUs each recipe needs.

  python tools/plan_table.py PROGRAM CONFIG_FOLDER ... RECIPE.yaml=CONFIG_FOLDER ... > docs/plans.md     (standard library only)

CONFIG_FOLDER has a config.json. FOLDER+fp8 stands for the FP8 release of a Qwen model: the same config.json with the quantization_config of
that release. A recipe is planned with that model. The first recipe of a DeepSeek-V4 model and the first of a Qwen3-MoE model are the cases.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

# ranks, mesh
MESHES = [(1, {}), (8, {"ep": 8}), (64, {"ep": 8}), (1024, {"ep": 8, "replicate": 16})]
INTRODUCTION = """# Plans of real models

Made by `tools/plan_table.py` from config.json alone. Seconds are **predictions that no GPU has confirmed**: `moraine plan --device` counts the
kernels, bytes and products of each kind of layer by running it once on tensors without data, and takes the data sheet's figures and the
parts of them that are commonly reached (`plan/device_rates`). Trust their order, not their values.
"""
GPUS = """## How many GPUs

For each recipe as it is written, with `mesh.ep=auto`: the fewest GPUs (1, 2, 4, … 64, 8 per node) on which it fits without offloading,
the mesh that is predicted to be the fastest there, and what bounds it. Memory is that of one GPU, NCCL's buffers and CUDA's context included.
"""
CASES = """## Cases

*Host*: pinned memory for offloaded weights, with libtorch's rounding to powers of two, and the image that is being read.
"""
RANKS = """## Memory and traffic on 1 to 1,024 ranks

`moraine plan` with LoRA r 8 on all linear layers and experts, one sequence of 2,048 tokens per rank and step, 8 ranks per node. Bytes of a
rank are those of the fullest one. *Read*: from files in `load.mode` direct. *Base*: shards kept all the time. *Buffers*: two gathered
layers. *Activations*: layers and head, run once on tensors without data; on a CPU with AVX-512 but without instructions for bf16 (with them
oneDNN's compiled kernels take up to 5 GiB more, with AVX2 alone copies in fp32 1 GiB more), with what malloc cannot use again. *Peak* includes libtorch itself; on CUDA its context and NCCL's buffers by published figures. *A
step*: what a rank receives over the network. *Load*: what crosses a network or shared memory in the modes node (within nodes) and rank0
(from rank 0); in mode direct nothing does. FP8 and FP4 weights stay as they are stored.
"""


QWEN_FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
            "modules_to_not_convert": ["lm_head", "mlp.gate", "linear_attn.in_proj_a", "linear_attn.in_proj_b", "mlp.shared_expert_gate"]}


def config_of(argument, temporary):
    """(name, folder with its config.json)"""
    folder = pathlib.Path(argument.removesuffix("+fp8"))
    if not argument.endswith("+fp8"):
        return folder.name, folder
    made = pathlib.Path(temporary) / (folder.name + "-FP8")
    made.mkdir()
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": QWEN_FP8}
    (made / "config.json").write_text(json.dumps(config))
    return made.name, made


def gib(value):
    return f"{value / 2**30:,.2f}"


def plan(program, config, ranks, mesh, device):
    with tempfile.TemporaryDirectory() as folder:
        recipe = pathlib.Path(folder) / "recipe.json"
        recipe.write_text(json.dumps({"model": {"path": str(config)}, "mesh": mesh, "data": {"max_length": 2048},
                                      "dist": {"device": device}}))
        return json.loads(subprocess.run([program, "plan", recipe, "--world", str(ranks), "--ranks-per-node", str(min(ranks, 8)), "--json"],
                                         check=True, capture_output=True, text=True).stdout)


def total(load, mode):
    value = load[mode]
    return sum(value.values()) if isinstance(value, dict) else value


def predicted(program, recipe, config, device, ranks, *keys):
    """(whole plan, its best option)"""
    command = [program, "plan", recipe, f"model.path={config}", "--world", str(ranks), "--ranks-per-node", str(min(ranks, 8)), "--device", device,
               "--json", *keys]
    whole = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return whole, whole["prediction"]["meshes"][0]


def cells_of(option):
    mesh = option["mesh"]
    placed = f"ep {mesh['ep']}, fsdp {mesh['fsdp']}, replicate {mesh['replicate']}"
    if option["offload"] != "none":
        placed += f", {option['offload']} offloaded, {gib(option['resident'])} resident"
    return [placed, gib(option["peak_bytes"]), f"{option['seconds']:.3g}", f"{option['tokens_a_second']:,.0f}",
            f"{100 * option['mfu']:.1f} %", option["bound_by"]]


def print_row(cells):
    print("| " + " | ".join(cells) + " |", flush=True)


def print_gpus(program, recipes):
    print(GPUS)
    print_row(["recipe", "GPU", "GPUs", "mesh", "peak, GiB", "s a step", "tokens/s", "of bf16 peak", "bound by"])
    print("|---" * 9 + "|")
    for recipe, config in recipes:
        for device in ("h100", "h200", "b200"):
            for ranks in (1, 2, 4, 8, 16, 32, 64):
                if ranks > 1 and whole["model"]["bytes"] / ranks > whole["memory_per_rank"]:
                    continue  # the base alone is larger
                whole, best = predicted(program, recipe, config, device, ranks, "mesh.ep=auto")
                if best["fits"]:
                    break
            cells = cells_of(best) if best["fits"] else ["does not fit", gib(best["peak_bytes"]), "", "", "", ""]
            print_row([f"`{pathlib.Path(recipe).stem}`", device.upper(), f"{ranks}" if best["fits"] else f"more than {ranks}", *cells])
    print()


def print_cases(program, recipes):
    print(CASES)
    print_row(["case", "mesh", "peak, GiB", "s a step", "tokens/s", "of bf16 peak", "bound by", "host, GiB", "fits"])
    print("|---" * 9 + "|")
    v4 = next(((r, c) for r, c in recipes if "deepseek_v4" in r), None)
    qwen = next(((r, c) for r, c in recipes if "qwen3_30b" in r), None)
    cases = []
    if v4:
        cases += [("DeepSeek-V4-Flash, one H200, 16,384 tokens", *v4, "h200,host=128GiB", 1,
                   ["data.max_length=16384", "train.batch_size=1", "mesh.offload=auto"]),
                  ("DeepSeek-V4-Flash, 8 × H100, 16,384 tokens each", *v4, "h100", 8,
                   ["data.max_length=16384", "train.batch_size=8", "mesh.ep=auto"])]
    if qwen:
        cases += [(f"Qwen3-30B-A3B, one {device.upper()}, 8,192 tokens, recompute {recompute}", *qwen, device, 1,
                   ["train.batch_size=4", "train.micro_batch_size=4", f"train.recompute={recompute}"])
                  for device in ("h100", "h200") for recompute in ("full", "none")]
    for name, recipe, config, device, ranks, keys in cases:
        _, best = predicted(program, recipe, config, device, ranks, *keys)
        print_row([name, *cells_of(best), gib(best["host_bytes"]), "yes" if best["fits"] else "**no**"])
    print()


def print_ranks(program, configs, temporary):
    print(RANKS)
    for argument in configs:
        name, config = config_of(argument, temporary)
        print(f"### {name}\n")
        print("| ranks | mesh | read | base | buffers | adapter + moments | activations | peak | activations, CUDA | peak, CUDA | a step | load, node | load, rank0 |")
        print("|---" * 13 + "|")
        for ranks, mesh in MESHES:
            p, cuda = [plan(program, config, ranks, mesh, device) for device in ("cpu", "cuda")]
            most, on_cuda = [{key: max(rank[key] for rank in q["ranks"]) for key in q["ranks"][0]} for q in (p, cuda)]
            m = p["mesh"]
            adapter = max(rank["adapter_bytes"] + rank["optimizer_bytes"] for rank in p["ranks"])
            print_row([f"{ranks:,}", f"ep {m['ep']}, fsdp {m['fsdp']}, replicate {m['replicate']}", gib(most["bytes_read"]),
                       gib(most["resident_base_bytes"]), gib(most["gather_buffer_bytes"]), gib(adapter), gib(most["activation_bytes"]),
                       f"**{gib(most['peak_bytes'])}**", gib(on_cuda["activation_bytes"]), f"**{gib(on_cuda['peak_bytes'])}**",
                       gib(most["step_received_bytes"]), gib(total(p["load_network_bytes"], "node")),
                       gib(total(p["load_network_bytes"], "rank0"))])
        print("\n(GiB)\n")


def main():
    program, *arguments = sys.argv[1:]
    recipes = [argument.split("=", 1) for argument in arguments if "=" in argument]
    print(INTRODUCTION)
    if recipes:
        print_gpus(program, recipes)
        print_cases(program, recipes)
    with tempfile.TemporaryDirectory() as temporary:
        print_ranks(program, [argument for argument in arguments if "=" not in argument], temporary)


if __name__ == "__main__":
    main()
