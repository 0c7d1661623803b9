"""Makes tests/golden/headers from folders of reference models: what their files' headers say and what transformers calls
their parameters, without the weights.

  python tools/make_header_fixtures.py REFERENCES tests/golden/headers

Of every REFERENCES/NAME/model (and NAME/lora/adapter): config.json; tensors.json and adapter.json, {tensor: {dtype, shape}} of
the checkpoint and of the PEFT adapter; parameters.json, {name: shape} of the class that AutoModelForCausalLM picks.
"""
import json
import pathlib
import shutil
import struct
import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def header(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        tensors = json.loads(file.read(length))
    tensors.pop("__metadata__", None)
    return {name: {"dtype": t["dtype"], "shape": t["shape"]} for name, t in tensors.items()}


def parameters(folder):
    config = AutoConfig.from_pretrained(folder)
    config = getattr(config, "text_config", config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # names and shapes of the weights that it stands for
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def write_rows(path, rows):
    lines = (f"{json.dumps(name)}: {json.dumps(rows[name])}" for name in sorted(rows))
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main():
    references, out = map(pathlib.Path, sys.argv[1:])
    for model in sorted(references.glob("*/model")):
        folder = out / model.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model / "config.json", folder / "config.json")
        tensors = {}
        for file in sorted(model.glob("*.safetensors")):
            tensors.update(header(file))
        write_rows(folder / "tensors.json", tensors)
        write_rows(folder / "adapter.json", header(model.parent / "lora/adapter/adapter_model.safetensors"))
        write_rows(folder / "parameters.json", parameters(model))


if __name__ == "__main__":
    main()
