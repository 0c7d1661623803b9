"""An adapter trained by moraine scores the same loss in plain PEFT: fp32, to 1e-5.

    peft_roundtrip_test.py MORAINE_PROGRAM

Trains the tiny models of tests/golden for a few steps with LoRA on linear layers and on the 3-D experts, Qwen3-MoE in several ways and
the other families in one, then compares `moraine score --json` with transformers + PEFT on the same rows. Needs transformers and peft
(tests/reference.py).
"""
import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from reference import GOLDEN  # first: it may start this test again
from families import golden_models

import torch
from peft import PeftModel
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-5
QWEN3 = "qwen3_moe-fp32"
# name: (adapter keys of the recipe, more arguments of `moraine train`), of Qwen3-MoE
CASES = {
    "attention and experts": ({"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}, []),
    "all-linear and experts": ({"r": 3, "lora_alpha": 12, "target_modules": "all-linear"}, []),
    "one expert tensor": ({"r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}, []),
    "linear layers only": ({"r": 4, "lora_alpha": 8, "target_modules": ["v_proj", "o_proj"], "target_parameters": []}, []),
    "4 ranks, ep 4": ({"r": 4, "lora_alpha": 8}, ["--ranks", "4", "mesh.ep=4"]),
    "4 ranks, ep 2": ({"r": 4, "lora_alpha": 8}, ["--ranks", "4", "mesh.ep=2"]),
    "3 ranks, uneven experts": ({"r": 4, "lora_alpha": 8}, ["--ranks", "3", "mesh.ep=3"]),
}
# (golden, name, adapter keys, more arguments)
ALL_CASES = [(QWEN3, title, *case) for title, case in CASES.items()]
def parameters(golden):
    router = "mlp.router.weight" if golden.startswith("gpt_oss") else "mlp.gate.weight"
    return [router, "mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


ALL_CASES += [(golden, "all-linear, routers and experts of another rank, 2 ranks",
               {"r": 4, "expert_r": 2, "lora_alpha": 8, "target_parameters": parameters(golden)}, ["--ranks", "2", "mesh.ep=2"])
              for golden in golden_models("fp32") if golden != QWEN3]
ALL_CASES += [(golden, "embedding and head", {"r": 4, "lora_alpha": 8, "target_modules": ["embed_tokens", "lm_head"],
                                              "target_parameters": []}, [])
              for golden in golden_models("fp32") if golden != QWEN3]


def run(program, *arguments):
    done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"FAILED: moraine {arguments[0]} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def reference_loss(golden, batch, adapter):
    """(loss in plain transformers + PEFT, the loss without the adapter)."""
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / golden / "model", dtype=torch.float32, attn_implementation="eager",
                                                 experts_implementation="eager").eval()
    with torch.no_grad():
        base = model(**batch, use_cache=False).loss.item()
    model = PeftModel.from_pretrained(model, adapter).eval()
    stored, loaded = load_file(adapter / "adapter_model.safetensors"), get_peft_model_state_dict(model, save_embedding_layers=False)
    if stored.keys() != loaded.keys():
        sys.exit(f"FAILED: names differ from PEFT's: {sorted(stored.keys() ^ loaded.keys())[:6]}")
    for name, tensor in stored.items():
        if not torch.equal(tensor, loaded[name]):
            sys.exit(f"FAILED: PEFT did not take {name} as it is stored")
    with torch.no_grad():
        return model(**batch, use_cache=False).loss.item(), base


def batch_of(golden):
    """All rows of the golden's training batches."""
    rows = load_file(GOLDEN / golden / "lora" / "train_batches.safetensors")
    length = max(tensor.shape[1] for tensor in rows.values())
    return {key: torch.cat([torch.nn.functional.pad(rows[f"{index}.{key}"], (0, length - rows[f"{index}.{key}"].shape[1]), value=padding)
                            for index in range(3)])
            for key, padding in (("input_ids", 2), ("attention_mask", 0), ("labels", -100))}


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    torch.set_num_threads(1)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for index, (golden, title, adapter_keys, arguments) in enumerate(ALL_CASES):
            tokens, model, batch = folder / "tokens.safetensors", GOLDEN / golden / "model", batch_of(golden)
            save_file(batch, tokens)
            recipe = folder / f"recipe-{index}.yaml"
            recipe.write_text(json.dumps({  # JSON text is YAML too
                "model": {"path": str(model), "dtype": "float32"},
                "adapter": adapter_keys,
                "data": {"train": [str(tokens)], "format": "tokens", "shuffle": False},
                "train": {"steps": 6, "batch_size": 2, "learning_rate": 2e-2, "scheduler": "constant"},
                "save": {"dir": str(folder / f"run-{index}")},
                "log": {"tensorboard": False},
            }))
            run(program, "train", recipe, *arguments)
            adapter = folder / f"run-{index}" / "adapter"
            score = json.loads(run(program, "score", "--model", model, "--adapter", adapter, "--tokens", tokens, "--json"))
            expected, base = reference_loss(golden, batch, adapter)
            difference = abs(score["loss"] - expected)
            trained = abs(expected - base) > 1e-2  # else a lost adapter would pass
            good = difference <= TOLERANCE and trained
            failures += not good
            print(f"{'ok' if good else 'FAILED'}: {golden}, {title}: moraine {score['loss']:.7f}, PEFT {expected:.7f} (difference {difference:.1e}), "
                  f"without adapter {base:.4f}{'' if trained else ': the training changed too little to prove anything'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
