"""Makes NAME.jsonl beside each NAME.jinja of tests/golden/templates/released: what transformers renders of a few conversations.

python3 tools/make_template_rows.py tests/golden/templates/released    (needs transformers)

A row: messages, tools, options (the template's variables), text, and generation_prompt, the prompt for the last message.
Special tokens are options too.
"""

import itertools, json, pathlib, sys

from transformers.utils.chat_template_utils import render_jinja_template

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "tide_table",
            "description": "Times of high water.",
            "parameters": {
                "type": "object",
                "properties": {"harbour": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["harbour"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "mix_paint",
            "description": "Grams of each pigment.",
            "parameters": {
                "type": "object",
                "properties": {
                    "litres": {"type": "number"},
                    "glossy": {"type": "boolean"},
                    "pigments": {"type": "array", "items": {"type": "string"}},
                    "target": {"type": "object"},
                    "note": {"type": ["null", "integer"]},
                },
            },
        },
    },
]


def call(name, arguments, index=0):
    return {
        "id": f"functions.{name}:{index}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


PAINT = {"litres": 2.5, "glossy": True, "pigments": ["blue", "\"ochre\"", "it's"], "target": {"hue": 190, "é": None}, "note": None}
CONVERSATIONS = [
    ([{"role": "system", "content": "Be brief."}, user("Hi"), assistant("Hello!")], None),
    (
        [
            user("2+2?"),
            assistant("4", reasoning_content="Two and two."),
            user("+3?"),
            assistant("7", reasoning_content="Four and three."),
        ],
        None,
    ),
    (
        [
            user("High water in Bergen?"),
            assistant("", reasoning_content="The table.", tool_calls=[call("tide_table", {"harbour": "Bergen", "days": 2})]),
            {"role": "tool", "content": "06:10", "tool_call_id": "functions.tide_table:0", "name": "tide_table"},
            assistant("At 06:10.", reasoning_content="Read it."),
        ],
        TOOLS,
    ),
    (
        [
            user("Brest and a paint?"),
            assistant(
                "Both at once.", tool_calls=[call("tide_table", {"harbour": "Brest\n2"}), call("mix_paint", PAINT, 1)]
            ),
        ],
        TOOLS,
    ),
    ([user("Paint?"), assistant("", tool_calls=[call("mix_paint", {})])], TOOLS),
]
QWEN = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
# Of each template: its special tokens, and the variables that are tried.
TEMPLATES = {
    "qwen3_coder": (QWEN, [{}]),
    "qwen3_thinking_2507": (QWEN, [{}]),
    "qwen3_6": (QWEN, [{}, {"preserve_thinking": True}, {"enable_thinking": False}]),
    "qwen3_8": (QWEN, [{}, {"preserve_thinking": False}, {"enable_thinking": False}, {"reasoning_effort": "medium"}, {"reasoning_effort": "low"}]),
    "glm_4_5": ({"eos_token": "<|endoftext|>"}, [{}]),
    "kimi_k2": ({"bos_token": "[BOS]", "eos_token": "<|im_end|>"}, [{}]),
    "minimax_m2": ({"bos_token": "]~!b[", "eos_token": "[e~["}, [{}]),
}


def render(source, messages, tools, options, prompt):
    options = dict(options)
    text, _ = render_jinja_template([messages], tools=tools, chat_template=source, add_generation_prompt=prompt, **options)
    return text[0]


def main():
    folder = pathlib.Path(sys.argv[1])
    for name, (special, variants) in TEMPLATES.items():
        source = (folder / f"{name}.jinja").read_text(encoding="utf-8")
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as out:
            for (messages, tools), variant in itertools.product(CONVERSATIONS, variants):
                if variant and messages is not CONVERSATIONS[1][0]:
                    continue
                options = {**special, **variant}
                text = render(source, messages, tools, options, False)
                prompt = render(source, messages[:-1], tools, options, True)
                row = {"messages": messages, "tools": tools, "options": options, "text": text, "generation_prompt": prompt}
                out.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
