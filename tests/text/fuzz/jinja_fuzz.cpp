// Mutated templates and conversations through the Jinja engine, to be run under sanitisers by hand:
//   jinja_fuzz INPUTS SEED [FOLDER of *.jinja]
// An input is a template, mutated, with a conversation. Prints how many were tried and the seconds and memory that
// took; nothing may crash, hang or grow, and no byte of a user or tool may be trained.
#include <sys/resource.h>

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

using namespace moraine;

namespace {

const std::vector<std::string> kSeeds{
    "{% set j = joiner(', ') %}{% set c = cycler('a', 'b') %}{% for g in messages|groupby('role', default='x') %}{{ "
    "j() }}"
    "{{ g.grouper }}{{ c.next() }}{{ g.list|length * 99999999999999999999 // 7 }}{% block b scoped %}"
    "{{ g.list[0].content }}{% endblock %}{% endfor %}",
    "{%- for m in messages %}{{ '<|' ~ m.role ~ '|>' + m['content']|trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{% macro show(x, d=0) %}{% if x is mapping %}{% for k, v in x|items %}{{ k }}={{ show(v, d + 1) }};{% endfor %}"
    "{% else %}{{ x }}{% endif %}{% endmacro %}{% set ns = namespace(out='', n=0) %}{% for m in messages if m.role != "
    "'x' %}"
    "{% set ns.out = ns.out + loop.index0|string ~ show(m) %}{% endfor %}{{ ns.out }}",
    "{% for m in messages[::-1] %}{% if loop.first and not loop.last %}{{ loop.nextitem.role }}{% elif m.tool_calls is "
    "defined and m.tool_calls %}{{ m.tool_calls|tojson(indent=2) }}{% else %}{% generation %}{{ "
    "m.content.split('</think>')"
    "[-1].lstrip('\\n') }}{% endgeneration %}{% break %}{% endif %}{% endfor %}",
    "{% set a, b = (1, [2.5, 'x']) %}{{ (a + 3) * 2 // 5 % 7 ** 2 - -a }}{{ b|join('-')|upper }}{{ {'k': "
    "a}.items()|list }}"
    "{{ 'abc'[1:] ~ 'abc'[-1] ~ ('%s|%05.2f' % ('q', 1.5)) }}{{ 'x' in 'xyz' and 1 < 2 <= 3 }}{{ "
    "range(5)|select('odd')|list }}",
    "{% filter upper %}{% for c in 'abc' recursive %}{{ c }}{% endfor %}{% endfilter %}{% call(x) m() %}{{ x }}{% "
    "endcall %}"
    "{% set t %}text {{ messages|length }}{% endset %}{{ t|replace('e', '\\u00e9')|title }}{% raw %}{{ }}{% endraw "
    "%}{# c #}"};
const std::vector<std::string> kPieces{"{{",
                                       "}}",
                                       "{%",
                                       "%}",
                                       "{#",
                                       "#}",
                                       "-",
                                       "+",
                                       " if ",
                                       " else ",
                                       " for ",
                                       " in ",
                                       "{% endfor %}",
                                       "{% endif %}",
                                       "loop.",
                                       "|tojson",
                                       "|length",
                                       "[::-1]",
                                       "[",
                                       "]",
                                       "(",
                                       ")",
                                       "'",
                                       "\"",
                                       " ~ ",
                                       " * 100000",
                                       "range(99999)",
                                       "namespace(x=messages)",
                                       "messages",
                                       "|list",
                                       "|string",
                                       "|sort",
                                       "{% set ns.x = ns %}",
                                       "{% macro f(a) %}{{ f(a) }}{% endmacro %}{{ f(1) }}",
                                       "|map('upper')",
                                       "|selectattr('role', 'equalto', 'user')",
                                       "**",
                                       "//",
                                       "%",
                                       "|int",
                                       "|float",
                                       "|indent(99)",
                                       "|reverse",
                                       "|batch(3)",
                                       "\xf0\x9f\x98\x80",
                                       "\xc3\xa9",
                                       "{% generation %}",
                                       "{% endgeneration %}",
                                       "|replace('', messages|string)",
                                       "'%s' % messages",
                                       "[0]",
                                       ".content",
                                       " is ",
                                       "9223372036854775807",
                                       "-1",
                                       "1e308",
                                       "|round(3)",
                                       "|unique",
                                       "'{}'.format(messages)",
                                       ".split('')",
                                       ".join(messages)"};

const char* kUserMarks[] = {"UUUU", "TTTT", "SSSS"};

OrderedJson conversation(std::mt19937_64& random) {
  OrderedJson messages = OrderedJson::array();
  const char* roles[] = {"system", "user", "assistant", "tool", "x"};
  for (size_t count = random() % 6; count-- > 0;) {
    const std::string role = roles[random() % 5];
    OrderedJson message{{"role", role}};
    std::string content = role == "assistant" ? "AAAA" : role == "user" ? "UUUU" : role == "tool" ? "TTTT" : "SSSS";
    if (random() % 3 == 0) content += " <think>\n\xe4\xb8\xad</think>\n\n x ";
    message["content"] = random() % 8 == 0 ? OrderedJson() : OrderedJson(content);
    if (random() % 3 == 0) {
      message["tool_calls"] = OrderedJson::array(
          {{{"function", {{"name", "f"}, {"arguments", {{"a", content}, {"b", {1, 2.5, nullptr, {{"c", true}}}}}}}}}});
    }
    if (random() % 5 == 0) message["reasoning_content"] = content;
    messages.push_back(message);
  }
  return messages;
}

std::string mutated(std::string text, std::mt19937_64& random) {
  for (size_t changes = random() % 5; changes-- > 0;) {
    const size_t at = text.empty() ? 0 : random() % text.size();
    switch (random() % 5) {
      case 0:
        text.insert(at, kPieces[random() % kPieces.size()]);
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

}  // namespace

int main(int argc, char** argv) {
  const size_t inputs = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1000;
  std::mt19937_64 random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  std::vector<std::string> seeds = kSeeds;
  if (argc > 3) {
    for (const auto& entry : std::filesystem::directory_iterator(argv[3])) {
      if (entry.path().extension() == ".jinja") seeds.push_back(read_text_file(entry.path()));
    }
  }
  const auto elapsed = [] { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; };  // of this process alone
  size_t tried = 0, templates = 0, parsed = 0, rendered = 0, spans = 0;
  double longest = 0;
  while (tried < inputs) {
    ++templates;
    const double before = elapsed();
    const std::string source = mutated(seeds[random() % seeds.size()], random);
    std::optional<jinja::ConversationTemplate> chat;
    try {
      OrderedJson options{{"eos_token", "<|end|>"}, {"bos_token", "<s>"}, {"add_generation_prompt", random() % 4 == 0}};
      chat.emplace(jinja::Template(source, "t"), jinja::read_render_options(options, "o"));
      ++parsed;
    } catch (const Error&) {
      ++tried;
      continue;
    }
    // One that takes long is not tried again and again.
    for (int i = 0; i < 16 && tried < inputs && elapsed() - before < 1; ++i) {
      if (++tried % 50000 == 0) std::printf("%zu inputs in %.0f s\n", tried, elapsed()), std::fflush(stdout);
      const OrderedJson messages = conversation(random);
      try {
        std::string why;
        const jinja::ConversationText made = chat->render(messages, OrderedJson(), &why);
        ++rendered;
        if (!is_utf8(made.text)) std::printf("NOT UTF-8\n"), std::abort();
        for (const jinja::TurnSpan& turn : made.turns) {
          ++spans;
          const std::string text = made.text.substr(turn.begin, turn.end - turn.begin);
          for (const char* mark : kUserMarks) {
            if (text.find(mark) == text.npos || source.find(mark) != source.npos) continue;
            std::printf("TRAINED %s\n%s\n%s\n", mark, source.c_str(), messages.dump().c_str());
            std::abort();
          }
        }
      } catch (const Error&) {
      }
    }
    if (elapsed() - before > longest) {
      longest = elapsed() - before;
      if (longest > 5) std::printf("%.1f s: %s\n", longest, source.c_str());
    }
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf(
      "%zu inputs in %.0f s: %zu templates, %zu parsed, %zu renderings, %zu spans; longest template %.2f s, %ld MiB\n",
      tried, elapsed(), templates, parsed, rendered, spans, longest, usage.ru_maxrss / 1024);
}
