// The Jinja engine's errors and bounds, and what it says an assistant wrote.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/error.h"
#include "base/file.h"
#include "text/jinja/conversation.h"

namespace moraine::jinja {
namespace {

using testing::HasSubstr;

const std::filesystem::path kGolden = std::filesystem::path(MORAINE_TESTS_DIR) / "golden";

Variables variables_of(const OrderedJson& json) {
  Variables variables;
  for (const auto& [name, value] : json.items()) variables.emplace_back(name, from_json(value));
  return variables;
}

std::string render(const std::string& source, const OrderedJson& variables = OrderedJson::object()) {
  return Template(source, "t").render(variables_of(variables), std::tm{}).text;
}

std::string error_of(const std::string& source, const OrderedJson& variables = OrderedJson::object()) {
  try {
    return "no error: " + render(source, variables).substr(0, 100);
  } catch (const Error& error) {
    return error.what();
  }
}

ConversationTemplate chat_template(const std::string& source, const char* options = "{}") {
  return ConversationTemplate(Template(source, "t"), read_render_options(OrderedJson::parse(options), "options"));
}

// What is trained, a turn after the other.
std::vector<std::string> trained(const ConversationTemplate& chat, const OrderedJson& messages) {
  const ConversationText made = chat.render(messages, nullptr);
  std::vector<std::string> texts;
  for (const TurnSpan& turn : made.turns) texts.push_back(made.text.substr(turn.begin, turn.end - turn.begin));
  return texts;
}

TEST(Jinja, BlocksHelpersAndGroupsAreThoseOfPython) {
  EXPECT_EQ(render("{% set v = 1 %}{% block a %}{{ v }}{% set v = 2 %}{% endblock a %}{{ v }}"), "11");
  EXPECT_EQ(render("{% for i in [1, 2] %}{% block a %}[{{ i }}]{% endblock %}{% endfor %}"), "[][]");
  EXPECT_EQ(render("{% for i in [1, 2] %}{% block a scoped %}[{{ i }}]{% endblock %}{% endfor %}"), "[1][2]");
  EXPECT_THAT(error_of("{% block a %}{% endblock %}{% block a %}{% endblock %}"), HasSubstr("'a' is there twice"));
  EXPECT_THAT(error_of("{% block a required %}{% endblock %}"), HasSubstr("a required block"));
  EXPECT_THAT(error_of("{% for i in [1] %}{% block a %}{% break %}{% endblock %}{% endfor %}"),
              HasSubstr("'break' outside of a loop"));
  EXPECT_EQ(render("{% set j = joiner(', ') %}{% for i in [1, 2, 3] %}{{ j() }}{{ i }}{% endfor %}"), "1, 2, 3");
  EXPECT_EQ(render("{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}"), "aba");
  EXPECT_THAT(error_of("{{ cycler() }}"), HasSubstr("cycler needs items"));
  EXPECT_EQ(render("{% for g in ['a', 'B', 'A']|groupby(0) %}{{ g.grouper }}{{ g.list }}{% endfor %}"),
            "a['a', 'A']B['B']");
}

TEST(Jinja, IntegersHaveAnySizeUntilTheyAreTooLarge) {
  EXPECT_EQ(render("{{ 2**70 }} {{ -(2**70) // 3 }} {{ -(2**70) % 7 }}"),
            "1180591620717411303424 -393530540239137101142 5");
  EXPECT_EQ(render("{{ 9223372036854775807 + 1 }} {{ 99999999999999999999 * 2 - 1 }} {{ 2**70 / 3 }}"),
            "9223372036854775808 199999999999999999997 3.935305402391371e+20");
  EXPECT_EQ(render("{{ 2**64 - 2**64 + 5 }} {{ 2**64 == 2.0**64 }} {{ 2**64 + 1 > 2.0**64 }}"), "5 True True");
  EXPECT_THAT(error_of("{{ 2**20000 }}"), HasSubstr("an int of more than 4300 digits"));
  EXPECT_THAT(error_of("{{ 2**(2**40) }}"), HasSubstr("the result is too large"));
  EXPECT_THAT(error_of("{{ 10**400 * 1.0 }}"), HasSubstr("too large for a float"));
}

TEST(Jinja, ErrorsNameTheirPlace) {
  EXPECT_THAT(error_of("a\n {% if x %}"), HasSubstr("'endif' is missing"));
  EXPECT_THAT(error_of("a\n  {{ x.y.z }}"), HasSubstr("t:2:7: undefined 'x' is used"));
  EXPECT_THAT(error_of("{% include 'x' %}"), HasSubstr("t:1:1: the tag 'include' is not one of chat templates"));
  const ConversationTemplate chat =
      chat_template("{% for m in messages %}\n{{ raise_exception('no ' + m.role) }}{% endfor %}");
  try {
    chat.render(OrderedJson::parse(R"([{"role": "user", "content": ""}])"), nullptr);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("message 0: t:2:19: no user"));
  }
}

TEST(Jinja, ARenderingIsBounded) {
  EXPECT_THAT(error_of("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), HasSubstr("recursion too deep"));
  EXPECT_THAT(error_of("{{ range(100001) }}"), HasSubstr("range is longer than 100000"));
  EXPECT_THAT(error_of("{{ ('abcd' * 99999) * 99999 }}"), HasSubstr("too long a text"));
  EXPECT_THAT(error_of("{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = [n.x] %}{% endfor %}"),
              HasSubstr("nested too deep"));
  EXPECT_THAT(error_of("{{" + std::string(100000, '(') + "1" + std::string(100000, ')') + "}}"),
              HasSubstr("nested too deep"));
  // What holds itself is freed.
  EXPECT_EQ(render("{% set n = namespace() %}{% set n.n = n %}{% macro f() %}{% endmacro %}{% set n.f = f %}x"), "x");
}

// Each would run for minutes or fill the memory. What they may spend is a tenth of a row's, to keep this short.
const char* const kHostile[] = {
    "{{ messages * 100000 }}",
    "{{ (messages * 100000)|tojson }}",
    "{{ (messages * 20000)|map(attribute='content')|join }}",
    "{{ ([1] * 500000)|sum }}{{ ([[1]] * 9999)|sum(start=[]) }}",
    "{{ 'ab' * 60000000 }}{{ 'ab' * 30000000 }}",
    "{% set s = 'a' * 2000000 %}{% for i in range(99999) %}{% if s == s ~ '' %}{% endif %}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{% set x = s[i] %}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{% set x = s|length %}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ (s ~ 'b') in s }}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{{ s.rfind('a' * 400000 ~ 'b') }}{{ s.rsplit('b' ~ 'a' * 400000)|length }}",
    "{% set s = 'a' * 1000000 %}{{ s.strip('b' * 500000 ~ 'a') }}",
    "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s.isalpha() }}{{ s.lower()|length }}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s|wordcount }}{{ s|title|length }}{% endfor %}",
    "{% set s = '\\x01' * 2000000 %}{{ [s, s, s, s] }}{{ [s, s, s]|tojson }}",
    "{% for i in range(99999) %}{% set x = 7 ** 20000 // 3 ** 9999 %}{% endfor %}",
    "{% for i in range(99999) %}{% set x = 7 ** 20000 + i %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% set x = range(99999)|batch(1)|list %}{% endfor %}",
    "{{ range(99999)|map('string')|unique|list|length }}{{ range(99999)|list|sort|unique|list|length }}",
    "{% for i in range(99999) %}{{ range(99999)|list == range(99999)|list }}{{ i in range(99999)|list }}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s|replace('', n.s) %}{% endfor %}",
    "{% for i in range(99999) %}{{ 'a'.center(999999)|length }}{{ 'a'|indent(1000)|length }}{% endfor %}",
    "{% for i in range(99999) %}{{ '%1000d' % i }}{{ '{:>1000}'.format('a') }}{% endfor %}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{% macro f(x) %}{% call f(f(x)) %}{{ x }}{% endcall %}{% endmacro %}{{ f(1) }}",
    "{% for c in 'ab' * 500000 %}{% endfor %}{% for c in ('ab' * 5000000)|list %}{% endfor %}",
};

TEST(Jinja, AHostileTemplateEndsInAnError) {
  const OrderedJson messages = OrderedJson::parse(R"([{"role": "user", "content": "q q q q q q q"},
      {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}])");
  for (const char* source : kHostile) {
    const std::clock_t begin = std::clock();
    const BudgetScope budget({.steps = 1'000'000, .bytes = int64_t{32} << 20});
    std::string error;
    try {
      chat_template(source).render(messages, nullptr);
    } catch (const Error& thrown) {
      error = thrown.what();
    }
    EXPECT_THAT(error, testing::AnyOf(HasSubstr("takes too many steps"), HasSubstr("makes too much text"),
                                      HasSubstr("makes too long a text"), HasSubstr("recursion too deep"),
                                      HasSubstr("the result is too large")))
        << source;
    EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, 1.0) << source;
  }
}

// All renderings of a row share what it may spend, and the error is that of the limit.
TEST(Jinja, ARowIsBounded) {
  OrderedJson messages = OrderedJson::array();
  for (int i = 0; i < 100; ++i) {
    messages.push_back({{"role", "user"}, {"content", "q"}});
    messages.push_back({{"role", "assistant"}, {"content", "a"}});
  }
  const ConversationTemplate chat = chat_template(  // sees how many messages there are: each beginning is rendered
      "{{ messages|length }}{% for i in range(300) %}{% for j in range(400) %}{% endfor %}{% endfor %}"
      "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}");
  EXPECT_NO_THROW(chat.text(messages, nullptr, false));
  const BudgetScope budget({.steps = 1'000'000, .bytes = int64_t{32} << 20});
  std::string error;
  try {
    chat.render(messages, nullptr);
  } catch (const Error& thrown) {
    error = thrown.what();
  }
  EXPECT_THAT(error, testing::AllOf(HasSubstr("t:1:"), testing::AnyOf(testing::EndsWith("takes too many steps"),
                                                                      testing::EndsWith("makes too much text"))));
  EXPECT_TRUE(budget.is_spent());
}

// The beginnings of a conversation that one rendering of the whole tells are what renderings of them give.
TEST(Jinja, BeginningsEqualTheirOwnRenderings) {
  OrderedJson messages = OrderedJson::parse(R"([{"role": "system", "content": "s"}])");
  for (int i = 0; i < 6; ++i) {
    messages.push_back({{"role", i % 3 == 1 ? "tool" : "user"}, {"content", "q" + std::to_string(i)}});
    messages.push_back({{"role", "assistant"}, {"content", "a" + std::to_string(i)}});
  }
  const std::string body = "<{{ m.role }}>{{ m.content }}", prompt = "{% if add_generation_prompt %}<a>{% endif %}";
  const auto parts_of = [&](const std::string& source) {
    const Template chat(source, "t");
    const auto variables = [&](size_t count, bool has_prompt) {
      OrderedJson first = OrderedJson::array();
      for (size_t i = 0; i < count; ++i) first.push_back(messages[i]);
      return Variables{{"messages", from_json(first)}, {"add_generation_prompt", Value::boolean(has_prompt)}};
    };
    const RenderedBeginnings found = chat.render_beginnings(variables(messages.size(), false), std::tm{},
                                                            std::vector<bool>(messages.size(), true), 0);
    for (const auto& part : found.parts) {
      EXPECT_EQ(found.shared.substr(0, part.head) + part.rest,
                chat.render(variables(part.count, part.has_prompt), std::tm{}).text)
          << source << " " << part.count;
    }
    return found.parts.size();
  };
  const std::string loop = "{% for m in messages %}" + body;
  for (const std::string& source : {
           loop + "{% endfor %}" + prompt,
           loop + "{% if loop.last %}!{% endif %}{% endfor %}" + prompt,
           loop + "{% if loop.nextitem is defined and loop.nextitem.role == 'tool' %}+{% endif %}{% endfor %}" + prompt,
           loop + "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}+{% endif %}{% endfor %}" + prompt,
           "{% set n = namespace(t='') %}" + loop + "{% set n.t = n.t ~ m.role[0] %}{% endfor %}{{ n.t }}" + prompt,
           "{% set n = 1 %}{% macro f(x) %}{{ x.content }}{{ n }}{% endmacro %}{% for m in messages %}{{ f(m) }}"
           "{% endfor %}{% set n = 2 %}{{ f(messages[0]) }}{{ messages|length }}" +
               prompt,
           loop + "{% endfor %}{% set messages = messages[1:] %}{% for m in messages %}{{ m.role }}{% endfor %}" +
               prompt,
           "{% if not add_generation_prompt is defined %}-{% endif %}" + loop + "{% endfor %}" + prompt,
       })
    EXPECT_EQ(parts_of(source), 2 * (messages.size() - 1)) << source;
  // Not those of the first message, which the slice leaves out.
  EXPECT_EQ(parts_of("{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set rest = messages[1:] %}"
                     "{% endif %}{% for m in rest %}" +
                     body + "{% endfor %}{{ rest|length }}" + prompt),
            2 * (messages.size() - 2));
  EXPECT_EQ(parts_of("{{ messages[4].role }}" + loop + "{% endfor %}" + prompt), 2 * (messages.size() - 5));
  EXPECT_EQ(parts_of(loop + "{% if m.content == 'a2' %}{{ messages|length }}{% endif %}{% endfor %}" + prompt), 2u * 7);
  for (const std::string& source :
       {"{{ messages|length }}" + loop + "{% endfor %}", loop + "{{ loop.length }}{% endfor %}",
        loop + "{{ add_generation_prompt }}{% endfor %}", "{% for m in messages[::-1] %}" + body + "{% endfor %}",
        "{% set c = cycler(1, 2) %}" + loop + "{{ c.next() }}{% endfor %}",
        "{% set g = messages[0].role|map('upper') %}" + loop + "{{ g|join }}{% endfor %}"})
    EXPECT_LE(parts_of(source), 2u) << source;
}

TEST(Jinja, SpansAreWhatFollowsTheGenerationPrompt) {
  const std::string plain =
      "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
      "{% if add_generation_prompt %}<|assistant|>{% endif %}";
  const OrderedJson two =
      OrderedJson::parse(R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
      {"role": "user", "content": "r"}, {"role": "assistant", "content": "<think>t</think>b"}])");
  EXPECT_THAT(trained(chat_template(plain), two), testing::ElementsAre("a<|end|>", "<think>t</think>b<|end|>"));
  // Thinking of earlier turns is dropped, and the prompt opens it: both spans are by origin then.
  const std::string drops =
      "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] if not loop.last else m.content "
      "}}<|end|>\n"
      "{% endfor %}{% if add_generation_prompt %}<|assistant|><think>{% endif %}";
  EXPECT_THAT(trained(chat_template(drops), two), testing::ElementsAre("a<|end|>", "t</think>b<|end|>"));
  // A template that marks them itself.
  const std::string marks =
      "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %}{{ m.content }}.{% endgeneration %}"
      "{% else %}{{ m.content }}{% endif %}\n{% endfor %}";
  EXPECT_THAT(trained(chat_template(marks), two), testing::ElementsAre("a.", "<think>t</think>b."));
  // A turn that holds another's text is an error.
  const std::string mixes = "{% for m in messages %}{{ loop.previtem.content }}{{ m.content }};{% endfor %}";
  EXPECT_THROW(chat_template(mixes).render(two, nullptr), Error);
}

TEST(Jinja, OriginsSurviveWhatTemplatesDo) {
  const Template compiled(
      "{% macro f(x) %}({{ x }}){% endmacro %}{% set n = namespace(o='') %}{% for m in messages %}"
      "{% set n.o = n.o + f(m.content[1:]|upper) ~ (m|tojson) %}{% endfor %}{{ n.o[::-1] }}",
      "t");
  const OrderedJson messages = OrderedJson::parse(R"([{"content": "abc"}, {"content": "xyz"}])");
  const Rendered made = compiled.render({{"messages", messages_from_json(messages)}}, std::tm{});
  EXPECT_EQ(made.text, "}\"zyx\" :\"tnetnoc\"{)ZY(}\"cba\" :\"tnetnoc\"{)CB(");
  for (size_t at = 0; at < made.text.size(); ++at) {
    size_t run = 0;
    while (run + 1 < made.runs.size() && made.runs[run + 1].begin <= at) ++run;
    EXPECT_EQ(message_of(made.runs[run].origin), at < made.text.find("(}") + 1 ? 1 : 0) << at;
  }
}

// Whatever a conversation is, what users, tools and system messages say is never trained.
TEST(Jinja, NothingOfUsersAndToolsIsTrained) {
  std::mt19937_64 random(1);
  size_t spans = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kGolden / "templates")) {
    if (entry.path().extension() != ".jinja") continue;
    const ConversationTemplate chat = chat_template(read_text_file(entry.path()), R"({"eos_token": "<|im_end|>"})");
    for (int i = 0; i < 200; ++i) {
      OrderedJson messages = OrderedJson::array();
      for (size_t count = 1 + random() % 7; count-- > 0;) {
        const size_t who = random() % 3;
        const std::string mark = who == 0 ? "UU" : who == 1 ? "TT" : "AA";
        std::string content = random() % 3 == 0 ? mark + "<think>\n" + mark + "\n</think>\n\n" + mark : mark;
        messages.push_back({{"role", who == 0 ? "user" : who == 1 ? "tool" : "assistant"}, {"content", content}});
        if (who == 2 && random() % 3 == 0) messages.back()["reasoning_content"] = "AAA";
      }
      std::string why;
      ConversationText made;
      try {
        made = chat.render(messages, nullptr, &why);
      } catch (const Error&) {
        continue;
      }
      for (const TurnSpan& turn : made.turns) {
        ++spans;
        const std::string text = made.text.substr(turn.begin, turn.end - turn.begin);
        EXPECT_EQ(text.find("UU"), text.npos) << messages.dump() << text;
        EXPECT_EQ(text.find("TT"), text.npos) << messages.dump() << text;
      }
    }
  }
  EXPECT_GT(spans, 300u);
}

}  // namespace
}  // namespace moraine::jinja
