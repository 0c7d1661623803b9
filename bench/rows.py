"""Chats to training rows (text, mask of what is trained, ids), beside transformers' apply_chat_template with its fast tokenizer.

  rows.py build/rows_speed TOKENIZER_FOLDER TEMPLATE.jinja [...] [--rows N] [--turns T] [--words W] [--threads 1 2 4]

Both take the same conversations in turns, and of each the fastest time of several counts. transformers gets Python objects and is asked for
apply_chat_template(tokenize=True, return_assistant_tokens_mask=True, return_dict=True); moraine reads a JSONL file. transformers runs on one
thread. Its mask is empty where a template has no {% generation %}; moraine's is not. A format that is built in keeps thinking blocks that its
template leaves out, and so has more tokens.
Behind "cpu" the same by the processor's seconds, of all threads, which other programs on the machine disturb less.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import time

os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", HF_HUB_OFFLINE="1")

WORDS = ("the model a of to in is and value function layer 3.14 expert weights, gradient; batch step token router loss (see below) e.g. "
         "\u4e2d\u6587 na\u00efve 1234 def main(): return x\n").split(" ")


def conversations(count, turns, words, thinks):
    dice = random.Random(1)

    def text():
        return " ".join(dice.choice(WORDS) for _ in range(dice.randint(words // 2, words * 3 // 2)))

    rows = []
    for _ in range(count):
        rows.append([{"role": "system", "content": text()}])
        for _ in range(turns):
            rows[-1] += [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]
            if thinks:
                rows[-1][-1]["reasoning_content"] = text()
    return rows


def moraine_seconds(program, folder, file, seconds, threads):
    run = subprocess.run([program, folder, file, str(seconds), "data.max_length=1000000"], capture_output=True, text=True,
                         env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if run.returncode:
        raise SystemExit(run.stderr)
    return json.loads(run.stdout)


def transformers_seconds(tokenizer, rows):
    start, begin = time.perf_counter(), time.process_time()
    tokens = sum(len(tokenizer.apply_chat_template(row, tokenize=True, return_assistant_tokens_mask=True, return_dict=True)["input_ids"])
                 for row in rows)
    return time.perf_counter() - start, time.process_time() - begin, tokens


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("templates", nargs="+", type=pathlib.Path)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--words", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--thinking", action="store_true", help="every answer has some")
    a = parser.parse_args()
    from transformers import AutoTokenizer
    rows = conversations(a.rows, a.turns, a.words, a.thinking)
    for template in a.templates:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(a.tokenizer / "tokenizer.json", folder)
            pathlib.Path(folder, "tokenizer_config.json").write_text(json.dumps(
                {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template.read_text(encoding="utf-8")}))
            file = pathlib.Path(folder, "rows.jsonl")
            file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
            tokenizer = AutoTokenizer.from_pretrained(folder)
            theirs, ours = (float("inf"), float("inf")), {threads: (float("inf"), float("inf")) for threads in a.threads}
            for _ in range(a.rounds):
                *seconds, their_tokens = transformers_seconds(tokenizer, rows)
                theirs = tuple(map(min, theirs, seconds))
                for threads in a.threads:
                    made = moraine_seconds(a.program, folder, file, 1, threads)
                    ours[threads] = tuple(map(min, ours[threads], (made["seconds"], made["cpu_seconds"])))
            print(f"{template.name}: {a.rows} rows of {a.turns} turns, transformers {their_tokens} tokens, {theirs[0]:.3f} s (cpu {theirs[1]:.3f}); "
                  f"moraine {made['tokens']} tokens, "
                  + "; ".join(f"{threads} threads {wall:.4f} s = {theirs[0] / wall:.1f} times (cpu {cpu:.4f} = {theirs[1] / cpu:.1f})"
                              for threads, (wall, cpu) in ours.items()), flush=True)


if __name__ == "__main__":
    main()
