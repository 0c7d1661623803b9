"""Makes tests/golden/qwen3_moe-dense with transformers + PEFT: what the other Qwen3-MoE references leave out.

  python tools/make_qwen3_moe_dense_fixture.py tests/golden/qwen3_moe-dense

Dense layers (mlp_only_layers and decoder_sparse_step), tied embeddings, biases in attention, top-k weights that are not
renormalised, experts stored as fused 3-D tensors, one file without an index. Loss and adapter gradients are stored too.
"""
import json
import pathlib
import sys

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM


def main():
    out = pathlib.Path(sys.argv[1])
    (out / "model").mkdir(parents=True, exist_ok=True)
    torch.manual_seed(5)
    torch.set_num_threads(1)
    config = Qwen3MoeConfig(
        vocab_size=96, hidden_size=32, intermediate_size=56, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, moe_intermediate_size=24, num_experts=6, num_experts_per_tok=2,
        norm_topk_prob=False, decoder_sparse_step=2, mlp_only_layers=[1], tie_word_embeddings=True, attention_bias=True,
        max_position_embeddings=256, rope_theta=10000.0, attn_implementation="eager", experts_implementation="eager")
    model = Qwen3MoeForCausalLM(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape) * (0.1 if "norm" in name or "bias" in name else 0.25) + (1 if "norm" in name else 0))
    state = {k: v.clone().contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    assert "model.layers.3.mlp.experts.gate_up_proj" in state and "model.layers.1.mlp.gate_proj.weight" in state
    save_file(state, out / "model" / "model.safetensors", metadata={"format": "pt"})
    saved = config.to_dict()
    saved["architectures"] = ["Qwen3MoeForCausalLM"]
    (out / "model" / "config.json").write_text(json.dumps(saved, indent=1, sort_keys=True))

    ids = torch.randint(3, 96, (2, 21))
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    labels = torch.where(mask.bool(), ids, -100)
    labels[:, :6] = -100
    save_file({"input_ids": ids, "attention_mask": mask, "labels": labels}, out / "batch.safetensors")
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False)
    # No linear layer of a dense MLP: PEFT 0.21 takes gate_proj, up_proj and down_proj for the experts of this family.
    lora = LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj", "o_proj"],
                      target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], task_type="CAUSAL_LM")
    peft = get_peft_model(model, lora)
    for name, p in peft.named_parameters():
        if "lora_" in name:
            p.data = torch.randn(p.shape) * (0.2 if "lora_A" in name else 0.1)
    peft.save_pretrained(out / "adapter")
    (out / "adapter" / "README.md").unlink(missing_ok=True)
    result = peft(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False)
    result.loss.backward()
    grads = {n.replace(".default", ""): p.grad.contiguous() for n, p in peft.named_parameters() if p.requires_grad}
    save_file({"logits": plain.logits.contiguous(), "loss": plain.loss, "lora.logits": result.logits.detach().contiguous(),
               "lora.loss": result.loss.detach()}, out / "forward.safetensors")
    save_file(grads, out / "grads.safetensors")
    print(float(plain.loss), float(result.loss), len(grads), "gradients")


main()
