"""What src/adapter/server_rules.cpp says of vLLM and SGLang is what their own code makes of adapters' keys.

    MORAINE_VLLM=DIR MORAINE_SGLANG=DIR server_rules_test.py MORAINE_PROGRAM [--write]

Each folder holds the package's unpacked Python files; scripts/servers.sh fetches both into .servers/, where they are found without these
variables, and runs this test. A server that is not there is left out, and without both the test exits 77, skipped. Nothing of a server is installed or imported: functions and classes are taken out of
its files by name and run on the keys of adapters that moraine writes of every family, in both layouts, with stand-ins for tensors and for the
modules that a model would have. Each key must come to what `moraine inspect --for` says of it.

What only a running server would do is held by digests of the code that the rules were read in (server_rules.json beside this file): when a
version changes it, the test fails and names the rule and the place to read again. --write stores the digests of the folders given.
"""
import __future__
import ast
import contextlib
import hashlib
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import types

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from families import GOLDENS, golden_models

STORED = pathlib.Path(__file__).with_suffix("").with_name("server_rules.json")
failures = 0


def report(good, text):
    global failures
    failures += not good
    print(f"{'ok' if good else 'FAILED'}: {text}", flush=True)


class Package:
    """Python files, and what is defined in them by name."""

    def __init__(self, folder, name):
        self.root = pathlib.Path(folder) / name if (pathlib.Path(folder) / name).is_dir() else pathlib.Path(folder)
        self.name, self.parsed = name, {}

    def tree(self, path):
        if path not in self.parsed:
            file = self.root / path
            if not file.is_file():
                sys.exit(f"FAILED: {self.name} has no {path}: read its rules in src/adapter/server_rules.cpp again")
            self.parsed[path] = ast.parse(file.read_text())
        return self.parsed[path]

    def find(self, path, name):
        """"Class.method.inner" in a file."""
        node = self.tree(path)
        for part in name.split("."):
            node = next((child for child in ast.walk(node) if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and child.name == part), None)
            if node is None:
                sys.exit(f"FAILED: {self.name}: {path} has no {name}: read its rules in src/adapter/server_rules.cpp again")
        return node

    def attribute(self, path, name):
        """The expression that a class's or a file's name is set to."""
        *parents, last = name.split(".")
        body = (self.find(path, ".".join(parents)) if parents else self.tree(path)).body
        for node in body:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) and node.value else []
            if any(isinstance(target, ast.Name) and target.id == last for target in targets):
                return node.value
        return None

    def define(self, path, name, scope):
        """Runs a definition in `scope` and returns what it defines."""
        node = self.find(path, name)
        module = ast.Module([node], [])
        exec(compile(module, str(self.root / path), "exec", __future__.annotations.compiler_flag, True), scope)
        return scope[node.name]

    def value(self, path, name, scope):
        return eval(compile(ast.Expression(self.attribute(path, name)), str(self.root / path), "eval"), scope)

    def digest(self, path, name):
        node = self.attribute(path, name) or self.find(path, name)
        for child in ast.walk(node):  # without docstrings; comments and layout are not in a tree
            body = getattr(child, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) \
                    and isinstance(body[0].value.value, str):
                child.body = body[1:] or [ast.Pass()]
        return hashlib.sha256(ast.dump(node).encode()).hexdigest()[:16]

    def has_prefix(self, path, name, last):
        """Whether the class makes a module with prefix=f"{prefix}.LAST"."""
        return any(isinstance(node, ast.JoinedStr) and isinstance(node.values[-1], ast.Constant) and node.values[-1].value == f".{last}"
                   for node in ast.walk(self.find(path, name)))


class Quiet:
    def __getattr__(self, name):
        return lambda *args, **kwargs: None


# ---- adapters and what moraine says of them ----

def keys_of(adapter):
    with open(adapter / "adapter_model.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {key: value["shape"] for key, value in header.items() if key != "__metadata__"}


def pattern_of(key):
    return re.sub(r"\.lora_[AB]", ".lora_*", re.sub(r"(?<=\.)\d+(?=\.)", "*", key))


def said_by_moraine(program, server, model, adapter):
    """{pattern of keys: (fate, module or why)} and the fates of keys of adapter_config.json."""
    done = subprocess.run([program, "inspect", adapter, "--for", server, "--model", model, "--json"], capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f"FAILED: moraine inspect: {done.stderr}")
    said = json.loads(done.stdout)
    return {row["keys"]: (row["fate"], row.get("module", row.get("why"))) for row in said["tensors"]}, {row["keys"]: row["fate"] for row in said["config"]}


def add_router(adapter, module, hidden, experts):
    """An adapter of a router, of zeros."""
    path = adapter / "adapter_model.safetensors"
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header, values = json.loads(data[8:8 + size]), data[8 + size:]
    for factor, shape in (("A", [4, hidden]), ("B", [experts, 4])):
        count = 4 * shape[0] * shape[1]
        header[f"base_model.model.{module}.lora_{factor}.weight"] = {"dtype": "F32", "shape": shape,
                                                                      "data_offsets": [len(values), len(values) + count]}
        values += bytes(count)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)


def adapters_of(program, model, golden, folder):
    """The golden adapter in both layouts, with an adapter of a router."""
    config = json.loads((model / "config.json").read_text())
    config = config.get("text_config", config)
    experts = next(config[key] for key in ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts") if key in config)
    for layout in ("peft", "per-expert"):
        out = folder / layout
        subprocess.run([program, "export", "--model", model, "--adapter", GOLDENS / golden / "lora" / "adapter", "--layout", layout, "--out", out],
                       check=True, stdout=subprocess.DEVNULL)
        name = re.match(r"base_model\.model\.(.*layers\.\d+\.)", next(key for key in sorted(keys_of(out)) if ".experts." in key))[1]
        routers = {"Mixtral": "block_sparse_moe.gate", "MiniMaxM2": "block_sparse_moe.gate", "DeepseekV4": "ffn.gate"} if layout == "per-expert" else {}
        router = next((gate for family, gate in routers.items() if family in config.get("architectures", [""])[0]), "mlp.gate")
        add_router(out, name + router, config["hidden_size"], experts)
        yield layout, out, config, experts


def compare(server, architecture, layout, keys, said, found):
    """`found`: {key: (fate, module)} as the server's code has it."""
    wrong = []
    for key in keys:
        fate, what = said[pattern_of(key)]
        theirs, module = found[key]
        unused = fate == "ignored" and "computed without it" in what and theirs == "read"  # held by digests
        if not unused and (fate != theirs or (fate == "read" and what != module)):
            wrong.append(f"{key}: moraine says {fate} ({what}), the server's code {theirs} ({module})")
    report(not wrong, f"{server}, {architecture}, {layout}: {len(keys)} keys as the server's code has them" + "".join(f"\n  {line}" for line in wrong[:6]))


# ---- vLLM ----

MODELS = "model_executor/models/"
QWEN3, NEXT, QWEN3_5 = MODELS + "qwen3_moe.py", MODELS + "qwen3_next.py", MODELS + "qwen3_5.py"
V4 = "models/deepseek_v4/"
# Of each family: the class that serves it, what its modules' names begin with, and of each module of a layer the class that makes it.
VLLM = {
    "Qwen3MoeForCausalLM": (QWEN3, "model.", {
        "self_attn.qkv_proj": (QWEN3, "Qwen3MoeAttention"), "self_attn.o_proj": (QWEN3, "Qwen3MoeAttention"),
        "mlp.gate": (QWEN3, "Qwen3MoeSparseMoeBlock"), "mlp.experts": (QWEN3, "Qwen3MoeSparseMoeBlock")}),
    "MixtralForCausalLM": (MODELS + "mixtral.py", "model.", {
        "self_attn.qkv_proj": (MODELS + "mixtral.py", "MixtralAttention"), "self_attn.o_proj": (MODELS + "mixtral.py", "MixtralAttention"),
        "block_sparse_moe.gate": (MODELS + "mixtral.py", "MixtralMoE"), "block_sparse_moe.experts": (MODELS + "mixtral.py", "MixtralMoE")}),
    "OlmoeForCausalLM": (MODELS + "olmoe.py", "model.", {
        "self_attn.qkv_proj": (MODELS + "olmoe.py", "OlmoeAttention"), "self_attn.o_proj": (MODELS + "olmoe.py", "OlmoeAttention"),
        "mlp.gate": (MODELS + "olmoe.py", "OlmoeMoE"), "mlp.experts": (MODELS + "olmoe.py", "OlmoeMoE")}),
    "DeepseekV4ForCausalLM": (V4 + "nvidia/model.py", "model.", {
        **{f"attn.{name}": (V4 + "attention.py", "DeepseekV4Attention") for name in ("fused_wqa_wkv", "wq_b", "wo_a", "wo_b")},
        **{f"attn.indexer.{name}": (V4 + "attention.py", "DeepseekV4Indexer") for name in ("wq_b", "weights_proj")},
        **{f"attn.{name}compressor.fused_wkv_wgate": (V4 + "compressor.py", "DeepseekCompressor") for name in ("", "indexer.")},
        **{f"ffn.shared_experts.{name}": (V4 + "nvidia/model.py", "DeepseekV4MLP") for name in ("gate_up_proj", "down_proj")},
        **{f"ffn.{name}": (V4 + "nvidia/model.py", "DeepseekV4MoE") for name in ("gate", "experts")}}),
}
BESIDE = ("gate_up_proj", "down_proj")


def modules_of(path, attention, moe, mlp, shared="", more=(), block="mlp"):
    """Of a family whose classes are in one file: attention, experts and router, the shared expert, layers without experts."""
    return {**{f"self_attn.{name}": (path, attention) for name in ("qkv_proj", "o_proj")},
            **{f"{block}.{name}": (path, moe) for name in ("gate", "experts", *more)},
            **({f"mlp.{shared}.{name}": (path, mlp) for name in BESIDE} if shared else {}),
            **({f"mlp.{name}": (path, mlp) for name in BESIDE} if mlp else {})}


VLLM |= {
    "Glm4MoeForCausalLM": (MODELS + "glm4_moe.py", "model.", modules_of(
        MODELS + "glm4_moe.py", "Glm4MoeAttention", "Glm4MoE", "Glm4MoeMLP", "shared_experts")),
    "MiniMaxM2ForCausalLM": (MODELS + "minimax_m2.py", "model.", modules_of(
        MODELS + "minimax_m2.py", "MiniMaxM2Attention", "MiniMaxM2MoE", None, block="block_sparse_moe")),
    "Qwen2MoeForCausalLM": (MODELS + "qwen2_moe.py", "model.", modules_of(
        MODELS + "qwen2_moe.py", "Qwen2MoeAttention", "Qwen2MoeSparseMoeBlock", "Qwen2MoeMLP", "shared_expert", ("shared_expert_gate",))),
    "Ernie4_5_MoeForCausalLM": (MODELS + "ernie45_moe.py", "model.", modules_of(
        MODELS + "ernie45_moe.py", "Ernie4_5_MoeAttention", "Ernie4_5_MoeMoE", "Ernie4_5_MoeMLP", "shared_experts")),
}
NEXT_MODULES = {
    **modules_of(NEXT, "Qwen3NextAttention", "Qwen3NextSparseMoeBlock", None, more=("shared_expert_gate",)),
    **{f"mlp.{block}{name}": (MODELS + "qwen2_moe.py", "Qwen2MoeMLP") for block in ("", "shared_expert.") for name in BESIDE},
    **{f"linear_attn.{name}": ("model_executor/layers/mamba/gdn/qwen_gdn_linear_attn.py", "QwenGatedDeltaNetAttention")
       for name in ("in_proj_qkvz", "in_proj_ba", "out_proj")}}
VLLM["Qwen3NextForCausalLM"] = (NEXT, "model.", NEXT_MODULES)
QWEN3_5_MODULES = {
    "self_attn.qkv_proj": (NEXT, "Qwen3NextAttention"), "self_attn.o_proj": (NEXT, "Qwen3NextAttention"),
    **{f"mlp.{name}": (NEXT, "Qwen3NextSparseMoeBlock") for name in ("gate", "shared_expert_gate", "experts")},
    **{f"mlp.shared_expert.{name}": (MODELS + "qwen2_moe.py", "Qwen2MoeMLP") for name in ("gate_up_proj", "down_proj")},
    **{f"linear_attn.{name}": ("model_executor/layers/mamba/gdn/qwen_gdn_linear_attn.py", "QwenGatedDeltaNetAttention")
       for name in ("in_proj_qkvz", "in_proj_ba", "out_proj")}}
VLLM["Qwen3_5MoeForConditionalGeneration"] = (QWEN3_5, "language_model.model.", QWEN3_5_MODULES)
VLLM["Qwen3_5MoeForCausalLM"] = (QWEN3_5, "model.", QWEN3_5_MODULES)
# Where a name that a class's attributes use is defined.
VLLM_CLASSES = {"Qwen3MoeModel": QWEN3, "MixtralModel": MODELS + "mixtral.py", "Qwen3VLForConditionalGeneration": MODELS + "qwen3_vl.py",
                "Qwen3NextModel": NEXT, "MiniMaxM2Model": MODELS + "minimax_m2.py"}


class Vllm:
    def __init__(self, folder):
        self.package = package = Package(folder, "vllm")
        import dataclasses
        self.scope = {"re": re, "dataclass": dataclasses.dataclass, "field": dataclasses.field, "replace": dataclasses.replace,
                      "logger": Quiet(), "staticmethod": staticmethod, "classmethod": classmethod}
        for path, name in ((MODELS + "utils.py", "WeightsMapper"), ("lora/utils.py", "parse_fine_tuned_lora_name"),
                           ("lora/utils.py", "is_base_embedding_weights"), (V4 + "nvidia/model.py", "_make_deepseek_v4_weights_mapper")):
            package.define(path, name, self.scope)
        for name, path in VLLM_CLASSES.items():
            self.scope[name] = types.SimpleNamespace(**{
                attribute: package.value(path, f"{name}.{attribute}", self.scope)
                for attribute in ("hf_to_vllm_mapper", "packed_modules_mapping") if package.attribute(path, f"{name}.{attribute}") is not None})
        manager = {"logger": Quiet(), "self": None}
        self.methods = {name: package.define("lora/model_manager.py", f"LoRAModelManager.{name}", manager) for name in (
            "_register_packed_modules", "_get_text_lora_names", "_get_text_lora_name", "_get_lora_layer_weights")}

    def inherited(self, path, name, attribute, otherwise):
        """Of a class, else of those of its bases that are in the same file."""
        node = self.package.find(path, name)
        if self.package.attribute(path, f"{name}.{attribute}") is not None:
            return self.package.value(path, f"{name}.{attribute}", self.scope)
        for base in node.bases:
            known = [other.name for other in self.package.tree(path).body if isinstance(other, ast.ClassDef)]
            if isinstance(base, ast.Name) and base.id in known:
                value = self.inherited(path, base.id, attribute, None)
                if value is not None:
                    return value
        return otherwise

    def checkpoint_names(self, path):
        """An expert's gate, down and up, as get_expert_mapping has them: of the file's calls of FusedMoEFactory, else its default."""
        calls = [node for node in ast.walk(self.package.tree(path)) if isinstance(node, ast.keyword) and node.arg == "ckpt_names"]
        return ast.literal_eval(calls[0].value) if calls else ("gate_proj", "down_proj", "up_proj")

    def packed_by_init(self, path, name):
        """What the class adds to packed_modules_mapping when it is made: of models that have the layers, which the goldens do."""
        init = next((node for node in self.package.find(path, name).body if isinstance(node, ast.FunctionDef) and node.name == "__init__"), None)
        return {ast.literal_eval(node.targets[0].slice): ast.literal_eval(node.value) for node in ast.walk(init or ast.Module([], []))
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("self.packed_modules_mapping[")}

    def naming(self, architecture, experts):
        """(what is packed into which modules, the mapper of names, whether the class has 3-D experts)"""
        path, _, _ = VLLM[architecture]
        packed = dict(self.inherited(path, architecture, "packed_modules_mapping", {})) | self.packed_by_init(path, architecture)
        mapper = self.inherited(path, architecture, "hf_to_vllm_mapper", None)
        is_3d = self.inherited(path, architecture, "is_3d_moe_weight", False)
        if not is_3d:
            words = ("w1", "w2", "w3") if architecture == "DeepseekV4ForCausalLM" else self.checkpoint_names(path)
            packed["experts"] = [f"experts.{expert}.{word}" for expert in range(experts) for word in words]
        return packed, mapper and mapper.get_rename_mapper(), is_3d

    def manager(self, architecture, packed, **more):
        """A stand-in for the LoRAModelManager, with its own methods."""
        manager = types.SimpleNamespace(packed_modules_mapping=packed, packed_modules={}, is_pooling_model=False,
                                        supports_mm="ConditionalGeneration" in architecture,
                                        mm_mapping=types.SimpleNamespace(language_model=["language_model"]), **more)
        for name, method in self.methods.items():
            setattr(manager, name, types.MethodType(method, manager))
        return manager

    def fates(self, architecture, keys, layers, experts):
        path, stem, modules = VLLM[architecture]
        for local, (made_in, by) in modules.items():
            last = local.rpartition(".")[2]
            if not self.package.has_prefix(made_in, by, last):
                report(False, f"vllm, {architecture}: {by} in {made_in} makes no {last}")
        packed, mapper, is_3d = self.naming(architecture, experts)
        skipped = self.inherited(path, architecture, "lora_skip_prefixes", None)
        # worker_manager.py, _load_adapter: what it expects.
        expected = set()
        for name in {local.rpartition(".")[2] for local in modules}:
            expected.update(packed.get(name, [name]))
            if name == "experts":
                expected.add(name)
        scope = dict(self.scope, skip_prefixes=skipped, weights_mapper=mapper, expected_lora_modules=expected, unexpected_modules=[],
                     peft_helper=types.SimpleNamespace(modules_to_save=None), lora_dir="", cls=types.SimpleNamespace(
                         _should_skip_module=lambda name, prefixes: any(f".{prefix}" in name or name.startswith(prefix) for prefix in prefixes)))
        check = self.package.define("lora/lora_model.py", "LoRAModel.from_local_checkpoint.check_unexpected_modules", scope)
        parse, found = self.scope["parse_fine_tuned_lora_name"], {}
        loras = {}
        for key in keys:
            with contextlib.suppress(ValueError):
                check({key: None})
            name = parse(key, mapper)[0]
            if name in scope["unexpected_modules"]:
                found[key] = ("refused", "unexpected")
            loras.setdefault(name, []).append(key)
        manager = self.manager(architecture, packed)
        lora = types.SimpleNamespace(check_lora_name=lambda name: name in loras, get_lora=lambda name: loras.get(name))
        for layer in range(layers):
            for local in modules:
                full = f"{stem}layers.{layer}.{local}"
                manager._register_packed_modules(full)
                parts = manager.packed_modules.get(full, [full])
                if local.endswith(".experts"):
                    whole = manager._get_lora_layer_weights(lora, full)
                    if not is_3d and whole:  # _validate_moe_lora_format
                        for key in whole + (manager._get_lora_layer_weights(lora, full + ".base_layer") or []):
                            found.setdefault(key, ("refused", "3-D experts in a 2-D wrapper"))
                    parts = [full, full + ".base_layer"] if is_3d else parts
                for part in parts:
                    for key in manager._get_lora_layer_weights(lora, part) or []:
                        found.setdefault(key, ("read", local))
        return {key: found.get(key, ("ignored", "no module")) for key in keys}


VLLM_DIGESTS = {
    "which keys are refused": ["lora/lora_model.py:LoRAModel.from_local_checkpoint", "lora/worker_manager.py:WorkerLoRAManager._load_adapter"],
    "names of keys": ["lora/utils.py:parse_fine_tuned_lora_name", "lora/lora_model.py:LoRAModel.from_lora_tensors"],
    "which modules are adapted": ["lora/utils.py:get_supported_lora_modules", "lora/utils.py:is_supported_lora_module",
                                  "lora/utils.py:process_packed_modules_mapping", "lora/model_manager.py:LoRAModelManager._create_lora_modules"],
    "what goes to a module": ["lora/model_manager.py:LoRAModelManager.activate_adapter", "lora/model_manager.py:LoRAModelManager._stack_moe_lora_weights",
                              "lora/model_manager.py:LoRAModelManager._create_merged_loras_inplace"],
    "experts in the other layout": ["lora/model_manager.py:LoRAModelManager._validate_moe_lora_format"],
    "a layer's experts whole": ["lora/lora_weights.py:PackedLoRALayerWeights.pack_moe"],
    "adapter_config.json": ["lora/peft_helper.py:PEFTHelper"],
    "ranks that can be reserved": ["config/lora.py:MaxLoRARanks"],
    "DeepSeek-V4's wo_a and compressors without their adapters": [
        V4 + "nvidia/ops/o_proj.py:", V4 + "compressor.py:DeepseekCompressor.forward"],
    "DeepSeek-V3's kv_b_proj without its adapter": ["model_executor/layers/attention/mla_attention.py:MLAAttention.__init__",
                                                    "model_executor/layers/attention/mla_attention.py:split_kv_b_proj"],
    "modules of DeepSeek-V3, gpt-oss and Qwen3-Next": [
        MODELS + "deepseek_v2.py:DeepseekV2ForCausalLM.packed_modules_mapping", MODELS + "deepseek_v2.py:DeepseekV2ForCausalLM.__init__",
        MODELS + "deepseek_v2.py:DeepseekV2MLAAttention.__init__", MODELS + "deepseek_v2.py:DeepseekV2MoE.__init__",
        MODELS + "gpt_oss.py:GptOssForCausalLM.packed_modules_mapping", MODELS + "gpt_oss.py:GptOssForCausalLM.hf_to_vllm_mapper",
        MODELS + "gpt_oss.py:GptOssForCausalLM.is_3d_moe_weight", MODELS + "gpt_oss.py:MLPBlock.__init__",
        MODELS + "qwen3_next.py:Qwen3NextForCausalLM.packed_modules_mapping", MODELS + "qwen3_next.py:Qwen3NextSparseMoeBlock.__init__"],
}


# ---- SGLang ----

class Tensor:
    """The shape of a tensor, and the keys that it is made of."""

    def __init__(self, shape, keys):
        self.shape, self.keys = list(shape), set(keys)

    def dim(self):
        return len(self.shape)

    def numel(self):
        return 1

    def cpu(self):
        return self

    def repeat(self, *times):
        return self


class Sglang:
    def __init__(self, folder):
        self.package = package = Package(folder, "sglang")
        def cat(tensors, dim=0):
            shape = list(tensors[0].shape)
            shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
            return Tensor(shape, set().union(*(tensor.keys for tensor in tensors)))
        torch = types.SimpleNamespace(
            cat=cat,
            zeros_like=lambda tensor: Tensor(tensor.shape, set()))
        self.scope = {"re": re, "torch": torch, "logger": Quiet(), "object": object}
        for path, name in (("srt/layers/utils/common.py", "get_layer_id"), ("srt/lora/utils.py", "get_normalized_target_modules"),
                           ("srt/lora/utils.py", "get_target_module_name"), ("srt/lora/utils.py", "get_default_hidden_dim")):
            package.define(path, name, self.scope)
        self.scope["DSA_INDEXER_LORA_NAMES"] = package.value("srt/lora/utils.py", "DSA_INDEXER_LORA_NAMES", self.scope)
        self.scope["_ROUTED_EXPERT_PATTERN"] = package.value("srt/lora/lora.py", "_ROUTED_EXPERT_PATTERN", self.scope)
        utils = types.ModuleType("sglang.srt.lora.utils")  # imported within a method
        utils.get_normalized_target_modules = self.scope["get_normalized_target_modules"]
        for name in ("sglang", "sglang.srt", "sglang.srt.lora"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["sglang.srt.lora.utils"] = utils
        node = package.find("srt/lora/lora.py", "LoRAAdapter")
        self.methods = {child.name: package.define("srt/lora/lora.py", f"LoRAAdapter.{child.name}", self.scope) for child in node.body
                        if isinstance(child, ast.FunctionDef) and ("normalize" in child.name or child.name in (
                            "_process_weight", "_rename_expert_w_to_proj", "_is_non_gated_moe_weight"))}

    def has_dimensions(self, target, config, architecture):
        if "Qwen3_5" in architecture:  # models/qwen3_5.py has its own list
            names = {node.value for node in ast.walk(self.package.find("srt/models/qwen3_5.py", "get_hidden_dim"))
                     if isinstance(node, ast.Constant) and isinstance(node.value, str)}
            return target in names
        try:
            self.scope["get_default_hidden_dim"](target, config, 0)
        except (NotImplementedError, AttributeError):
            return False
        return True

    def has_mlp_buffers(self, config):
        """mem_pool.py, init_buffers: whether MLPs beside the experts have any."""
        node = next(node for node in ast.walk(self.package.find("srt/lora/mem_pool.py", "LoRAMemoryPool.init_buffers"))
                    if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "has_shared_experts")
        return eval(compile(ast.Expression(node.value), "has_shared_experts", "eval"), {"cfg": config, "hasattr": hasattr, "getattr": getattr})

    def fits_qkv(self, architecture, config, weights, name):
        """mem_pool.py, load_lora_weight_tensor: the rows of B are those of the buffer."""
        if "Qwen3_5" in architecture:  # models/qwen3_5.py has sizes of its own
            return True
        return weights[name.replace("lora_A", "lora_B")].shape[0] == self.scope["get_default_hidden_dim"]("qkv_proj", config, 0)[1]

    def fates(self, architecture, keys, config, target_modules, experts_name):
        found = {}
        targets = self.scope["get_normalized_target_modules"](target_modules)
        unknown = {target for target in targets if not self.has_dimensions(target, config, architecture)}
        if architecture in SGLANG_MLPS and not self.has_mlp_buffers(config):  # the layers are wrapped, and then a KeyError
            unknown |= targets & {"gate_up_proj", "down_proj"}
        adapter = types.SimpleNamespace(
            uid="a", config=types.SimpleNamespace(target_modules=target_modules, r=4, lora_added_tokens_size=0),
            layers=[types.SimpleNamespace(weights={}) for _ in range(config.num_hidden_layers)], embedding_layers={}, added_tokens_embeddings={},
            base_hf_config=types.SimpleNamespace(architectures=[architecture], model_type=""), _moe_is_gated_by_layer={})
        for name, method in self.methods.items():
            setattr(adapter, name, types.MethodType(method, adapter))
        for key, shape in keys.items():
            adapter._process_weight(key, Tensor(shape, {key}))
        adapter._normalize_weights()
        for layer in adapter.layers:
            for name, tensor in layer.weights.items():
                local = re.sub(r"^.*layers\.\d+\.|\.lora_[AB].*$", "", name)
                try:
                    self.scope["get_target_module_name"](name, targets - unknown)
                    fate = ("read", experts_name if re.search(r"experts\.\d+\.", name) else local)
                    if re.search(r"(?<!shared_)experts(\.base_layer)*$", local):
                        fate = ("refused", "3-D experts")
                    if local.endswith(".qkv_proj") and not self.fits_qkv(architecture, config, layer.weights, name):
                        fate = ("refused", "the buffer has another shape")
                except ValueError:
                    fate = ("refused", "no target in its name")
                found.update({key: fate for key in tensor.keys})
        return {key: found.get(key, ("ignored", "not in a layer")) for key in keys}, unknown


# Whose models have MLPs beside the experts, shared ones or those of layers without experts.
SGLANG_MLPS = ("Glm4MoeForCausalLM", "Qwen2MoeForCausalLM", "Ernie4_5_MoeForCausalLM", "Qwen3NextForCausalLM")
SGLANG_DIGESTS = {
    "names of keys": ["srt/lora/lora.py:LoRAAdapter._process_weight", "srt/lora/lora.py:LoRAAdapter._normalize_weights"],
    "target_modules": ["srt/lora/utils.py:get_normalized_target_modules", "srt/lora/utils.py:get_target_module_name",
                       "srt/lora/utils.py:get_default_hidden_dim", "srt/lora/lora_manager.py:LoRAManager.init_lora_shapes",
                       "srt/models/qwen3_5.py:get_hidden_dim"],
    "which weights are refused, and experts by targets": ["srt/lora/mem_pool.py:LoRAMemoryPool.load_lora_weight_to_buffer"],
    "which modules are adapted": ["srt/lora/lora_manager.py:LoRAManager.init_lora_modules", "srt/models/gpt_oss.py:GptOssForCausalLM._lora_pattern_moe"],
    "buffers of MLPs beside experts": ["srt/lora/mem_pool.py:LoRAMemoryPool.init_buffers"],
    "shared experts fused with the routed ones": [
        "srt/models/glm4_moe.py:Glm4MoeForCausalLM.shared_experts_fusion_disable_reason",
        "srt/models/deepseek_v2.py:DeepseekV2ForCausalLM.shared_experts_fusion_disable_reason"],
    "Qwen3-Next's output gate": ["srt/models/qwen3_next.py:Qwen3HybridAttentionDecoderLayer.__init__"],
    "adapter_config.json": ["srt/lora/lora_config.py:LoRAConfig", "srt/lora/lora_manager.py:LoRAManager.validate_new_adapter"],
}


# ---- the test ----

def models_in(folder):
    """(architecture, golden, a folder with its config.json) of every family, and of the text class that a multimodal one has."""
    for golden in golden_models("fp32"):
        config = json.loads((GOLDENS / golden / "model" / "config.json").read_text())
        configs = [config]
        if config["architectures"] == ["Qwen3_5MoeForConditionalGeneration"]:
            configs.append(config["text_config"] | {"architectures": ["Qwen3_5MoeForCausalLM"]})
        for config in configs:
            architecture = config["architectures"][0]
            model = folder / architecture / "model"
            if model.exists():  # two goldens of one class
                continue
            model.mkdir(parents=True)
            (model / "config.json").write_text(json.dumps(config))
            yield architecture, golden, model


# Whose rules were read in the servers' sources, and are not run by them here.
READ_ONLY = ("DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM", "GptOssForCausalLM")
# That neither server has a class for; moraine has no rules of them.
UNSERVED = ("Dots1ForCausalLM", "SolarOpenForCausalLM")


def is_served(server, package, architecture):
    if architecture not in UNSERVED:
        return True
    files = [path for path in package.root.rglob("models/**/*.py") if f"class {architecture}" in path.read_text()]
    report(not files, f"{server}, {architecture}: has no class" + "".join(f"; but {path}" for path in files))
    return False


def digests(package, table):
    found = {}
    for places in table.values():
        for place in places:
            path, _, name = place.partition(":")
            found[place] = package.digest(path, name) if name else hashlib.sha256(ast.dump(package.tree(path)).encode()).hexdigest()[:16]
    return found


def check_digests(server, package, table, stored):
    found = digests(package, table)
    for rule, places in table.items():
        changed = [place for place in places if found[place] != stored.get(server, {}).get(place)]
        report(not changed, f"{server}: the code behind “{rule}” is as it was read" +
               (f"; it is not in {', '.join(changed)}: read it again, mend src/adapter/server_rules.cpp, then --write" if changed else ""))
    return found


def main():
    program, write = pathlib.Path(sys.argv[1]).resolve(), "--write" in sys.argv
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    servers = {}
    for name in ("vllm", "sglang"):
        fetched = STORED.parents[2] / ".servers" / name
        folder = os.environ.get(f"MORAINE_{name.upper()}") or (fetched if fetched.is_dir() else None)
        if folder:
            servers[name] = folder
    if not servers:
        print("SKIPPED: no Python files of vLLM or SGLang: bash scripts/servers.sh fetches them; or MORAINE_VLLM, MORAINE_SGLANG name their folders")
        return 77
    vllm = Vllm(servers["vllm"]) if "vllm" in servers else None
    sglang = Sglang(servers["sglang"]) if "sglang" in servers else None
    found = {}
    if vllm:
        found["vllm"] = check_digests("vllm", vllm.package, VLLM_DIGESTS, stored)
    if sglang:
        found["sglang"] = check_digests("sglang", sglang.package, SGLANG_DIGESTS, stored)
    with tempfile.TemporaryDirectory() as temporary:
        for architecture, golden, model in models_in(pathlib.Path(temporary)):
            if architecture in READ_ONLY:
                print(f"not run: {architecture}: its rules were read in the servers' sources")
                continue
            for layout, adapter, text, experts in adapters_of(program, model, golden, model.parent):
                keys, config = keys_of(adapter), types.SimpleNamespace(**text)
                if vllm and is_served("vllm", vllm.package, architecture):
                    said, _ = said_by_moraine(program, "vllm", model, adapter)
                    compare("vllm", architecture, layout, keys, said, vllm.fates(architecture, keys, config.num_hidden_layers, experts))
                if sglang and architecture != "DeepseekV4ForCausalLM" and is_served("sglang", sglang.package, architecture):
                    said, of_config = said_by_moraine(program, "sglang", model, adapter)
                    targets = json.loads((adapter / "adapter_config.json").read_text())["target_modules"]
                    experts_name = "block_sparse_moe.experts" if architecture in ("MixtralForCausalLM", "MiniMaxM2ForCausalLM") else "mlp.experts"
                    fates, unknown = sglang.fates(architecture, keys, config, targets, experts_name)
                    report((of_config.get("target_modules") == "refused") == bool(unknown),
                           f"sglang, {architecture}, {layout}: target_modules, of which the server knows all but {sorted(unknown)}")
                    compare("sglang", architecture, layout, keys, said, fates)
    if write:
        STORED.write_text(json.dumps({**stored, **found}, indent=1, sort_keys=True) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
