"""Random expressions and conversations through the Jinja engine and through transformers' own environment: the texts must be equal, and
what raises there must be an error here.

  jinja_python_test.py PROGRAM [--expressions N] [--conversations N] [--templates FOLDER] [--seed S]

Needs transformers (tests/reference.py).
"""
import argparse
import copy
import datetime
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from reference import GOLDEN  # first: it may start this test again

from served_turns import check_turns
from transformers.utils import chat_template_utils

VARIABLES = {
    "s": "  Hello, <b>World</b>\n\u00e9\u4e2d\u00df ", "t": "a-b_c d", "e": "", "u": "x\u2003y\u00a0", "q": "it's \"q\"\\", "n": 7,
    "z": 0, "f": 2.5, "g": 1e-7, "big": 1e22, "yes": True, "no": False, "nil": None, "l": [3, 1, 2], "m": ["b", "A", "c", "a"],
    "d": {"k": 1, "B": [1, {"x": None}], "a": "v"}, "i": {"items": 5, "keys": "w"}, "w": {},
    "p": [{"role": "user", "n": 2}, {"role": "tool", "n": 1}, {"role": "user", "n": None}]}
NAMES = [*VARIABLES, "missing"]
LITERALS = ['0', '1', '-3', '2', '10', '1.5', '9223372036854775807', '123456789012345678901234567890', "'a'", "''", "'Ab c'", '"x\\ny"', "[1, 'b']", '[]', '(1, 2)',
    "{'k': 'v'}", 'none', 'true', 'False', "'\u00e9\u0130'", '1_000', '0x1f']
FILTERS = ['trim', 'upper', 'lower', 'title', 'capitalize', 'length', 'string', 'list', 'tojson', 'first', 'last',
    'join', "join(', ')", 'int', 'float', 'abs', "default('D')", "default('D', true)", 'sort', 'sort(reverse=true)',
    'unique|list', 'reverse|list', 'items|list', 'dictsort', "replace('a', 'zz')", 'tojson(indent=2)', 'round',
    'round(1)', 'sum', 'min', 'max', "map('upper')|list", 'select|list', 'reject|list', "select('string')|list",
    "selectattr('role', 'equalto', 'user')|list", "map(attribute='n')|list", "rejectattr('n')|list",
    "selectattr('n')|map(attribute='role')|join('+')", 'batch(2)|list', 'slice(2)|list', 'indent', 'indent(2, true)',
    'wordcount', 'count', 'truncate(8)', 'center(9)', 'tojson(ensure_ascii=true)', "tojson(separators=(',', ':'))",
    'tojson(sort_keys=true)', "map('length')|list", "sort(attribute='n')", 'd(3)', "groupby('role')", "groupby('n', default=0)",
    "groupby('role')|map(attribute='list')|list", 'groupby(0)', 'groupby(0, case_sensitive=true)']
TESTS = ['defined', 'undefined', 'none', 'string', 'number', 'integer', 'float', 'boolean', 'mapping', 'sequence',
    'iterable', 'true', 'false', 'odd', 'even', 'divisibleby(2)', 'eq(1)', "in([1, 'a'])", 'lower', 'upper', 'callable',
    'sameas(none)', 'gt(1)', 'not none', 'not string']
METHODS = ['strip()', 'lstrip()', 'rstrip()', "strip('a ')", 'split()', "split('a')", "split(' ', 1)",
    'rsplit(None, 1)', 'split(None, 1)', 'split(none, 0)', "rsplit('b', 1)", 'upper()', 'lower()', 'title()', 'capitalize()', "startswith('a')",
    "endswith(('d', 'b'))", "replace('a', 'bb')", "replace('', '.', 2)", "find('l')", "count('l')", 'splitlines()',
    'join(m)', 'isdigit()', 'isalpha()', 'isspace()', 'items()|list', 'keys()|list', 'values()|list', "get('k')",
    "get('q', 4)", 'get(1)', 'index(1)', "partition('-')", "rpartition('l')", 'zfill(4)', "center(8, '*')",
    "removeprefix('a')", "removesuffix('d')", 'swapcase()', 'append(1)', 'pop()', 'format(1, n=2)', 'nothing()',
    'islower()', 'ljust(6)', "rjust(6, '.')"]
ATTRIBUTES = ['.k', "['k']", '[0]', '[-1]', '[1:]', '[:-1]', '[::-1]', '[::2]', '.role', '[5]', "['items']", '.items',
    '[n]', '[:2]', '[-2:]', "['']"]
BINARY = ['+', '-', '*', '~', '/', '//', '%', '**', '==', '!=', '<', '<=', '>', '>=', 'in', 'not in', 'and', 'or']
TEXTS = ["word ", "\u00e9\u4e2d ", "<think>\nt\n</think>\n\n", "\n", "{{ x }}", "<|im_end|>", "\U0001f600", "'\"\\", "\u2003", "a<b>&c "]
NOW = datetime.datetime(2026, 11, 28, 12)
# Not held to: functions as text, and slices of what has none, which raise unless jinja2 has folded them.
REFUSED = ("a function cannot be printed", "has no slices")
# Statements, each a template of its own; N is its number, as blocks have names.
STATEMENTS = [
    "{% set j = joiner(', ') %}{% for i in l %}{{ j() }}{{ i }}{% endfor %}", "{% set j = joiner() %}{{ j() }}|{{ j() }}|{{ j.used }}",
    "{{ joiner(sep=5)() }}", "{{ joiner(1, 2) }}", "{% set j = joiner(5) %}{{ j() }}{{ j() }}{{ j['sep'] }}{{ j is callable }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.reset() }}{{ c.current }}{{ c.pos }}",
    "{% set c = cycler(1, 2) %}{{ c.items }}{{ c['pos'] }}{{ c.nope is defined }}{{ c is callable }}{{ c is iterable }}", "{{ cycler() }}",
    "{{ cycler(a=1) }}", "{% set c = cycler(1) %}{{ c() }}", "{% set c = cycler(1) %}{{ c.next(1) }}",
    "{% for g in p|groupby('role') %}{{ g.grouper }}={{ g.list|map(attribute='n')|list }}{{ g }}{{ g[0] }}{{ g|length }}{{ g['list'] }};{% endfor %}",
    "{% for role, those in p|groupby('role') %}{{ role }}{{ those|length }}{% endfor %}", "{{ p|groupby }}", "{{ p|groupby('zz') }}",
    "{{ p|groupby('zz', default='Q') }}", "{{ ['a', 'B', 'A', 'b']|groupby(0) }}", "{{ d|groupby(0) }}", "{{ missing|groupby('a') }}",
    "{{ p|groupby('n') }}", "{{ [{'a': {'b': 1}}, {'a': {'b': 2}}, {'a': {'b': 1}}]|groupby('a.b') }}",
    "{% set v = 1 %}{% block aN %}{{ v }}{% set v = 2 %}{% endblock %}{{ v }}", "{% for i in l %}{% block aN %}[{{ i }}]{% endblock %}{% endfor %}",
    "{% for i in l %}{% block aN scoped %}[{{ i }}{{ loop.index }}]{% set i = 9 %}{{ i }}{% endblock aN %}{{ i }}{% endfor %}",
    "{% block aN %}{% block bN %}z{% endblock bN %}{% endblock aN %}", "{% with q = 1 %}{% block aN %}{{ q }}{% endblock %}{% endwith %}",
    "{% macro m(x) %}{{ x }}{% endmacro %}{% block aN %}{{ m(4) }}{% endblock %}", "{% set w = 3 %}{% block aN %}{{ w }}{% endblock %}",
    "{% set ns = namespace(x=1) %}{% block aN %}{% set ns.x = 5 %}{% endblock %}{{ ns.x }}",
    "{% macro m(x) %}{% block aN %}{{ x }}{% endblock %}{% endmacro %}{{ m(3) }}", "{% block aN %}{{ super() }}{% endblock %}",
    *("{{ " + e + " }}" for e in [
        "2**70", "(2**70)//3", "-(2**70) % 7", "2**70 / 3", "2**200 // -(3**50)", "2**200 % -(3**50)", "99999999999999999999*2 - 1", "2**70 > 5",
        "'%d' % 2**70", "(2**70)|float", "9223372036854775807 + 1", "-9223372036854775808 - 1", "-9223372036854775807 - 1", "2**20000",
        "'123456789012345678901234567890'|int + 1", "s * 2**70", "2**70 - 2**70 + 5 == 5", "(2**70)|abs", "(-(2**70))|abs", "l[2**70]",
        "2.5 + 2**70", "10**400 / 3", "10**400 * 1.0", "10**400 // 10**399", "2**-70", "(-2)**71", "(2**64) is even", "(3**64) is odd",
        "(2**64) is divisibleby 3", "(3**64) is divisibleby 3", "[2**64, 1]|sum", "[2**64, 1]|min", "[2**64, 1e30, 3]|sort", "(2**64)|tojson",
        "7 // 2**70", "-7 // 2**70", "-7 % 2**70", "2**70 // 0", "2**70 % 0", "range(2**70)", "1e22|int", "1e300|int|string|length", "2**64 == 2.0**64",
        "2**64 + 1 == 2.0**64", "2**64 < 1.8446744073709552e19", "2**64 in [2**64]", "{2**64: 1}[2**64]", "(2**70)|round", "2**70 * -1 * (2**70)",
        "(10**30)|string|length", "3**40 / 3**39", "1 / 10**25", "(10**25 + 1) / 10**25", "0 * 2**70", "0 ** 2**70", "-(2**63)", "1 ** 2**70"])]


def expression(dice, depth):
    if depth <= 0:
        return dice.choice(NAMES) if dice.random() < 0.7 else dice.choice(LITERALS)

    def part():
        return expression(dice, depth - 1)

    def binary():
        operator, left = dice.choice(BINARY), part()
        return f"({left} {operator} {'2' if operator == '**' else part()})"

    def conditional():
        return f"({part()} if {part()}" + (f" else {part()})" if dice.random() < 0.7 else ")")

    def compound():
        return dice.choice([f"[{part()}, {part()}]", f"{{'a': {part()}, 'b': {part()}}}", f"({part()} < {part()} <= {part()})",
                            f"({part()}, )"])

    kinds = {  # with their weights
        lambda: f"({part()}|{dice.choice(FILTERS)})": 25, lambda: f"({part()}).{dice.choice(METHODS)}": 17,
        lambda: f"({part()}){dice.choice(ATTRIBUTES)}": 15, binary: 25, lambda: f"({part()} is {dice.choice(TESTS)})": 6,
        lambda: f"(not {part()})": 3, conditional: 4, lambda: f"(-{part()})": 2, compound: 3}
    return dice.choices(list(kinds), list(kinds.values()))[0]()


def rendered(sources, variables):
    """Texts as transformers' environment gives them, None where it raises."""
    texts = []
    for source, given in zip(sources, variables):
        try:
            texts.append(chat_template_utils._compile_jinja_template(source).render(**copy.deepcopy(given)))
        except Exception:  # whatever Python raises
            texts.append(None)
    return texts


MARKS = {"user": "\ue001", "tool": "\ue002", "system": "\ue003"}  # characters of others than the assistant


def conversation(dice):
    def text(role=None):
        words = [dice.choice(TEXTS) for _ in range(dice.randint(0, 5))]
        return dice.choice(["", " "]) + MARKS.get(role, "").join(["", *words, ""] if words else [""])

    def call():
        arguments = {key: dice.choice([1, 2.5, None, True, text(), [1, {"y": text()}], {}])
                     for key in dice.sample(["a", "b", "items"], dice.randint(0, 3))}
        return {"id": f"call{dice.randint(0, 9)}xyz", "type": "function",
                "function": {"name": dice.choice(["f", "get_x"]), "arguments": arguments}}

    messages = [{"role": "system", "content": text("system")}] if dice.random() < 0.5 else []
    for _ in range(dice.randint(0, 4)):
        messages.append({"role": "user", "content": text("user")})
        while dice.random() < 0.3:
            calls = [call() for _ in range(dice.randint(1, 2))]
            messages.append({"role": "assistant", "content": dice.choice(["", text()]), "tool_calls": calls})
            messages.append({"role": "tool", "name": "f", "tool_call_id": "call1xyz", "content": text("tool")})
        if dice.random() < 0.8:
            messages.append({"role": "assistant", "content": text()})
            if dice.random() < 0.4:
                messages[-1]["reasoning_content"] = text()
    if dice.random() < 0.1:
        dice.shuffle(messages)
    parameters = {"type": "object", "properties": {"a": {"type": "string", "description": text()}}, "required": ["a"]}
    tools = [{"type": "function", "function": {"name": "f", "description": text(), "parameters": parameters}}]
    return {"messages": messages, "tools": dice.choice([None, tools])}


def program_rows(program, template, rows, options):
    with tempfile.TemporaryDirectory() as folder:
        source, messages = pathlib.Path(folder, "t.jinja"), pathlib.Path(folder, "m.jsonl")
        source.write_text(template, encoding="utf-8")
        messages.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        run = subprocess.run([program, "tokenize", "--chat-template", source, "--messages", messages, "--template-options",
                              json.dumps(options), "--json"], capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"the program ended with {run.returncode}: {run.stderr}")
        return [json.loads(line) for line in run.stdout.splitlines()]


def wrong_rows(title, found, wanted, inputs):
    wrong = [(row, text, given) for row, text, given in zip(found, wanted, inputs)
             if row.get("text") != text and not row.get("error", "").endswith(REFUSED)]
    for row, text, given in wrong[:15]:
        print(f"{title} {given}\n  got  {row!r}\n  want {text!r}")
    print(f"{title}: {len(wanted)} compared, {sum(text is None for text in wanted)} of them raise, {len(wrong)} wrong", flush=True)
    return len(wrong) + abs(len(found) - len(wanted))


def check_expressions(program, count, seed):
    wrong = 0
    for first in range(0, count, 500):
        dice, numbers = random.Random(f"{seed}-{first}"), range(min(500, count - first))
        expressions = [expression(dice, dice.randint(1, 3)) for _ in numbers]
        template = "".join(f"{{% if messages[0].k == {i} %}}{{{{ {e} }}}}{{% endif %}}" for i, e in enumerate(expressions))
        rows = [{"messages": [{"k": i}]} for i in numbers]
        wanted = rendered(["{{ " + e + " }}" for e in expressions], [{**VARIABLES, **row} for row in rows])
        wrong += wrong_rows("expressions", program_rows(program, template, rows, VARIABLES), wanted, expressions)
    return wrong


def check_statements(program):
    sources = [source.replace("N", str(i)) for i, source in enumerate(STATEMENTS)]
    template = "".join(f"{{% if messages[0].k == {i} %}}{source}{{% endif %}}" for i, source in enumerate(sources))
    rows = [{"messages": [{"k": i}]} for i in range(len(sources))]
    wanted = rendered(sources, [{**VARIABLES, **row} for row in rows])
    return wrong_rows("statements", program_rows(program, template, rows, VARIABLES), wanted, sources)


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def check_conversations(program, count, seed, folder):
    chat_template_utils.datetime = FixedTime
    wrong, files = 0, sorted(pathlib.Path(folder).glob("*.jinja"))
    for file in files:
        dice, source = random.Random(f"{seed}-{file.name}"), file.read_text(encoding="utf-8")
        given = {"bos_token": "<s>", "eos_token": "<|im_end|>", "add_generation_prompt": dice.random() < 0.5,
                 "enable_thinking": dice.random() < 0.5}
        rows = [conversation(dice) for _ in range(-(-count // len(files)))]
        wanted = rendered([source] * len(rows), [{**given, **row, "documents": None} for row in rows])
        found = program_rows(program, source, rows, {**given, "now": NOW.isoformat()})
        wrong += wrong_rows(file.name, found, wanted, [json.dumps(row) for row in rows])
        wrong += foreign_rows(file.name, found, rows)
    return wrong


def foreign_rows(title, found, rows):
    """Rows that train a character of a user, a tool or a system message."""
    wrong, spans = [], 0
    for made, row in zip(found, rows):
        text = made.get("text", "").encode()
        trained = b"".join(text[begin:end] for begin, end in made.get("loss_spans_utf8", [])).decode(errors="replace")
        spans += len(made.get("loss_spans_utf8", []))
        if any(mark in trained for mark in MARKS.values()):
            wrong.append(row)
            print(f"{title} trains what is not the assistant's: {json.dumps(row)}\n  {trained!r}")
    print(f"{title}: {spans} spans, {len(wrong)} rows train what is not the assistant's", flush=True)
    return len(wrong)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--expressions", type=int, default=2000)
    parser.add_argument("--conversations", type=int, default=1000)
    parser.add_argument("--templates", default=GOLDEN / "templates")
    parser.add_argument("--seed", default="1")
    a = parser.parse_args()
    warnings.simplefilter("ignore")
    wrong = check_expressions(a.program, a.expressions, a.seed) + check_statements(a.program)
    wrong += check_conversations(a.program, a.conversations, a.seed, a.templates)
    sys.exit(1 if wrong + check_turns(a.program) else 0)


if __name__ == "__main__":
    main()
