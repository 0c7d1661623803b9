// Random templates and conversations through the Jinja engine, to be run under sanitisers by hand:
//   cmake --preset asan && cmake --build --preset asan --target jinja_fuzz
//   build-asan/jinja_fuzz INPUTS SEED [FOLDER of *.jinja]
// An input is a template with a conversation: a template of a small grammar or, now and then, a mutated longer one.
// Most are given little to spend, so that those which would take long end soon. Prints how many were tried, and the
// seconds and memory that took; nothing may crash, hang or grow, and no character of others than the assistant may be
// trained.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "text/jinja/conversation.h"
#include "text/jinja/failure.h"

using namespace moraine;

namespace {

using Words = std::vector<const char*>;

// What each role's texts are made of, besides what all share; no function of a template makes one from another.
constexpr std::pair<const char*, const char*> kMarks[] = {{"user", "\xe7\x94\xa8"},
                                                          {"tool", "\xe5\x85\xb7"},
                                                          {"system", "\xe7\xb3\xbb"},
                                                          {"x", "\xe4\xbb\x96"},
                                                          {"assistant", "A"}};

const Words kNames{
    "messages",      "m", "x", "y", "ns", "loop", "tools", "eos_token", "add_generation_prompt", "none", "f",
    "undefined_name"};
const Words kConstants{"0",
                       "1",
                       "-1",
                       "7",
                       "2.5",
                       "1e308",
                       "9223372036854775807",
                       "99999999999999999999",
                       "'a'",
                       "''",
                       "'<|b|>\\n'",
                       "'a,b'",
                       "' '",
                       "'%s'",
                       "'{}'",
                       "'role'",
                       "'content'",
                       "true",
                       "false",
                       "100000",
                       "'\\u00e9\\u4e2d'"};
const Words kFilters{"tojson",
                     "tojson(indent=2)",
                     "length",
                     "string",
                     "trim",
                     "items",
                     "safe",
                     "join(', ')",
                     "join",
                     "default('d')",
                     "list",
                     "lower",
                     "upper",
                     "selectattr('role', 'equalto', 'user')",
                     "rejectattr('role')",
                     "select",
                     "map('upper')",
                     "map(attribute='role')",
                     "dictsort",
                     "replace('a', 'bb')",
                     "replace('', 'x')",
                     "capitalize",
                     "int",
                     "float",
                     "sort",
                     "sort(attribute='role')",
                     "title",
                     "unique",
                     "groupby('role')",
                     "first",
                     "last",
                     "reverse",
                     "abs",
                     "round",
                     "sum",
                     "min",
                     "max",
                     "indent",
                     "indent(3, true)",
                     "batch(2)",
                     "slice(2)",
                     "wordcount",
                     "truncate(5)",
                     "center(9)",
                     "attr('role')",
                     "format(1)",
                     "escape",
                     "map('length')",
                     "sum(start=[])",
                     "tojson(ensure_ascii=true)",
                     "batch(2, 'f')"};
const Words kMethods{"strip()",
                     "strip('a')",
                     "lstrip()",
                     "rstrip('\\n')",
                     "split()",
                     "split('a')",
                     "split('a', 1)",
                     "rsplit('a', 1)",
                     "startswith('a')",
                     "endswith(('a', 'b'))",
                     "replace('a', '')",
                     "upper()",
                     "lower()",
                     "title()",
                     "swapcase()",
                     "join(messages)",
                     "join('ab')",
                     "splitlines()",
                     "find('a')",
                     "rfind('a')",
                     "count('')",
                     "isdigit()",
                     "partition('a')",
                     "rpartition('a')",
                     "ljust(9)",
                     "zfill(9)",
                     "center(20, 'a')",
                     "format(m)",
                     "format(a=1)",
                     "items()",
                     "keys()",
                     "values()",
                     "get('role')",
                     "get('x', m)",
                     "index('a')",
                     "copy()",
                     "pop()",
                     "append(1)",
                     "next()",
                     "current",
                     "grouper",
                     "list",
                     "content",
                     "role",
                     "tool_calls",
                     "reasoning_content",
                     "first",
                     "last",
                     "index0",
                     "previtem",
                     "nextitem",
                     "length",
                     "cycle(1, 2)",
                     "changed(m)",
                     "removeprefix('a')",
                     "0",
                     "1"};
const Words kTests{"defined", "none",          "string",    "mapping",     "sequence",    "iterable",
                   "odd",     "divisibleby 3", "eq 'user'", "in messages", "sameas none", "number",
                   "lower",   "callable",      "gt 1",      "filter"};
const Words kOperators{"+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", "in", "not in", "and", "or"};
const Words kSubscripts{"[0]",         "[-1]",  "[1:]", "[:-1]", "[::-1]", "['role']",
                        "['content']", "[::2]", "[99]", "[x]",   "[1:2]",  "[None]"};

class Grammar {
 public:
  explicit Grammar(std::mt19937_64& random) : random_(random) {}

  std::string body(int depth) {
    std::string text;
    for (size_t count = 1 + below(3); count-- > 0;) text += statement(depth);
    return text;
  }

 private:
  size_t below(size_t end) { return random_() % end; }
  std::string any(const Words& words) { return words[below(words.size())]; }

  std::string expression(int depth) {
    if (depth <= 0) return below(3) > 0 ? any(kNames) : any(kConstants);
    const auto part = [&] { return expression(depth - 1 - static_cast<int>(below(2))); };
    switch (below(13)) {
      case 0:
      case 1:
        return part() + "|" + any(kFilters);
      case 2:
      case 3:
        return part() + "." + any(kMethods);
      case 4:
        return part() + any(kSubscripts);
      case 5:
      case 6:
        return "(" + part() + " " + any(kOperators) + " " + part() + ")";
      case 7:
        return "(" + part() + " is " + any(kTests) + ")";
      case 8:
        return "(" + part() + " if " + part() + (below(2) == 0 ? " else " + part() : "") + ")";
      case 9:
        return below(2) == 0 ? "[" + part() + ", " + part() + "]"
                             : "{'k': " + part() + ", " + any(kConstants) + ": " + part() + "}";
      case 10:
        return (below(2) == 0 ? "not " : "-") + part();
      case 11: {
        const Words calls{"range(",     "namespace(a=", "dict(b=",       "joiner(",
                          "cycler(1, ", "f(",           "strftime_now(", "raise_exception("};
        return any(calls) + part() + ")";
      }
      default:
        return part();
    }
  }

  std::string tag(const std::string& inside) {
    return (below(3) == 0 ? "{%- " : "{% ") + inside + (below(3) == 0 ? " -%}" : " %}");
  }

  std::string statement(int depth) {
    const auto inner = [&] { return body(depth - 1); };
    const std::string value = expression(2);
    if (depth <= 0)
      return below(2) == 0 ? "{{ " + value + " }}" : "{{ m." + std::string(below(2) == 0 ? "role" : "content") + " }}";
    switch (below(14)) {
      case 0:
      case 1:
      case 2:
        return tag("for m in " + std::string(below(3) > 0 ? "messages" : value.c_str()) +
                   (below(5) == 0 ? " if " + expression(1) : "") + (below(9) == 0 ? " recursive" : "")) +
               "<|{{ m.role }}|>" + inner() + (below(3) == 0 ? "<|e|>\n" : "") +
               (below(6) == 0 ? "{% else %}" + inner() : "") + tag("endfor");
      case 3:
        return tag("if " + value) + inner() + (below(2) == 0 ? "{% else %}" + inner() : "") + tag("endif");
      case 4:
        return tag("if m.role == 'assistant'") + inner() + "{% else %}{{ m.content }}" + tag("endif");
      case 5:
        return tag("set " + std::string(below(2) == 0 ? "x" : "y") + " = " + value);
      case 6:
        return "{% set ns = namespace(a=" + value + ") %}" + inner() + "{% set ns.a = " + expression(2) +
               " %}{{ ns.a }}";
      case 7:
        return "{% macro f(x, y=1) %}" + inner() + "{% endmacro %}{{ f(" + value + ") }}";
      case 8:
        return tag("generation") + inner() + tag("endgeneration");
      case 9:
        return below(2) == 0 ? "{% filter upper %}" + inner() + "{% endfilter %}"
                             : "{% set x %}" + inner() + "{% endset %}{{ x }}";
      case 10:
        return "{% if add_generation_prompt %}<|assistant|>" + std::string(below(3) == 0 ? "<think>" : "") +
               "{% endif %}";
      case 11:
        return below(2) == 0 ? "{% with x = " + value + " %}" + inner() + "{% endwith %}"
                             : "{% call(x) f(" + value + ") %}" + inner() + "{% endcall %}";
      case 12:
        return below(2) == 0 ? "{% break %}" : "{% continue %}";
      default:
        return "text {{ " + value + " }}\n";
    }
  }

  std::mt19937_64& random_;
};

OrderedJson conversation(std::mt19937_64& random) {
  OrderedJson messages = OrderedJson::array();
  for (size_t count = random() % 6; count-- > 0;) {
    const auto& [role, mark] = kMarks[random() % std::size(kMarks)];
    const auto text = [&] {
      std::string made;
      for (size_t words = random() % 4; words-- > 0;)
        made += std::string(mark) + (random() % 4 == 0 ? " <think>\n</think>\n\n " : random() % 4 == 0 ? "a" : "");
      return made;
    };
    OrderedJson message{{"role", role}};
    switch (random() % 10) {
      case 0:
        message["content"] = nullptr;
        break;
      case 1:
        message["content"] = OrderedJson::array({{{"type", "text"}, {"text", text()}}});
        break;
      case 2:
        break;
      default:
        message["content"] = text();
    }
    if (random() % 4 == 0)
      message["tool_calls"] = OrderedJson::array(
          {{{"function", {{"name", "f"}, {"arguments", {{"a", text()}, {"b", {1, 2.5, nullptr, {{"c", true}}}}}}}}}});
    if (random() % 6 == 0) message["reasoning_content"] = text();
    messages.push_back(std::move(message));
  }
  return messages;
}

std::string mutated(std::string text, std::mt19937_64& random) {
  const Words pieces{"{{",
                     "}}",
                     "{%",
                     "%}",
                     "{#",
                     "#}",
                     "-",
                     " if ",
                     "{% endfor %}",
                     "loop.",
                     "|tojson",
                     "[::-1]",
                     "(",
                     ")",
                     "'",
                     " * 100000",
                     "range(99999)",
                     "messages",
                     "|list",
                     "**",
                     "%",
                     "|indent(99)",
                     "\xf0\x9f\x98\x80",
                     "'%s' % messages",
                     ".content",
                     "9223372036854775807",
                     "'{}'.format(messages)",
                     ".split('')",
                     "{% raw %}",
                     "{% endraw %}",
                     "{% block b %}{% endblock %}"};
  for (size_t changes = random() % 4; changes-- > 0;) {
    const size_t at = text.empty() ? 0 : random() % text.size();
    switch (random() % 5) {
      case 0:
        text.insert(at, pieces[random() % pieces.size()]);
        break;
      case 1:
        text.erase(at, random() % 12);
        break;
      case 2:
        text.insert(at, text.substr(random() % (text.size() + 1), random() % 80));
        break;
      case 3:
        if (!text.empty()) text[at] = static_cast<char>(random() % 96 + 32);
        break;
      default:
        text.insert(at, std::string(1 + random() % 300, "([{-~'.|"[random() % 8]));
    }
  }
  return text;
}

[[noreturn]] void fail(const char* what, const std::string& source, const OrderedJson& messages,
                       const std::string& text) {
  std::printf("%s\n%s\n%s\n%s\n", what, source.c_str(), messages.dump().c_str(), text.c_str());
  std::abort();
}

void check(const jinja::ConversationText& made, const std::string& source, const OrderedJson& messages) {
  if (!is_utf8(made.text)) fail("NOT UTF-8", source, messages, made.text);
  for (const jinja::TurnSpan& turn : made.turns) {
    const std::string_view trained = std::string_view(made.text).substr(turn.begin, turn.end - turn.begin);
    for (const auto& [role, mark] : kMarks) {
      if (std::string_view(role) != "assistant" && trained.find(mark) != trained.npos)
        fail("TRAINED", source, messages, made.text);
    }
  }
}

// What one rendering tells of a conversation's beginnings is what renderings of them give. Returns how many it tells.
size_t check_beginnings(const jinja::Template& chat, const std::string& source, const OrderedJson& messages) {
  const auto variables = [&](size_t count, bool has_prompt) {
    OrderedJson first = OrderedJson::array();
    for (size_t i = 0; i < count; ++i) first.push_back(messages[i]);
    return jinja::Variables{{"messages", jinja::from_json(first)},
                            {"eos_token", jinja::Value::string("<|e|>")},
                            {"add_generation_prompt", jinja::Value::boolean(has_prompt)}};
  };
  const jinja::RenderedBeginnings found =
      chat.render_beginnings(variables(messages.size(), false), std::tm{}, std::vector<bool>(messages.size(), true), 0);
  for (const auto& part : found.parts) {
    const std::string text = found.shared.substr(0, part.head) + part.rest;
    std::string wanted;
    try {
      const jinja::BudgetScope budget;
      wanted = chat.render(variables(part.count, part.has_prompt), std::tm{}).text;
    } catch (const Error& error) {
      wanted = error.what();
    }
    if (text != wanted) fail("OTHER BEGINNING", source, messages, wanted + "\nis not\n" + text);
  }
  return found.parts.size();
}

}  // namespace

int main(int argc, char** argv) {
  const size_t inputs = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1000;
  std::mt19937_64 random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  std::vector<std::string> released;
  if (argc > 3) {
    for (const auto& entry : std::filesystem::directory_iterator(argv[3])) {
      if (entry.path().extension() == ".jinja") released.push_back(read_text_file(entry.path()));
    }
  }
  const auto elapsed = [] { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; };  // of this process alone
  size_t tried = 0, templates = 0, parsed = 0, rendered = 0, spans = 0, beginnings = 0, spent = 0, reported = 0;
  double longest = 0;
  Grammar grammar(random);
  while (tried < inputs) {
    ++templates;
    const bool is_released = !released.empty() && templates % 200 == 0, has_all = templates % 5000 == 0;
    const double before = elapsed();
    std::string source =
        is_released ? released[random() % released.size()] : grammar.body(1 + static_cast<int>(random() % 4));
    if (is_released || random() % 4 == 0) source = mutated(std::move(source), random);
    std::optional<jinja::ConversationTemplate> chat;
    std::optional<jinja::Template> alone;
    try {
      const jinja::BudgetScope budget({.steps = 20'000, .bytes = 1 << 20});
      OrderedJson options{{"eos_token", "<|e|>"}, {"bos_token", "<s>"}, {"add_generation_prompt", random() % 4 == 0}};
      chat.emplace(jinja::Template(source, "t"), jinja::read_render_options(options, "o"));
      alone.emplace(source, "t");
      ++parsed;
    } catch (const Error&) {
      ++tried;
      continue;
    }
    for (int i = 0; i < 8 && tried < inputs; ++i) {
      ++tried;
      const OrderedJson messages = conversation(random);
      const jinja::BudgetScope budget(has_all ? jinja::Budget{} : jinja::Budget{.steps = 20'000, .bytes = 1 << 20});
      try {
        std::string why;
        const jinja::ConversationText made = chat->render(messages, OrderedJson(), &why);
        ++rendered;
        spans += made.turns.size();
        check(made, source, messages);
        if (i % 2 == 0) beginnings += check_beginnings(*alone, source, messages);
      } catch (const Error&) {
      } catch (const jinja::Failure&) {  // nothing is left to make the messages of
      }
      spent += budget.is_spent();
      if (has_all && budget.is_spent()) break;
    }
    const double took = elapsed() - before;
    longest = std::max(longest, took);
    if (took > 30) fail("SLOW", source, OrderedJson(), "");
    if (tried / 20000 > reported) {
      reported = tried / 20000;
      std::printf("%zu inputs in %.0f s\n", tried, elapsed());
      std::fflush(stdout);
    }
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf(
      "%zu inputs in %.0f s: %zu templates, %zu parsed, %zu renderings, %zu of them out of budget, %zu spans, %zu "
      "beginnings; "
      "longest template %.2f s, %ld MiB\n",
      tried, elapsed(), templates, parsed, rendered, spent, spans, beginnings, longest, usage.ru_maxrss / 1024);
}
