"""What the benches share: random checkpoints of three sizes, and of a small Qwen3.5, and the environment that the Python contenders need."""
import json
import os
import subprocess

PRESETS = {
    "tiny": dict(layers=4, hidden=256, heads=4, kv=2, head_dim=64, experts=16, top_k=4, width=128, vocab=4096),
    "small": dict(layers=8, hidden=512, heads=8, kv=2, head_dim=64, experts=32, top_k=4, width=384, vocab=32000),
    "hybrid": dict(layers=8, hidden=512, heads=4, kv=2, head_dim=128, experts=32, top_k=4, width=384, vocab=32000, linear=4),
    "medium": dict(layers=10, hidden=1024, heads=16, kv=4, head_dim=64, experts=128, top_k=8, width=384, vocab=32000),
}
# moraine takes care of the first itself (src/base/cpu_features); Python would die on machines that hide AMX's description.
PYTHON_ENVIRONMENT = {"ONEDNN_MAX_CPU_ISA": os.environ.get("ONEDNN_MAX_CPU_ISA", "AVX10_1_512"), "HF_HUB_OFFLINE": "1"}


def config(p):
    if "linear" in p:  # Qwen3.5: three layers of linear attention, with so many key heads, then one of full attention
        return {
            "architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text", "full_attention_interval": 4,
            "layer_types": ["full_attention" if layer % 4 == 3 else "linear_attention" for layer in range(p["layers"])],
            "head_dim": p["head_dim"], "hidden_act": "silu", "hidden_size": p["hidden"], "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 128, "linear_num_key_heads": p["linear"], "linear_num_value_heads": 2 * p["linear"],
            "linear_value_head_dim": 128, "max_position_embeddings": 4096, "moe_intermediate_size": p["width"],
            "num_attention_heads": p["heads"], "num_experts": p["experts"], "num_experts_per_tok": p["top_k"],
            "num_hidden_layers": p["layers"], "num_key_value_heads": p["kv"], "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25},
            "shared_expert_intermediate_size": p["width"], "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "vocab_size": p["vocab"], "bos_token_id": 1, "eos_token_id": 2}
    return {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1,
        "head_dim": p["head_dim"], "hidden_act": "silu", "hidden_size": p["hidden"], "intermediate_size": 3 * p["hidden"],
        "max_position_embeddings": 4096, "mlp_only_layers": [], "moe_intermediate_size": p["width"], "norm_topk_prob": True,
        "num_attention_heads": p["heads"], "num_experts": p["experts"], "num_experts_per_tok": p["top_k"],
        "num_hidden_layers": p["layers"], "num_key_value_heads": p["kv"], "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": p["vocab"], "bos_token_id": 1, "eos_token_id": 2}


def make_model(program, preset, folder):
    """A random checkpoint in `folder`/model."""
    (folder / "config.json").write_text(json.dumps(config(PRESETS[preset])))
    subprocess.run([program, "init", "--config", folder / "config.json", "--out", folder / "model"], check=True,
                   stdout=subprocess.DEVNULL)
    return folder / "model"
