"""Makes docs/plans.md: what real models need on 1, 8, 64 and 1,024 ranks.

  python tools/plan_table.py PROGRAM CONFIG_FOLDER ... > docs/plans.md     (standard library only; folders with a config.json)

FOLDER+fp8 stands for the FP8 release of a Qwen model: the same config.json with the quantization_config of that release.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

# ranks, mesh
MESHES = [(1, {}), (8, {"ep": 8}), (64, {"ep": 8}), (1024, {"ep": 8, "replicate": 16})]
INTRODUCTION = """# Plans of real models

Made by `tools/plan_table.py` from config.json alone: `moraine plan` with LoRA r 8 on all linear layers and experts, one sequence of 2,048
tokens per rank and step, 8 ranks per node. Bytes of a rank are those of the fullest one. *Read*: from files in `load.mode` direct.
*Base*: shards kept all the time. *Buffers*: two gathered layers. *Activations*: layers and head, run once on tensors without data; on the
CPU with the kernels that oneDNN compiles for bf16 (up to 5 GiB) and what malloc cannot use again. *Peak* includes libtorch itself; on CUDA
neither its context nor NCCL's buffers are counted. *A step*: what a rank receives over the network. *Load*: what crosses a network or
shared memory in the modes node (within nodes) and rank0 (from rank 0); in mode direct nothing does. FP8 and FP4 weights stay as they are
stored.
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


def main():
    program, *configs = sys.argv[1:]
    print(INTRODUCTION)
    temporary = tempfile.TemporaryDirectory()
    for argument in configs:
        name, config = config_of(argument, temporary.name)
        print(f"## {name}\n")
        print("| ranks | mesh | read | base | buffers | adapter + moments | activations | peak | activations, CUDA | peak, CUDA | a step | load, node | load, rank0 |")
        print("|---" * 13 + "|")
        for ranks, mesh in MESHES:
            p, cuda = [plan(program, config, ranks, mesh, device) for device in ("cpu", "cuda")]
            most, on_cuda = [{key: max(rank[key] for rank in q["ranks"]) for key in q["ranks"][0]} for q in (p, cuda)]
            m = p["mesh"]
            adapter = max(rank["adapter_bytes"] + rank["optimizer_bytes"] for rank in p["ranks"])
            cells = [f"{ranks:,}", f"ep {m['ep']}, fsdp {m['fsdp']}, replicate {m['replicate']}", gib(most["bytes_read"]),
                     gib(most["resident_base_bytes"]), gib(most["gather_buffer_bytes"]), gib(adapter), gib(most["activation_bytes"]),
                     f"**{gib(most['peak_bytes'])}**", gib(on_cuda["activation_bytes"]), f"**{gib(on_cuda['peak_bytes'])}**",
                     gib(most["step_received_bytes"]), gib(total(p["load_network_bytes"], "node")),
                     gib(total(p["load_network_bytes"], "rank0"))]
            print("| " + " | ".join(cells) + " |")
        print("\n(GiB)\n")


if __name__ == "__main__":
    main()
