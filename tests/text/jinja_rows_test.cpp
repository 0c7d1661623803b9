// Whole conversations through chat templates: texts, spans and errors as transformers gives them.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "text/jinja/conversation.h"

namespace moraine::jinja {
namespace {

size_t characters(const std::string& text, size_t bytes) {
  size_t count = 0;
  for (size_t i = 0; i < bytes; ++i) count += (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
  return count;
}

// Rows of released templates, which are not in this repository: MORAINE_JINJA_ROWS names a folder with rows.jsonl and
// templates/.
TEST(JinjaRows, EqualThoseOfReleasedTemplates) {
  const char* folder = std::getenv("MORAINE_JINJA_ROWS");
  if (folder == nullptr) GTEST_SKIP() << "MORAINE_JINJA_ROWS is not set";
  std::ifstream rows(std::string(folder) + "/rows.jsonl");
  size_t texts = 0, wrong_texts = 0, spans = 0, wrong_spans = 0, undecided = 0, more = 0, user_bytes = 0;
  int shown = 0;
  for (std::string line; std::getline(rows, line);) {
    const OrderedJson row = parse_exact_json(line, "row");
    const std::string name = row["template"].get<std::string>();
    const std::string title = name + " / " + row["conversation"].get<std::string>() + " " + row["kwargs"].dump();
    OrderedJson options = row["special_tokens"];
    for (const auto& [key, value] : row["kwargs"].items()) options[key] = value;
    for (const char* key : {"add_generation_prompt", "continue_final_message", "now"}) options[key] = row[key];
    ++texts;
    std::string why;
    try {
      const ConversationTemplate chat(
          Template(read_text_file(std::string(folder) + "/templates/" + name + ".jinja"), name),
          read_render_options(options, "options"));
      const ConversationText made = chat.render(row["messages"], row["tools"], &why);
      if (row["text"].is_null() || made.text != row["text"].get<std::string>()) {
        ++wrong_texts;
        if (shown++ < 12) {
          ADD_FAILURE() << title << "\nGOT  " << OrderedJson(made.text).dump() << "\nWANT " << row["text"].dump()
                        << row.value("error_message", "");
        }
        continue;
      }
      if (row["spans"].is_null()) {
        why.empty() ? ++more : ++undecided;
        if (!why.empty() && std::getenv("SHOW") != nullptr) std::printf("%s: %s\n", title.c_str(), why.c_str());
        continue;
      }
      ++spans;
      OrderedJson found = OrderedJson::array();
      for (const TurnSpan& turn : made.turns) {
        if (turn.end <= turn.begin) continue;
        const size_t begin = characters(made.text, turn.begin), end = characters(made.text, turn.end);
        if (!found.empty() && found.back()[1] == begin) {
          found.back()[1] = end;
        } else {
          found.push_back({begin, end});
        }
      }
      if (found != row["spans"] || !why.empty()) {
        ++wrong_spans;
        if (shown++ < 12)
          ADD_FAILURE() << title << "\nGOT  " << found.dump() << " " << why << "\nWANT " << row["spans"].dump() << "\n"
                        << OrderedJson(made.text).dump();
      }
    } catch (const Error& error) {
      if (!row["text"].is_null()) {
        ++wrong_texts;
        if (shown++ < 12) ADD_FAILURE() << title << "\n" << error.what();
      }
    }
  }
  std::printf("%zu texts, %zu wrong; %zu spans, %zu wrong; of rows without spans %zu decided by origin, %zu not\n",
              texts, wrong_texts, spans, wrong_spans, more, undecided);
  EXPECT_EQ(wrong_texts, 0u);
  EXPECT_EQ(wrong_spans, 0u);
  (void)user_bytes;
}

}  // namespace
}  // namespace moraine::jinja
