"""LoRA's variants train as in PEFT: losses, gradient norms and adapters of 12 steps side by side, fp32, to 1e-4.

    variants_test.py MORAINE_PROGRAM [--write]

Each case is trained twice on tests/golden/qwen3_moe-fp32, by moraine and by transformers + PEFT, which starts from the adapter that moraine
writes after a step with learning rate 0 and so reads its adapter_config.json. Of shared outer experts, which PEFT does not know, the factors
of all experts are one parameter there. PEFT's dropout draws from torch's generator; here it is given the factors of src/nn/dropout.h, computed anew. --write stores PEFT's curves in tests/golden/variants.json, which
tests/train/variants_test.cpp compares with where PEFT is not installed. Needs transformers and peft (tests/reference.py).
"""
import json
import pathlib
import shutil
import sys
import tempfile
import warnings

from peft_roundtrip_test import GOLDEN, QWEN3, reference_loss, run, torch  # first: it may start this test again

import numpy
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrize
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

STORED = GOLDEN / "variants.json"
TOLERANCE = 1e-4
TRAINING = ["train.steps=12", "train.batch_size=2", "train.learning_rate=0.005", "train.warmup_steps=2", "train.weight_decay=0.01"]
LORA_PLUS = 4
TIED = "tied embedding and head"
# Overrides of a recipe.
CASES = {
    "ranks, rslora, LoRA+": [
        "adapter.r=4", "adapter.expert_r=2", "adapter.lora_alpha=6", "adapter.use_rslora=true",
        r"adapter.rank_pattern={o_proj: 6, 'layers\.1\..*experts\.down_proj': 3}", "adapter.alpha_pattern={'[qk]_proj': 3}",
        f"train.learning_rate_b_ratio={LORA_PLUS}"],
    "dropout, layers": [
        "adapter.r=4", "adapter.lora_alpha=8", "adapter.target_parameters=[]", "adapter.lora_dropout=0.3",
        "adapter.target_modules=[q_proj, v_proj, o_proj]", "adapter.layers_to_transform=[1, 3]", "adapter.rank_pattern={v_proj: 2}",
        "train.seed=5"],
    "routers": [
        "adapter.r=4", "adapter.lora_alpha=8", "adapter.target_modules=[q_proj]", "adapter.rank_pattern={gate.weight: 2}",
        "adapter.target_parameters=[mlp.gate.weight, mlp.experts.down_proj]",
        "train.learning_rate_pattern={q_proj: 0.5}"],
    "embedding, head, LoRA+": [
        "adapter.r=4", "adapter.lora_alpha=8", "adapter.rank_pattern={embed_tokens: 3}",
        "adapter.target_modules=[embed_tokens, lm_head, v_proj]", "adapter.target_parameters=[mlp.experts.down_proj]",
        f"train.learning_rate_b_ratio={LORA_PLUS}"],
    "head alone, dropout": [
        "adapter.r=4", "adapter.lora_alpha=8", "adapter.target_modules=[lm_head]", "adapter.target_parameters=[]",
        "adapter.lora_dropout=0.3", "train.seed=7"],
    "shared outer experts": [
        "adapter.r=4", "adapter.expert_r=3", "adapter.lora_alpha=8", "adapter.target_modules=[q_proj]", "adapter.experts=shared_outer",
        f"train.learning_rate_b_ratio={LORA_PLUS}"],
    TIED: ["adapter.r=4", "adapter.lora_alpha=8", "adapter.target_modules=[embed_tokens, lm_head]", "adapter.target_parameters=[]"],
}


def mix64(x):
    x = x + numpy.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return x ^ (x >> numpy.uint64(31))


def words(*values):
    return numpy.array(values, dtype=numpy.uint64)


def named_bits(seed, name, index):
    key = mix64(words(seed))
    for byte in name.encode():
        key = mix64(key ^ words(byte))
    return mix64(key + mix64(words(index)))


class CounterDropout(torch.nn.Module):
    """nn.Dropout whose choices are those of src/nn/dropout.h in optimizer step `step`."""
    step = 0

    def __init__(self, name, rate, seed):
        super().__init__()
        self.layer_key, self.rate, self.seed = named_bits(0, name, 0), rate, seed

    def forward(self, x):
        rows, tokens, width = x.shape
        of_step = named_bits(self.seed, "dropout", CounterDropout.step)
        sequences = mix64(of_step + mix64(numpy.arange(rows, dtype=numpy.uint64)))
        keys = mix64(sequences[:, None] + mix64(numpy.arange(tokens, dtype=numpy.uint64))[None, :])
        of_row = mix64(self.layer_key ^ keys)
        draws = mix64(of_row[..., None] + mix64(numpy.arange((width + 1) // 2, dtype=numpy.uint64)))
        halves = numpy.stack([draws & numpy.uint64(0xFFFFFFFF), draws >> numpy.uint64(32)], -1).reshape(rows, tokens, -1)[..., :width]
        kept = torch.from_numpy(halves >= round(self.rate * 2**32))
        return x * (kept * (1 / (1 - self.rate)))


def slow_down(optimizer, model, part, factor):
    """Another learning rate for the parameters with `part` in their names."""
    slow = {id(parameter) for name, parameter in model.named_parameters() if part in name}
    for group in list(optimizer.param_groups):
        chosen = [parameter for parameter in group["params"] if id(parameter) in slow]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in slow]
        optimizer.add_param_group({**group, "params": chosen, "lr": group["lr"] * factor})


class Repeated(torch.nn.Module):
    """PEFT's factor of all experts, made of the one that they share: rows of lora_A go by expert first, columns of lora_B by rank first."""
    def __init__(self, experts, is_a):
        super().__init__()
        self.experts, self.is_a = experts, is_a

    def forward(self, one):
        return one.repeat(self.experts, 1) if self.is_a else one.repeat_interleave(self.experts, 1)

    def right_inverse(self, all_of_them):
        rank = all_of_them.shape[0 if self.is_a else 1] // self.experts
        return all_of_them[:rank].clone() if self.is_a else all_of_them[:, ::self.experts].clone()


def shared_factors(model):
    """lora_A of gate_up_proj and lora_B of down_proj: of down_proj, the last parameter, the wrapper is the outer one."""
    for name, module in model.named_modules():
        if name.endswith("mlp.experts.base_layer.lora_A.default"):
            yield module, True
        if name.endswith("mlp.experts.lora_B.default"):
            yield module, False


def trained_by_peft(folder, batches, keys, path):
    """([[loss, gradient norm] of each step], the adapter's tensors at the end)."""
    plus = next((float(key.split("=")[1]) for key in keys if key.startswith("train.learning_rate_b_ratio")), 1)
    seed = next((int(key.split("=")[1]) for key in keys if key.startswith("train.seed")), 0)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager",
                                                experts_implementation="eager")
    model = PeftModel.from_pretrained(base, folder, is_trainable=True).train()
    for name, module in model.base_model.model.named_modules():
        dropout = getattr(module, "lora_dropout", {})
        if "default" in dropout and isinstance(dropout["default"], torch.nn.Dropout):
            dropout["default"] = CounterDropout(name, dropout["default"].p, seed)
    shared = list(shared_factors(model)) if "adapter.experts=shared_outer" in keys else []
    for module, is_a in shared:
        parametrize.register_parametrization(module, "weight", Repeated(base.config.num_experts, is_a))
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=0.005, loraplus_lr_ratio=plus, loraplus_weight_decay=0.01,
                                          loraplus_lr_embedding=0.005, foreach=False)
    if "train.learning_rate_pattern={q_proj: 0.5}" in keys:
        slow_down(optimizer, model, "q_proj", 0.5)
    schedule = get_cosine_schedule_with_warmup(optimizer, 2, 12)
    parameters, steps = [p for p in model.parameters() if p.requires_grad], []
    for step in range(12):
        CounterDropout.step = step
        optimizer.zero_grad(set_to_none=True)
        loss = model(**batches[step % 3], use_cache=False).loss
        loss.backward()
        steps.append([loss.item(), torch.nn.utils.clip_grad_norm_(parameters, 1.0).item()])
        optimizer.step()
        schedule.step()
    for module, _ in shared:
        parametrize.remove_parametrizations(module, "weight")
    return steps, get_peft_model_state_dict(model, save_embedding_layers=False)


def tied_model(folder):
    """The golden's model without a head of its own."""
    shutil.copytree(GOLDEN / QWEN3 / "model", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    for file in folder.glob("*.safetensors"):
        save_file({name: value for name, value in load_file(file).items() if name != "lm_head.weight"}, file, {"format": "pt"})
    for file in folder.glob("*.index.json"):
        index = json.loads(file.read_text())
        index["weight_map"].pop("lm_head.weight", None)
        file.write_text(json.dumps(index))
    return folder


def largest_difference(found, wanted):
    if found.keys() != wanted.keys():
        sys.exit(f"FAILED: names differ from PEFT's: {sorted(found.keys() ^ wanted.keys())[:6]}")
    return max(((found[name] - value).abs().max() / value.abs().max()).item() for name, value in wanted.items())


def main():
    program, write = pathlib.Path(sys.argv[1]).resolve(), "--write" in sys.argv
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    rows = load_file(GOLDEN / QWEN3 / "lora" / "train_batches.safetensors")
    batches = [{key: rows[f"{index}.{key}"] for key in ("input_ids", "attention_mask", "labels")} for index in range(3)]
    width = max(batch["input_ids"].shape[1] for batch in batches)
    failures, stored = 0, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        tokens = {key: torch.cat([torch.nn.functional.pad(batch[key], (0, width - batch[key].shape[1]), value=padding) for batch in batches])
                  for key, padding in (("input_ids", 2), ("attention_mask", 0), ("labels", -100))}
        save_file(tokens, folder / "tokens.safetensors")
        tied = tied_model(folder / "tied")
        for index, (title, overrides) in enumerate(CASES.items()):
            model = tied if title == TIED else GOLDEN / QWEN3 / "model"
            recipe = folder / "recipe.json"
            recipe.write_text(json.dumps({
                "model": {"path": str(model), "dtype": "float32"},
                "data": {"train": [str(folder / "tokens.safetensors")], "format": "tokens", "shuffle": False},
                "log": {"tensorboard": False}}))
            start, end = folder / f"start-{index}", folder / f"end-{index}"
            keys = [*overrides, *TRAINING]
            run(program, "train", recipe, *keys, f"save.dir={start}", "train.learning_rate=0", "train.steps=1", "train.warmup_steps=0")
            run(program, "train", recipe, *keys, f"save.dir={end}")
            ours = [json.loads(line) for line in (end / "metrics.jsonl").read_text().splitlines()]
            steps, adapter = trained_by_peft(start / "adapter", batches, keys, model)
            if title != TIED:
                stored[title] = {"overrides": keys, "steps": steps}
            loss = max(abs(line["loss"] - wanted) for line, (wanted, _) in zip(ours, steps))
            norm = max(abs(line["grad_norm"] / wanted - 1) for line, (_, wanted) in zip(ours, steps))
            weights = largest_difference(load_file(end / "adapter" / "adapter_model.safetensors"), adapter)
            learned = steps[0][0] - steps[-3][0]  # of the same batch
            good = len(ours) == 12 and loss <= TOLERANCE and norm <= TOLERANCE and weights <= 1e-3 and learned > 1e-3
            failures += not good
            print(f"{'ok' if good else 'FAILED'}: {title}: loss within {loss:.1e}, gradient norm {norm:.1e}, adapter {weights:.1e}; "
                  f"the loss fell by {learned:.1e}")
            # What was written is read back as PEFT reads it, and merged with every module's own scaling.
            if title == TIED:  # PEFT's merge unties them; there is no merge here
                continue
            merged = folder / f"merged-{index}"
            run(program, "merge", "--model", model, "--adapter", end / "adapter", "--out", merged)
            score = ["score", "--tokens", folder / "tokens.safetensors", "--json", "--model"]
            losses = [json.loads(run(program, *score, *which))["loss"] for which in ([model, "--adapter", end / "adapter"], [merged])]
            expected, _ = reference_loss(QWEN3, tokens, end / "adapter")
            good = max(abs(loss - expected) for loss in losses) <= 1e-5
            failures += not good
            print(f"{'ok' if good else 'FAILED'}: {title}: score, merged and in PEFT: {losses[0]:.6f}, {losses[1]:.6f}, {expected:.6f}")
    if write and not failures:
        STORED.write_text(json.dumps(stored, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
