"""Makes tests/golden/qwen3_moe-fp8 and qwen3_5_moe-fp8 with transformers + PEFT: tiny checkpoints in the layout of the FP8 releases.

  python tools/make_qwen_fp8_fixtures.py tests/golden

Codes are float8_e4m3fn, with a factor that is no power of two for each block of 128 x 128. The references are of transformers' models in
fp32 with the weights code x factor, as the formula below has them. transformers' own dequantisation while loading is compared with it and
gives the same values of qwen3_moe; of qwen3_5_moe it takes a side of 192 for two blocks of 96, unlike its kernels.
  qwen3_moe    bfloat16 factors, sides that are multiples of 128 or shorter, a dense layer
  qwen3_5_moe  float32 factors, blocks cut off on both sides, a vision tower and multi-token prediction that are not read
"""
import json
import pathlib
import re
import sys

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig, Qwen3MoeConfig
from transformers import Qwen3MoeForCausalLM

BLOCK, LARGEST = 128, 448.0
BF16, F8 = torch.bfloat16, torch.float8_e4m3fn
# Of a linear layer's weight, what the releases leave as it is.
SPARED = r"(embed_tokens|lm_head|norm|mlp\.gate|shared_expert_gate|in_proj_a|in_proj_b|conv1d|visual.*|mtp\.fc)\.weight$"


def blocks_of(x):
    """A grid of factors as one for each element, with blocks that are whole."""
    return x.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)


def quantise(w, dtype):
    """[O, I] -> codes [O, I], factors [ceil(O / 128), ceil(I / 128)]"""
    rows, columns = w.shape
    grid = [[w[r:r + BLOCK, c:c + BLOCK].abs().max() for c in range(0, columns, BLOCK)] for r in range(0, rows, BLOCK)]
    factors = (torch.tensor(grid) / LARGEST).to(dtype)
    return (w / blocks_of(factors.float())[:rows, :columns]).clamp(-LARGEST, LARGEST).to(F8), factors


def dequantise(codes, factors):
    return codes.float() * blocks_of(factors.float())[:codes.shape[0], :codes.shape[1]]


def fill(model, generator):
    """Random weights under which routers and gates decide something."""
    def normal(t, std, mean=0.0):
        return torch.randn(t.shape, generator=generator) * std + mean

    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("A_log"):
                value = torch.log(torch.rand(p.shape, generator=generator) * 3.95 + 0.05)
            elif name.endswith("dt_bias"):
                value = normal(p, 0.3, 0.3)
            elif "norm" in name:
                adds_one = "Qwen3_5" in type(model).__name__ and "linear_attn" not in name
                value = normal(p, 0.25, 0.0 if adds_one else 1.0)
            else:
                gain = 0.8 * p.shape[-1]**0.5 if "embed" in name else 2.5 if "mlp.gate." in name else 1.2
                value = normal(p, gain / p.shape[-1]**0.5)
            p.copy_(value)


def hub_tensors(model, prefix):
    """The state by the hub's names: a tensor for each expert."""
    tensors = {}
    for name, t in model.state_dict().items():
        name = re.sub(r"^model\.", prefix, name)
        if not name.endswith("experts.gate_up_proj") and not name.endswith("experts.down_proj"):
            tensors[name] = t
            continue
        base = name.rsplit(".", 1)[0]
        for e in range(t.shape[0]):
            parts = zip(("gate_proj", "up_proj"), t[e].chunk(2)) if name.endswith("gate_up_proj") else [("down_proj", t[e])]
            tensors.update({f"{base}.{e}.{projection}.weight": part for projection, part in parts})
    return tensors


def store(tensors, factor_dtype):
    """On-disk tensors, and what they stand for in fp32."""
    disk, values = {}, {}
    for name, t in tensors.items():
        if t.ndim != 2 or re.search(SPARED, name) or not name.endswith(".weight"):
            disk[name] = t.to(BF16)
            values[name] = disk[name].float()
            continue
        disk[name], disk[name + "_scale_inv"] = quantise(t, factor_dtype)
        values[name] = dequantise(disk[name], disk[name + "_scale_inv"])
    return disk, values


def set_values(model, values, prefix):
    """Puts the values of the files back into the model, fused as it has them."""
    state = {}
    for name in model.state_dict():
        stored = re.sub(r"^model\.", prefix, name)
        if stored in values:
            state[name] = values[stored]
            continue
        base = stored.rsplit(".", 1)[0]
        one = lambda e, p: values[f"{base}.{e}.{p}.weight"]  # noqa: E731
        experts = range(model.config.num_experts)
        if name.endswith("gate_up_proj"):
            state[name] = torch.stack([torch.cat([one(e, "gate_proj"), one(e, "up_proj")]) for e in experts])
        else:
            state[name] = torch.stack([one(e, "down_proj") for e in experts])
    model.load_state_dict(state)


def rows(vocab, lengths, generator):
    ids = torch.full((len(lengths), max(lengths)), 2)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, n in enumerate(lengths):
        ids[i, :n] = torch.randint(3, vocab, (n,), generator=generator)
        mask[i, :n] = 1
        labels[i, n // 3:n] = ids[i, n // 3:n]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def write_model(out, disk, config, spared_names):
    out.mkdir(parents=True, exist_ok=True)
    names = sorted(disk)
    files = [names[0::2], names[1::2]]  # a weight and its factors lie in different files
    index = {}
    for i, part in enumerate(files):
        file = f"model-{i + 1:05d}-of-{len(files):05d}.safetensors"
        save_file({n: disk[n].contiguous() for n in part}, out / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(part, file))
    size = sum(t.numel() * t.element_size() for t in disk.values())
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=1))
    config["quantization_config"] = {"activation_scheme": "dynamic", "fmt": "e4m3", "modules_to_not_convert": spared_names,
                                     "quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}
    (out / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True))


def compare_with_transformers(folder, model, batch, loss):
    """What transformers' own dequantisation while loading comes to; only said."""
    try:
        own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=FineGrainedFP8Config(dequantize=True),
                                                   attn_implementation="eager", experts_implementation="eager")
    except ValueError as error:
        print(f"{folder.parent.name}: transformers does not dequantise it: {error}")
        return
    state = own.state_dict()
    dtypes = sorted({str(t.dtype) for t in state.values()})
    furthest = max((state[n].float() - t).abs().max().item() / t.abs().max().item() for n, t in model.state_dict().items())
    with torch.no_grad():
        said = own.float()(**batch, use_cache=False).loss
    print(f"{folder.parent.name}: transformers dequantises to {dtypes}, weights differ by {furthest:.1e}, loss {said:.7f} against {loss:.7f}")


def make(out, model, prefix, config, factor_dtype, extra, targets, seed):
    g = torch.Generator().manual_seed(seed)
    fill(model, g)
    tensors = hub_tensors(model, prefix) | {name: torch.randn(shape, generator=g) * 0.1 for name, shape in extra.items()}
    disk, values = store(tensors, factor_dtype)
    # As the releases have it, modules that are no linear layers too.
    spared = sorted({n.removesuffix(".weight") for n in tensors if n + "_scale_inv" not in disk})
    write_model(out / "model", disk, config, spared)
    set_values(model, values, prefix)

    vocab = model.config.vocab_size
    batch = rows(vocab, (31, 19, 26), g)
    save_file(batch, out / "batch.safetensors")
    with torch.no_grad():
        plain = model(**batch, use_cache=False)
    save_file({"logits": plain.logits.contiguous(), "loss": plain.loss}, out / "forward.safetensors")
    compare_with_transformers(out / "model", model, batch, plain.loss)

    lora = LoraConfig(r=3, lora_alpha=6, target_modules=targets,
                      target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], task_type="CAUSAL_LM")
    peft = get_peft_model(model, lora)
    for name, p in peft.named_parameters():
        if "lora_" in name:
            p.data = torch.randn(p.shape, generator=g) * (p.shape[-1]**-0.5 if "lora_A" in name else 0.1)
    peft.save_pretrained(out / "lora" / "adapter")
    (out / "lora" / "adapter" / "README.md").unlink(missing_ok=True)
    result = peft(**batch, use_cache=False)
    result.loss.backward()
    grads = {n.replace(".default", ""): p.grad.contiguous() for n, p in peft.named_parameters() if p.requires_grad}
    save_file({"logits": result.logits.detach().contiguous(), "loss": result.loss.detach()}, out / "lora" / "forward.safetensors")
    save_file(grads, out / "lora" / "grads.safetensors")
    train = {f"{i}.{k}": v for i in range(3) for k, v in rows(vocab, (24 + i, 17), g).items()}
    save_file(train, out / "lora" / "train_batches.safetensors")
    print(f"{out.name}: loss {float(plain.loss):.6f}, with adapter {float(result.loss):.6f}, {len(grads)} gradients")


def qwen3(out):
    config = Qwen3MoeConfig(
        vocab_size=160, hidden_size=256, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, moe_intermediate_size=128, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True, mlp_only_layers=[1],
        tie_word_embeddings=False, rope_theta=10000.0, attn_implementation="eager", experts_implementation="eager")
    said = config.to_dict() | {"architectures": ["Qwen3MoeForCausalLM"], "torch_dtype": "bfloat16"}
    said.pop("dtype", None)
    make(out, Qwen3MoeForCausalLM(config).eval(), "model.", said, BF16, {}, ["q_proj", "k_proj", "v_proj", "o_proj"], 11)


def qwen3_5(out):
    config = Qwen3_5MoeTextConfig(
        vocab_size=160, hidden_size=192, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        linear_conv_kernel_dim=4, linear_key_head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4, linear_value_head_dim=40,
        moe_intermediate_size=160, shared_expert_intermediate_size=136, num_experts=4, num_experts_per_tok=2,
        layer_types=["linear_attention", "full_attention"], tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "mrope_section": [2, 1, 1],
                         "mrope_interleaved": True},
        attn_implementation="eager", experts_implementation="eager")
    text = config.to_dict()
    text["dtype"] = "bfloat16"
    vision = {"model_type": "qwen3_5_moe_vision", "depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "in_channels": 3,
              "out_hidden_size": 192, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 16,
              "deepstack_visual_indexes": []}
    said = {"architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe", "text_config": text,
            "vision_config": vision, "tie_word_embeddings": False, "transformers_version": transformers.__version__}
    extra = {"model.visual.blocks.0.attn.qkv.weight": (96, 32), "mtp.fc.weight": (192, 384),
             "mtp.layers.0.self_attn.o_proj.weight": (192, 128)}
    targets = ["q_proj", "o_proj", "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj", "gate_proj", "up_proj", "down_proj",
               "shared_expert_gate"]
    make(out, Qwen3_5MoeForCausalLM(config).eval(), "model.language_model.", said, torch.float32, extra, targets, 12)


def main():
    torch.set_num_threads(1)
    golden = pathlib.Path(sys.argv[1])
    qwen3(golden / "qwen3_moe-fp8")
    qwen3_5(golden / "qwen3_5_moe-fp8")


main()
