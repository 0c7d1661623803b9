"""The twinkle contender of step.py and load.py: its own TransformersModel, native FSDP and experts split over all ranks.

  python twinkle_step.py FOLDER --out FILE [--steps 6] [--rows 2]     one rank; several under torchrun; --steps 0 only loads

Trains FOLDER/model on FOLDER/tokens.safetensors and writes load_seconds, step_seconds, losses and cpu_seconds (of the
steps, all ranks) as JSON. As shipped (0.5.1)
twinkle wants CUDA: only its choice of the device is replaced here, and two calls that gloo does not take as NCCL does.
"""
import argparse
import json
import os
import pathlib
import time

import torch
import torch.distributed as dist

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--out", required=True)
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--rows", type=int, default=2, help="a step and rank")
a = parser.parse_args()
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

from twinkle.utils.platforms.gpu import GPU

GPU.device_prefix = staticmethod(lambda: "cpu")
GPU.get_local_device = staticmethod(lambda idx=0, **_: "cpu")
GPU.device_backend = staticmethod(lambda platform=None: "gloo")
# gloo wants all_gather_into_tensor's output flat, and has no PREMUL_SUM, which set_gradient_divide_factor would use.
gather = dist.all_gather_into_tensor
dist.all_gather_into_tensor = lambda out, part, group=None, async_op=False: gather(
    out.view(-1), part.reshape(-1), group=group, async_op=async_op)
from torch.distributed.fsdp import FSDPModule

divide = FSDPModule.set_gradient_divide_factor


def divide_after_sum(self, factor):
    self.set_force_sum_reduction_for_comms(True)
    return divide(self, factor)


FSDPModule.set_gradient_divide_factor = divide_after_sum

import twinkle
from peft import LoraConfig
from safetensors.torch import load_file
from twinkle import DeviceMesh, Platform
from twinkle.model import TransformersModel

world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
mesh = DeviceMesh.from_sizes(fsdp_size=world, dp_size=1, ep_size=world, device_type=Platform.get_platform().device_prefix())
twinkle.initialize(mode="local", global_device_mesh=mesh)
start = time.monotonic()
model = TransformersModel(
    model_id=str(a.folder / "model"), device_mesh=mesh, strategy="native_fsdp", memory_efficient_init=True,
    mixed_precision="bf16", dtype=torch.bfloat16,
    fsdp_config={"expert_parallel": {"enabled": world > 1, "router_dtype": "fp32", "keep_router_logits": False}})
model.add_adapter_to_model("default", LoraConfig(
    r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
    target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]))
model.set_optimizer("AdamW", lr=1e-3, weight_decay=0.01, foreach=False)
model._lazy_wrap_model()  # else the first step would: sharding, and weights to their ranks
if world > 1:
    dist.barrier()
result = {"load_seconds": time.monotonic() - start, "step_seconds": [], "losses": [], "cpu_seconds": 0.0}


def rows_of_step(tokens, step):
    """One dict a row, with labels already shifted, as twinkle expects them."""
    rows = []
    for i in range(a.rows):
        at = (step * world * a.rows + rank * a.rows + i) % tokens["input_ids"].shape[0]
        ids, labels = tokens["input_ids"][at], torch.full_like(tokens["labels"][at], -100)
        labels[:-1] = tokens["labels"][at][1:]
        rows.append({"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids),
                     "position_ids": torch.arange(len(ids)), "length": len(ids)})
    return rows


tokens = load_file(a.folder / "tokens.safetensors") if a.steps else {}
for step in range(a.steps):
    rows = rows_of_step(tokens, step)
    start, cpu_start = time.monotonic(), time.process_time()
    out = model.forward_backward(inputs=rows)
    model.clip_grad_and_step(max_grad_norm=1.0)
    result["step_seconds"].append(time.monotonic() - start)
    cpu = time.process_time() - cpu_start
    trained = sum(int((row["labels"] != -100).sum()) for row in rows)
    sums = torch.tensor([float(out["loss"]), trained, cpu], dtype=torch.float64)  # the loss is a sum over this rank's tokens
    if world > 1:
        dist.all_reduce(sums)
    result["losses"].append((sums[0] / sums[1]).item())
    result["cpu_seconds"] += sums[2].item()
if rank == 0:
    with open(a.out, "w") as file:
        json.dump(result, file)
if world > 1:
    dist.destroy_process_group()
