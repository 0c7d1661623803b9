"""The reference contender of step.py: transformers + PEFT, one process. Writes step times and losses as JSON."""
import argparse
import json
import os
import pathlib
import time

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--rows", type=int, required=True)
parser.add_argument("--experts", required=True)
parser.add_argument("--out", required=True)
a = parser.parse_args()
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
model = AutoModelForCausalLM.from_pretrained(a.folder / "model", dtype=torch.bfloat16, experts_implementation=a.experts)
# What moraine's all-linear is. For Qwen3-MoE PEFT's would include the router and the experts once more.
linear = "all-linear" if "linear_attention" in (getattr(model.config, "layer_types", None) or []) else ["q_proj", "k_proj", "v_proj", "o_proj"]
model = get_peft_model(model, LoraConfig(
    r=8, lora_alpha=16, target_modules=linear,
    target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], task_type="CAUSAL_LM"))
params = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(params, lr=1e-3, weight_decay=0.01)
tokens = load_file(a.folder / "tokens.safetensors")
model.train()
seconds, losses = [], []
for step in range(a.steps):
    rows = [(step * a.rows + i) % tokens["input_ids"].shape[0] for i in range(a.rows)]
    start = time.monotonic()
    loss = model(input_ids=tokens["input_ids"][rows], labels=tokens["labels"][rows], use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    seconds.append(time.monotonic() - start)
    losses.append(loss.item())
json.dump({"step_seconds": seconds, "losses": losses}, open(a.out, "w"))
