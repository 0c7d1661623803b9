"""Where vLLM's and SGLang's own code puts the tensors of an adapter that moraine exports: each expert's, and each linear layer's, in its place.

    MORAINE_VLLM=DIR MORAINE_SGLANG=DIR server_tensors_test.py MORAINE_PROGRAM

server_rules_test.py holds the names of keys; this test goes on with their tensors, on the CPU. Of the package's unpacked files
(scripts/servers.sh) these are run as they are: LoRALayerWeights and PackedLoRALayerWeights, the LoRAModelManager's packing and stacking, and
the MoE layers' set_lora into buffers of a higher rank. Stand-ins are the manager itself and the layers' sizes: one GPU, no tensor or expert
parallelism, no kernel. What is in the buffers afterwards must be scaling·B and A of PEFT's file, cut by the formula in docs/adapters.md, bit
for bit. Of SGLang only the LoRAAdapter is run, which joins the tensors to what the memory pool copies; the copying is not (its digest is
in server_rules.json). Needs torch and safetensors (tests/reference.py); without both packages it exits 77, skipped.
"""
import json
import os
import pathlib
import sys
import tempfile
import types

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import reference  # noqa: F401  first: it may start this test again
import server_rules_test as rules
from families import GOLDENS

import torch
from safetensors.torch import load_file

SGLANG_NO_EXPERTS = ("DeepseekV4ForCausalLM", "MixtralForCausalLM", "MiniMaxM2ForCausalLM", "Ernie4_5_MoeForCausalLM")  # whose it does not read
RESERVED = 8  # ranks in the buffers; the adapters have 4


class Vllm(rules.Vllm):
    def __init__(self, folder):
        super().__init__(folder)
        self.scope |= {"torch": torch, "BaseLayerWithLoRA": object, "_not_fully_sharded_can_replace": lambda method: method, "PIN_MEMORY": False}
        for name in ("LoRALayerWeights", "PackedLoRALayerWeights"):
            self.package.define("lora/lora_weights.py", name, self.scope)
        for name in ("FusedMoEWithLoRA", "FusedMoE3DWithLoRA"):
            self.package.define("lora/layers/fused_moe.py", name, self.scope)
        for name in ("_create_merged_loras_inplace", "_stack_moe_lora_weights", "_pop_lora_weights"):
            self.methods[name] = self.package.define("lora/model_manager.py", f"LoRAModelManager.{name}", self.scope)

    def moe_layer(self, is_3d, experts, hidden, width):
        parent = self.scope["FusedMoE3DWithLoRA" if is_3d else "FusedMoEWithLoRA"]
        sized = type("Layer", (parent,), {"global_num_experts": experts, "ep_rank": 0})
        layer = sized.__new__(sized)
        layer.tp_size, layer.fully_sharded, layer._w13_slices, layer.adapter_enabled = 1, False, 1 if is_3d else 2, torch.zeros(2)
        buffers = lambda count, *shape: tuple(torch.zeros(1, experts, *shape) for _ in range(count))
        layer.w13_lora_a_stacked = buffers(layer._w13_slices, RESERVED, hidden)
        layer.w13_lora_b_stacked = buffers(layer._w13_slices, 2 * width if is_3d else width, RESERVED)
        layer.w2_lora_a_stacked, layer.w2_lora_b_stacked = buffers(1, RESERVED, width), buffers(1, hidden, RESERVED)
        return layer

    def loaded(self, architecture, tensors, config, experts, sizes):
        """{module: its buffers, of experts, or its lists of factors}, as after activate_adapter; and what the file had by names of vLLM's."""
        packed, mapper, is_3d = self.naming(architecture, experts)
        _, stem, modules = rules.VLLM[architecture]
        loras = {}
        for key, tensor in tensors.items():
            name, is_a = self.scope["parse_fine_tuned_lora_name"](key, mapper)[:2]
            lora = loras.setdefault(name, self.scope["LoRALayerWeights"](name, config["r"], config["lora_alpha"], None, None))
            setattr(lora, "lora_a" if is_a else "lora_b", tensor.clone())
        names = [f"{stem}layers.{layer}.{local}" for layer in range(sizes[0]) for local in modules]
        layers = {name: self.moe_layer(is_3d, experts, *sizes[1:]) for name in names if name.endswith(".experts")}
        manager = self.manager(architecture, packed, modules=layers, _is_3d_moe_model=is_3d, _enable_moe_shared_loras=False,
                               _is_non_gated_moe=False, _enable_mixed_moe_lora_format=False, _slice_moe_lora_ep=lambda *arguments: None,
                               _restrict_to_local_experts=lambda name, parts: parts)
        model = types.SimpleNamespace(loras=loras, modules_to_save=None, check_lora_name=lambda name: name in loras, get_lora=loras.get)
        for name in names:
            if not (is_3d and name.endswith(".experts")):
                manager._register_packed_modules(name)
        manager._create_merged_loras_inplace(model)
        found = {}
        for name in names:
            lora = manager._get_lora_layer_weights(model, name)
            if lora and name in layers:
                layers[name].set_lora(0, lora.lora_a, lora.lora_b)
                found[name] = layers[name]
            elif lora:
                found[name] = (lora, manager.packed_modules.get(name, [name]))
        return found


def wrong_experts(layer, a, b, scaling, experts):
    """Of gate_up_proj and down_proj, PEFT's A and B."""
    wrong = []
    for place, (stacked_a, stacked_b) in {"gate_up_proj": (layer.w13_lora_a_stacked, layer.w13_lora_b_stacked),
                                          "down_proj": (layer.w2_lora_a_stacked, layer.w2_lora_b_stacked)}.items():
        rank = a[place].shape[0] // experts
        for expert in range(experts):
            rows = (scaling * b[place][:, expert::experts]).chunk(len(stacked_b))
            for part, values in enumerate(rows):
                good = torch.equal(stacked_a[part][0, expert, :rank], a[place][expert * rank:(expert + 1) * rank]) and \
                    torch.equal(stacked_b[part][0, expert, :, :rank], values) and \
                    not stacked_a[part][0, expert, rank:].any() and not stacked_b[part][0, expert, :, rank:].any()
                wrong += [] if good else [f"{place} of expert {expert}, part {part}"]
    return wrong


def check(vllm, program, architecture, golden, model):
    _, _, is_3d = vllm.naming(architecture, 1)
    adapters = {layout: (folder, experts) for layout, folder, _, experts in rules.adapters_of(program, model, golden, model.parent)}
    adapter, experts = adapters["peft" if is_3d else "per-expert"]
    config, tensors = json.loads((adapter / "adapter_config.json").read_text()), load_file(adapter / "adapter_model.safetensors")
    peft = load_file(GOLDENS / golden / "lora" / "adapter" / "adapter_model.safetensors")
    of_experts = {key: value for key, value in peft.items() if ".experts." in key}
    with_experts = {int(key.split(".layers.")[1].split(".")[0]) for key in of_experts}
    layers = 1 + max(with_experts)
    hidden = next(value.shape[0] for key, value in of_experts.items() if key.endswith("experts.lora_B.weight"))
    width = next(value.shape[1] for key, value in of_experts.items() if key.endswith("experts.lora_A.weight"))
    scaling = config["lora_alpha"] / config["r"]
    found, wrong, placed = vllm.loaded(architecture, tensors, config, experts, (layers, hidden, width)), [], 0
    for layer in sorted(with_experts):
        factors = {letter: {place: peft[f"base_model.model.model.layers.{layer}.mlp.experts.{wrapper}lora_{letter}.weight"]
                            for place, wrapper in (("gate_up_proj", "base_layer."), ("down_proj", ""))} for letter in "AB"}
        moe = next(value for name, value in found.items() if f"layers.{layer}." in name and name.endswith(".experts"))
        wrong += [f"layer {layer}: {place}" for place in wrong_experts(moe, factors["A"], factors["B"], scaling, experts)]
        placed += 1
    # Linear layers, each by itself or packed with its neighbours: the file's tensors in the order of the names that are packed.
    linear = 0
    _, mapper, _ = vllm.naming(architecture, experts)
    by_name = {}
    for key, tensor in tensors.items():
        name, is_a = vllm.scope["parse_fine_tuned_lora_name"](key, mapper)[:2]
        by_name.setdefault(name, {})[is_a] = tensor
    for name, value in found.items():
        if not isinstance(value, tuple):
            continue
        lora, parts = value
        a, b = (lora.lora_a, lora.lora_b) if isinstance(lora.lora_a, list) else ([lora.lora_a], [lora.lora_b])
        for part, of_a, of_b in zip(parts, a, b, strict=True):
            stored = by_name.get(part) or by_name.get(part.removeprefix("language_model."))
            good = of_a is None and stored is None or \
                stored is not None and torch.equal(of_a, stored[True]) and torch.equal(of_b, scaling * stored[False])
            linear += stored is not None
            wrong += [] if good else [part]
    rules.report(not wrong and placed == len(with_experts) > 0 and linear > 0,
                 f"vllm, {architecture}, {'peft' if is_3d else 'per-expert'}: the experts of {placed} layers and {linear} linear layers are where they "
                 f"belong" + "".join(f"\n  not: {place}" for place in wrong[:6]))


def check_sglang(sglang, program, architecture, golden, model):
    """Each expert's projections after LoRAAdapter._normalize_weights."""
    adapters = {layout: (folder, text, experts) for layout, folder, text, experts in rules.adapters_of(program, model, golden, model.parent / "sglang")}
    adapter, text, experts = adapters["per-expert"]
    config, tensors = json.loads((adapter / "adapter_config.json").read_text()), load_file(adapter / "adapter_model.safetensors")
    peft = load_file(GOLDENS / golden / "lora" / "adapter" / "adapter_model.safetensors")
    loaded = types.SimpleNamespace(
        uid="a", config=types.SimpleNamespace(target_modules=config["target_modules"], r=config["r"], lora_added_tokens_size=0),
        layers=[types.SimpleNamespace(weights={}) for _ in range(text["num_hidden_layers"])], embedding_layers={}, added_tokens_embeddings={},
        base_hf_config=types.SimpleNamespace(architectures=[architecture], model_type=""), _moe_is_gated_by_layer={})
    for name, method in sglang.methods.items():
        setattr(loaded, name, types.MethodType(method, loaded))
    for key, tensor in tensors.items():
        loaded._process_weight(key, tensor)
    loaded._normalize_weights()
    wrong, rank = [], config["r"]
    with_experts = [index for index in range(len(loaded.layers)) if any(f".layers.{index}.mlp.experts." in key for key in peft)]
    for index in with_experts:
        layer = loaded.layers[index]
        stem = f"base_model.model.model.layers.{index}.mlp.experts."
        for target, wrapper, parts in (("gate_up_proj", "base_layer.", 2), ("down_proj", "", 1)):
            a, b = (peft[f"{stem}{wrapper}lora_{letter}.weight"] for letter in "AB")
            for expert in range(experts):
                of_a, of_b = (layer.weights.get(f"{stem}{expert}.{target}.lora_{letter}.weight") for letter in "AB")
                rows = a[expert * rank:(expert + 1) * rank]
                good = of_a is not None and torch.equal(of_a, torch.cat([rows] * parts)) and torch.equal(of_b, b[:, expert::experts])
                wrong += [] if good else [f"layer {index}: {target} of expert {expert}"]
    rules.report(not wrong and with_experts, f"sglang, {architecture}, per-expert: the experts of {len(with_experts)} layers are joined as the memory pool takes them" +
                 "".join(f"\n  not: {place}" for place in wrong[:6]))


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    folders = {}
    for name in ("vllm", "sglang"):
        fetched = rules.STORED.parents[2] / ".servers" / name
        folders[name] = os.environ.get(f"MORAINE_{name.upper()}") or (fetched if fetched.is_dir() else None)
    if not any(folders.values()):
        print("SKIPPED: no Python files of vLLM or SGLang: bash scripts/servers.sh fetches them; or MORAINE_VLLM, MORAINE_SGLANG name their folders")
        return 77
    vllm, sglang = folders["vllm"] and Vllm(folders["vllm"]), folders["sglang"] and rules.Sglang(folders["sglang"])
    with tempfile.TemporaryDirectory() as temporary:
        for architecture, golden, model in rules.models_in(pathlib.Path(temporary)):
            if architecture in rules.READ_ONLY + rules.UNSERVED:
                continue
            if vllm:
                check(vllm, program, architecture, golden, model)
            if sglang and architecture not in SGLANG_NO_EXPERTS:
                sglang.scope["torch"] = torch
                check_sglang(sglang, program, architecture, golden, model)
    return 1 if rules.failures else 0


if __name__ == "__main__":
    sys.exit(main())
