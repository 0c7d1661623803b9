"""What data.turns: each trains, against transformers: every assistant turn is the last of its own sample, behind exactly the prompt that
apply_chat_template(add_generation_prompt=True) gives for it.  Part of jinja_python_test.py.
"""
import json
import pathlib
import shutil
import subprocess
import tempfile

from reference import GOLDEN

from transformers import AutoTokenizer

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "2"}}}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}}]


def said(role, content, **more):
    return {"role": role, "content": content, **more}


CONVERSATIONS = [
    {"messages": [said("system", "Be brief."), said("user", "1 + 1?"), said("assistant", "2", reasoning_content="Easy.\nTwo."),
                  said("user", "And 2 + 2?"), said("assistant", "4", reasoning_content="Twice that."),
                  said("user", "Sum, \u4e2d?"), said("assistant", "6", reasoning_content="2 + 4.")], "tools": None},
    {"messages": [said("user", "Add."), said("assistant", "", reasoning_content="I call.", tool_calls=[CALL]), said("tool", "3"),
                  said("assistant", "It is 3.", reasoning_content="Done."), said("user", "Thanks"),
                  said("assistant", "<think>\nHm.\n</think>\n\nYou are welcome.")], "tools": TOOLS},
    {"messages": [said("user", "a"), said("assistant", "b"), said("user", "c"), said("assistant", "d", train=False),
                  said("user", "e"), said("assistant", "f")], "tools": None}]
TEMPLATES = {"qwen3": {}, "qwen3_5_think": {}, "qwen3_instruct_2507": {}, "qwen3 off": {"enable_thinking": False}}


def samples_of(program, folder, options):
    rows = pathlib.Path(folder, "rows.jsonl")
    rows.write_text("".join(json.dumps(row) + "\n" for row in CONVERSATIONS), encoding="utf-8")
    run = subprocess.run([program, "tokenize", "--model", folder, "--messages", rows, "--template-options", json.dumps(options),
                          "--json", "data.turns=each"], capture_output=True, text=True)
    if run.returncode:
        return [f"the program ended with {run.returncode}: {run.stderr}"]
    return [json.loads(line) for line in run.stdout.splitlines()]


def check(found, conversation, count, tokenizer, options):
    """What is wrong with the sample of the first `count` messages; "" for nothing."""
    messages = [{key: value for key, value in m.items() if key != "train"} for m in conversation["messages"]]

    def rendered(number, **more):
        return tokenizer.apply_chat_template(messages[:number], tools=conversation["tools"], tokenize=False, **options, **more)

    prompt, text = rendered(count - 1, add_generation_prompt=True), rendered(count)
    if found["generation_prompt"] != prompt or found["text"] != text:
        return f"prompt {found['generation_prompt']!r} {prompt!r}, text {found['text']!r} {text!r}"
    if found["ids"] != tokenizer(text, add_special_tokens=False)["input_ids"]:
        return "ids"
    if not text.startswith(prompt):  # thinking is written although the prompt has closed it
        return "" if options else "the text does not begin with the prompt"
    first = found["loss_mask"].index(1)
    begin, end = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"][first]
    begins = begin <= len(prompt) < end  # a token over the prompt's end is trained
    behind = found["loss_mask"][first:]  # the newline behind the turn's end counts to it in what is built in alone
    return "" if begins and all(behind[:-1]) else f"the mask {found['loss_mask']}"


def check_turns(program):
    wrong = compared = 0
    for title, options in TEMPLATES.items():
        source = (GOLDEN / "templates" / (title.split()[0] + ".jinja")).read_text(encoding="utf-8")
        for form in (source, "{# changed #}" + source):  # by the encoder that is built in, and by the Jinja engine
            with tempfile.TemporaryDirectory() as folder:
                shutil.copy(GOLDEN / "tokenizers" / "qwen3" / "tokenizer.json", folder)
                pathlib.Path(folder, "tokenizer_config.json").write_text(json.dumps(
                    {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": form}))
                tokenizer = AutoTokenizer.from_pretrained(folder)
                found = samples_of(program, folder, options)
            wanted = [(row, i + 1) for row in CONVERSATIONS for i, message in enumerate(row["messages"])
                      if message["role"] == "assistant" and message.get("train", True)]
            why = [check(sample, row, count, tokenizer, options) for sample, (row, count) in zip(found, wanted)
                   ] if len(found) == len(wanted) else [f"{len(found)} samples, not {len(wanted)}: {found[:1]}"]
            for one in filter(None, why):
                print(f"turns of {title}: {one}")
            wrong, compared = wrong + sum(map(bool, why)), compared + len(wanted)
    print(f"turns: {compared} compared, {wrong} wrong", flush=True)
    return wrong
