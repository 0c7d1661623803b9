"""Writes the keys that transformers' configuration class of each family has: tests/golden/config_keys.json.

  python tools/make_config_keys.py tests/golden/config_keys.json     (transformers 5.18.0)

tests/models/config_keys_test.cpp asks of each of them whether the family's description reads it.
"""
import dataclasses
import json
import pathlib
import sys

from transformers import AutoConfig, PreTrainedConfig

FAMILIES = ("qwen3_moe qwen3_5_moe_text deepseek_v4 mixtral olmoe deepseek_v3 glm4_moe glm4_moe_lite dots1 solar_open minimax_m2 qwen3_next "
            "qwen2_moe ernie4_5_moe gpt_oss").split()

own = {field.name for field in dataclasses.fields(PreTrainedConfig)}
keys = {}
for family in FAMILIES:
    kind = type(AutoConfig.for_model(family))
    keys[family] = sorted({field.name for field in dataclasses.fields(kind)} - own | set(kind.attribute_map.values()))
rows = ",\n".join(f"{json.dumps(family)}: {json.dumps(names)}" for family, names in keys.items())
pathlib.Path(sys.argv[1]).write_text("{\n" + rows + "\n}\n")
