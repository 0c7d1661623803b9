"""Random expressions and conversations through the Jinja engine and through transformers' own environment: the texts must be equal, and
what raises there must be an error here. Skipped (77) where transformers is not installed.

  jinja_python_test.py PROGRAM [--expressions N] [--conversations N] [--templates FOLDER] [--seed S]
"""
import argparse, json, os, pathlib, random, subprocess, sys, tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = ROOT / ".venv-reference/bin/python"

VARIABLES = {
    "s": "  Hello, <b>World</b>\n\u00e9\u4e2d\u00df ", "t": "a-b_c d", "e": "", "u": "x\u2003y\u00a0", "q": "it's \"q\"\\", "n": 7, "z": 0, "f": 2.5, "g": 1e-7,
    "big": 1e22, "yes": True, "no": False, "nil": None, "l": [3, 1, 2], "m": ["b", "A", "c", "a"], "d": {"k": 1, "B": [1, {"x": None}], "a": "v"},
    "p": [{"role": "user", "n": 2}, {"role": "tool", "n": 1}, {"role": "user", "n": None}], "i": {"items": 5, "keys": "w"}, "w": {},
}
NAMES = list(VARIABLES) + ["missing"]
LITERALS = ["0", "1", "-3", "2", "10", "1.5", "'a'", "''", "'Ab c'", "\"x\\ny\"", "[1, 'b']", "[]", "(1, 2)", "{'k': 'v'}", "none", "true", "False", "'\u00e9\u0130'", "1_000", "0x1f"]
FILTERS = ["trim", "upper", "lower", "title", "capitalize", "length", "string", "list", "tojson", "first", "last", "join", "join(', ')", "int", "float", "abs", "default('D')",
           "default('D', true)", "sort", "sort(reverse=true)", "unique|list", "reverse|list", "items|list", "dictsort", "replace('a', 'zz')", "tojson(indent=2)", "round", "round(1)",
           "sum", "min", "max", "map('upper')|list", "select|list", "reject|list", "select('string')|list", "selectattr('role', 'equalto', 'user')|list", "map(attribute='n')|list",
           "rejectattr('n')|list", "selectattr('n')|map(attribute='role')|join('+')", "batch(2)|list", "slice(2)|list", "indent", "indent(2, true)", "wordcount", "count",
           "truncate(8)", "center(9)", "tojson(ensure_ascii=true)", "tojson(separators=(',', ':'))", "tojson(sort_keys=true)", "map('length')|list", "sort(attribute='n')", "d(3)"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence", "iterable", "true", "false", "odd", "even", "divisibleby(2)",
         "eq(1)", "in([1, 'a'])", "lower", "upper", "callable", "sameas(none)", "gt(1)", "not none", "not string"]
METHODS = ["strip()", "lstrip()", "rstrip()", "strip('a ')", "split()", "split('a')", "split(' ', 1)", "rsplit(None, 1)", "rsplit('b', 1)", "upper()", "lower()", "title()", "capitalize()",
           "startswith('a')", "endswith(('d', 'b'))", "replace('a', 'bb')", "replace('', '.', 2)", "find('l')", "count('l')", "splitlines()", "join(m)", "isdigit()", "isalpha()", "isspace()",
           "items()|list", "keys()|list", "values()|list", "get('k')", "get('q', 4)", "get(1)", "index(1)", "partition('-')", "rpartition('l')", "zfill(4)", "center(8, '*')", "removeprefix('a')",
           "removesuffix('d')", "swapcase()", "append(1)", "pop()", "format(1, n=2)", "nothing()", "islower()", "ljust(6)", "rjust(6, '.')"]
ATTRIBUTES = [".k", "['k']", "[0]", "[-1]", "[1:]", "[:-1]", "[::-1]", "[::2]", ".role", "[5]", "['items']", ".items", "[n]", "[:2]", "[-2:]", "['']"]
BINARY = ["+", "-", "*", "~", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]


def expression(r, depth):
    if depth <= 0: return r.choice(NAMES) if r.random() < 0.7 else r.choice(LITERALS)
    k = r.random(); e = lambda: expression(r, depth - 1)
    if k < 0.25: return f"({e()}|{r.choice(FILTERS)})"
    if k < 0.42: return f"({e()}).{r.choice(METHODS)}"
    if k < 0.57: return f"({e()}){r.choice(ATTRIBUTES)}"
    if k < 0.82:
        op = r.choice(BINARY); left = e()
        return f"({left} {op} {'2' if op == '**' else e()})"
    if k < 0.88: return f"({e()} is {r.choice(TESTS)})"
    if k < 0.91: return f"(not {e()})"
    if k < 0.95: return f"({e()} if {e()}" + (f" else {e()})" if r.random() < 0.7 else ")")
    if k < 0.97: return f"(-{e()})"
    return r.choice([f"[{e()}, {e()}]", f"{{'a': {e()}, 'b': {e()}}}", f"({e()} < {e()} <= {e()})", f"({e()}, )"])


def rendered(sources, variables):
    """Texts as transformers' environment gives them, None where it raises."""
    from transformers.utils import chat_template_utils as ctu
    import copy, warnings; warnings.simplefilter("ignore")
    out = []
    for source, given in zip(sources, variables):
        try: out.append(ctu._compile_jinja_template(source).render(**copy.deepcopy(given)))
        except Exception: out.append(None)
    return out


def conversation(r, tag):
    text = lambda: r.choice(["", " "]) + "".join(r.choice(["word ", "\u00e9\u4e2d ", "<think>\nt\n</think>\n\n", "\n", "{{ x }}", "<|im_end|>", "\U0001f600", "'\"\\", "\u2003", "a<b>&c "]) for _ in range(r.randint(0, 5))) + tag
    calls = lambda: [{"id": f"call{r.randint(0, 9)}xyz", "type": "function", "function": {"name": r.choice(["f", "get_x"]), "arguments": {k: r.choice([1, 2.5, None, True, text(), [1, {"y": text()}], {}]) for k in r.sample(["a", "b", "items"], r.randint(0, 3))}}} for _ in range(r.randint(1, 2))]
    messages = [{"role": "system", "content": text()}] if r.random() < 0.5 else []
    for _ in range(r.randint(0, 4)):
        messages.append({"role": "user", "content": text()})
        while r.random() < 0.3:
            messages.append({"role": "assistant", "content": r.choice(["", text()]), "tool_calls": calls()}); messages.append({"role": "tool", "name": "f", "tool_call_id": "call1xyz", "content": text()})
        if r.random() < 0.8:
            messages.append({"role": "assistant", "content": text()})
            if r.random() < 0.4: messages[-1]["reasoning_content"] = text()
    if r.random() < 0.1: r.shuffle(messages)
    tools = [{"type": "function", "function": {"name": "f", "description": text(), "parameters": {"type": "object", "properties": {"a": {"type": "string", "description": text()}}, "required": ["a"]}}}]
    return {"messages": messages, "tools": r.choice([None, tools])}


def program_texts(program, template, rows, options):
    with tempfile.TemporaryDirectory() as folder:
        t, m = pathlib.Path(folder, "t.jinja"), pathlib.Path(folder, "m.jsonl")
        t.write_text(template, encoding="utf-8"); m.write_text("".join(json.dumps(x) + "\n" for x in rows), encoding="utf-8")
        run = subprocess.run([program, "tokenize", "--chat-template", str(t), "--messages", str(m), "--template-options", json.dumps(options), "--json"], capture_output=True, text=True)
        if run.returncode: raise SystemExit(f"the program ended with {run.returncode}: {run.stderr}")
        return [json.loads(line) for line in run.stdout.splitlines()]


def compare(title, got, want, of):
    # Not held to: functions as text, integers beyond 64 bits, and slices of what has none, which raise unless jinja2 has folded them.
    refused = ("a function cannot be printed", "beyond 64 bits", "has no slices")
    wrong = [(g, w, o) for g, w, o in zip(got, want, of) if g.get("text") != w and not g.get("error", "").endswith(refused)]
    for g, w, o in wrong[:15]: print(f"{title} {o}\n  got  {g!r}\n  want {w!r}")
    print(f"{title}: {len(want)} compared, {sum(w is None for w in want)} of them raise, {len(wrong)} wrong", flush=True)
    return len(wrong)


def check_expressions(program, count, seed):
    wrong, done = 0, 0
    while done < count:
        r = random.Random(f"{seed}-{done}"); n = min(500, count - done); done += n
        expressions = [expression(r, r.randint(1, 3)) for _ in range(n)]
        template = "".join(f"{{% if messages[0].k == {i} %}}{{{{ {e} }}}}{{% endif %}}" for i, e in enumerate(expressions))
        got = program_texts(program, template, [{"messages": [{"k": i}]} for i in range(n)], VARIABLES)
        want = rendered(["{{ " + e + " }}" for e in expressions], [{**VARIABLES, "messages": [{"k": i}]} for i in range(n)])
        wrong += compare("expressions", got, want, expressions)
    return wrong


def check_conversations(program, count, seed, folder):
    templates = {p.name: p.read_text(encoding="utf-8") for p in sorted(pathlib.Path(folder).glob("*.jinja"))}; wrong = 0
    for name, source in templates.items():
        r = random.Random(f"{seed}-{name}"); n = max(1, count // len(templates))
        options = {"bos_token": "<s>", "eos_token": "<|im_end|>", "add_generation_prompt": r.random() < 0.5, "enable_thinking": r.random() < 0.5, "now": "2026-11-28T12:00:00"}
        rows = [conversation(r, "") for _ in range(n)]; given = {k: v for k, v in options.items() if k != "now"}
        import datetime as dt
        from transformers.utils import chat_template_utils as ctu
        class Fixed(dt.datetime):
            @classmethod
            def now(cls, tz=None): return dt.datetime(2026, 11, 28, 12)
        ctu.datetime = Fixed
        want = rendered([source] * n, [{**given, **row, "documents": None} for row in rows]); got = program_texts(program, source, rows, options)
        wrong += compare(name, got, want, [json.dumps(x) for x in rows])
    return wrong


def main():
    ap = argparse.ArgumentParser(); ap.add_argument("program", nargs="?"); ap.add_argument("--expressions", type=int, default=2000); ap.add_argument("--conversations", type=int, default=1000)
    ap.add_argument("--templates", default=str(ROOT / "tests/golden/templates")); ap.add_argument("--seed", default="1"); a = ap.parse_args()
    try: import transformers  # noqa: F401
    except ImportError:
        if not REFERENCE.exists() or os.environ.get("MORAINE_IN_REFERENCE"): print("skipped: transformers is not installed"); sys.exit(77)
        os.environ["MORAINE_IN_REFERENCE"] = "1"; os.execv(REFERENCE, [str(REFERENCE)] + sys.argv)
    wrong = check_expressions(a.program, a.expressions, a.seed) + check_conversations(a.program, a.conversations, a.seed, a.templates)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__": main()
