"""Makes tests/golden/NAME of tiny models with latent attention, from transformers and PEFT, in fp32 on one thread.

  python tools/make_mla_fixtures.py OUT [NAME ...]     (transformers 5.18.0, peft 0.21.0)

OUT/NAME has model/ with a layer of multi-token prediction where the releases have one, batch.safetensors, forward.safetensors
and lora/: an adapter with its logits, loss and gradients on the batch, and 12 steps of training. Of several seeds the one is taken whose
routers decide most clearly: meta.json says by how much the last chosen expert's score is above the first rejected one's.
"""
import copy
import json
import math
import pathlib
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, get_cosine_schedule_with_warmup

COMMON = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "hidden_act": "silu", "vocab_size": 112, "hidden_size": 40,
          "intermediate_size": 48, "moe_intermediate_size": 20, "num_hidden_layers": 3, "tie_word_embeddings": False,
          "first_k_dense_replace": 1, "norm_topk_prob": True, "topk_method": "noaux_tc", "n_group": 1, "topk_group": 1,
          "rope_scaling": None, "torch_dtype": "float32"}
MODELS = {
    # GLM-4.7-Flash: values as wide as queries and keys; biases, which the release has none of, so that they are compared too.
    "glm4_moe_lite-fp32": {**COMMON, "architectures": ["Glm4MoeLiteForCausalLM"], "model_type": "glm4_moe_lite", "attention_bias": True,
                           "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16,
                           "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 16, "n_routed_experts": 8, "n_shared_experts": 1,
                           "num_experts_per_tok": 3, "routed_scaling_factor": 1.8, "num_nextn_predict_layers": 1, "rms_norm_eps": 1e-5,
                           "rope_theta": 1000000, "partial_rotary_factor": 1.0, "max_position_embeddings": 202752},
    # Moonlight: queries without a latent, two shared experts.
    "moonlight-fp32": {**COMMON, "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "attention_bias": False,
                       "num_attention_heads": 3, "num_key_value_heads": 3, "q_lora_rank": None, "kv_lora_rank": 20, "qk_nope_head_dim": 12,
                       "qk_rope_head_dim": 8, "v_head_dim": 12, "n_routed_experts": 9, "n_shared_experts": 2, "num_experts_per_tok": 3,
                       "routed_scaling_factor": 2.446, "num_nextn_predict_layers": 0, "rms_norm_eps": 1e-5, "rope_theta": 50000.0,
                       "scoring_func": "sigmoid", "moe_layer_freq": 1, "max_position_embeddings": 8192},
}
BATCH, TRAIN = [29, 17], [[19, 13], [23, 11], [16, 21]]
ENOUGH, SEEDS = 1e-3, 40


def rows(vocabulary, lengths, seed):
    """Right-padded with 2; no labels on the first third of a row."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    batch = {"input_ids": torch.full(shape, 2), "attention_mask": torch.zeros(shape, dtype=torch.long), "labels": torch.full(shape, -100)}
    for row, length in enumerate(lengths):
        batch["input_ids"][row, :length] = torch.randint(3, vocabulary, (length,), generator=generator)
        batch["attention_mask"][row, :length] = 1
        batch["labels"][row, length // 3:length] = batch["input_ids"][row, length // 3:length]
    return batch


def fill(model, seed):
    """Values of a size that every part of the model shows in its logits."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        scale, mean = 1.2 / math.sqrt(tensor.shape[-1]), 0.0
        if "norm" in name and name.endswith("weight"):
            scale, mean = 0.25, 1.0
        elif name.endswith("bias"):
            scale = 0.3
        elif name.endswith("mlp.gate.weight"):
            scale *= 2
        elif "embed_tokens" in name:
            scale = 0.8
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale + mean)


def stored(model, config, seed):
    """The tensors as the releases have them: one for each expert and projection, and layers of multi-token prediction."""
    tensors, width = {}, config["moe_intermediate_size"]
    for name, tensor in model.state_dict().items():
        if name.endswith("experts.gate_up_proj"):
            for expert, both in enumerate(tensor):
                prefix = name.replace("gate_up_proj", f"{expert}.")
                tensors[prefix + "gate_proj.weight"], tensors[prefix + "up_proj.weight"] = both[:width], both[width:]
        elif name.endswith("experts.down_proj"):
            for expert, down in enumerate(tensor):
                tensors[name.replace("down_proj", f"{expert}.down_proj.weight")] = down
        else:
            tensors[name] = tensor
    generator = torch.Generator().manual_seed(seed)
    layers, hidden, vocabulary = config["num_hidden_layers"], config["hidden_size"], config["vocab_size"]
    for layer in range(layers, layers + config["num_nextn_predict_layers"]):
        last = f"model.layers.{layers - 1}."
        shapes = {name.replace(last, ""): t.shape for name, t in tensors.items() if name.startswith(last)}
        shapes |= {"eh_proj.weight": (hidden, 2 * hidden), "enorm.weight": (hidden,), "hnorm.weight": (hidden,),
                   "embed_tokens.weight": (vocabulary, hidden), "shared_head.norm.weight": (hidden,), "shared_head.head.weight": (vocabulary, hidden)}
        tensors |= {f"model.layers.{layer}.{name}": torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes.items()}
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def watch_margins(model):
    """A list of how clearly each router decided, of every pass that follows; at padding too."""
    margins = []

    def look(router, inputs, outputs):
        scores = outputs[0].sigmoid() + router.e_score_correction_bias
        best = scores.topk(router.top_k + 1, dim=-1).values
        margins.append((best[:, -2] - best[:, -1]).min().item())
    for name, module in model.named_modules():
        if name.endswith("mlp.gate") and hasattr(module, "e_score_correction_bias"):
            module.register_forward_hook(look)
    return margins


def adapted(model, seed):
    model = get_peft_model(model, LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
        target_modules=["q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"] if model.config.q_lora_rank is None else
        ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        if "lora_" in name:
            tensor.data = torch.randn(tensor.shape, generator=generator) * (1 / math.sqrt(tensor.shape[1]) if "lora_A" in name else 0.15)
    return model


def train(model, batches):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    scheduler = get_cosine_schedule_with_warmup(optimizer, 2, 12)
    steps = []
    for step in range(12):
        optimizer.zero_grad()
        loss = model(**batches[step % 3], use_cache=False).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        steps.append({"step": step, "batch": step % 3, "loss": loss.item(), "grad_norm": norm.item(), "lr": scheduler.get_last_lr()[0]})
        optimizer.step()
        scheduler.step()
    return steps


def build(config, seed):
    settings = AutoConfig.for_model(**copy.deepcopy({k: v for k, v in config.items() if k != "torch_dtype"}))
    model = AutoModelForCausalLM.from_config(settings, attn_implementation="eager", experts_implementation="eager").float().eval()
    with torch.no_grad():
        fill(model, seed)
    return model


def clearest_seed(config, batch, batches):
    def margin(seed):
        model = build(config, seed)
        margins = watch_margins(model)
        with torch.no_grad():
            model(**batch, use_cache=False)
        if min(margins) < ENOUGH:
            return min(margins)
        model = adapted(model, seed)
        model(**batch, use_cache=False)
        train(model, batches)
        return min(margins)
    best = (0, None)
    for seed in range(1, SEEDS):
        best = max(best, (margin(seed), -seed))
        if best[0] >= ENOUGH:
            break
    return -best[1], best[0]


def save_adapter(model, folder):
    model.save_pretrained(folder, save_embedding_layers=False)
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = ""
    settings["target_modules"] = sorted(settings["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "README.md").unlink(missing_ok=True)


def make(name, config, out):
    batch = rows(config["vocab_size"], BATCH, 101)
    batches = [rows(config["vocab_size"], lengths, 201 + index) for index, lengths in enumerate(TRAIN)]
    seed, margin = clearest_seed(config, batch, batches)
    (out / "model").mkdir(parents=True, exist_ok=True)
    (out / "lora").mkdir(exist_ok=True)
    save_file(stored(build(config, seed), config, seed), out / "model" / "model.safetensors")
    (out / "model" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(batch, out / "batch.safetensors")
    save_file({f"{i}.{key}": value for i, b in enumerate(batches) for key, value in b.items()}, out / "lora" / "train_batches.safetensors")

    def load():
        return AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32, attn_implementation="eager",
                                                    experts_implementation="eager").eval()
    model, built = load(), build(config, seed).state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, built[key]), f"{key} is not what was stored"
    with torch.no_grad():
        base = model(**batch, use_cache=False)
    save_file({"logits": base.logits, "loss": base.loss}, out / "forward.safetensors")
    model = adapted(model, seed)
    save_adapter(model, out / "lora" / "adapter")
    model = PeftModel.from_pretrained(load(), out / "lora" / "adapter", is_trainable=True).eval()
    with_adapter = model(**batch, use_cache=False)
    with_adapter.loss.backward()
    save_file({"logits": with_adapter.logits.detach(), "loss": with_adapter.loss.detach()}, out / "lora" / "forward.safetensors")
    grads = {key.replace(".default", ""): p.grad.contiguous() for key, p in model.named_parameters() if p.requires_grad}
    assert grads.keys() == get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    save_file(grads, out / "lora" / "grads.safetensors")
    steps = train(model, batches)
    save_adapter(model, out / "lora" / "adapter_after")
    (out / "lora" / "train.json").write_text(json.dumps({"steps": steps}, indent=1) + "\n")
    (out / "meta.json").write_text(json.dumps({
        "seed": seed, "margin": margin, "bites_adapter": (with_adapter.logits - base.logits).abs().max().item()}, indent=1) + "\n")
    print(f"{name}: seed {seed}, margin {margin:.1e}, loss {base.loss:.5f}, with adapter {with_adapter.loss:.5f}, "
          f"training {steps[0]['loss']:.4f} to {steps[-1]['loss']:.4f}, {sum(f.stat().st_size for f in out.rglob('*') if f.is_file()) / 1e6:.2f} MB")


def main():
    torch.set_num_threads(1)
    out = pathlib.Path(sys.argv[1])
    for name in sys.argv[2:] or MODELS:
        make(name, MODELS[name], out / name)


if __name__ == "__main__":
    main()
