"""Makes FOLDER/lora/router_loss.*: the golden batch of FOLDER with transformers' router auxiliary loss.

  python tools/make_router_loss_fixture.py FOLDER     (transformers 5.18.0, peft 0.21.0)

FOLDER: tests/golden/FAMILY-fp32, of a family whose class has the loss.
"""
import json
import pathlib
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

COEFFICIENT = 0.5  # large, so that its gradient is a good part of the whole

torch.set_num_threads(1)
folder = pathlib.Path(sys.argv[1])
batch = load_file(folder / "batch.safetensors")
config = AutoConfig.from_pretrained(folder / "model").get_text_config()
config.output_router_logits, config.router_aux_loss_coef = True, COEFFICIENT
model = AutoModelForCausalLM.from_pretrained(folder / "model", config=config, dtype=torch.float32, attn_implementation="eager",
                                             experts_implementation="eager")
model = PeftModel.from_pretrained(model, folder / "lora" / "adapter", is_trainable=True).eval()
out = model(**batch, use_cache=False)
out.loss.backward()
grads = {name.replace(".default", ""): p.grad.contiguous() for name, p in model.named_parameters() if p.requires_grad}
save_file(grads, folder / "lora" / "router_loss_grads.safetensors")
(folder / "lora" / "router_loss.json").write_text(
    json.dumps({"coefficient": COEFFICIENT, "loss": out.loss.item(), "aux_loss": out.aux_loss.item()}) + "\n")
