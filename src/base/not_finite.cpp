#include "base/not_finite.h"

namespace moraine {
namespace {

constexpr const char* kWords[] = {"NaN", "Infinity", "-Infinity"};

template <typename J>
std::optional<std::string> word_of(const J& value) {
  if (!value.is_binary()) return std::nullopt;
  const auto& bytes = value.get_binary();
  const std::string text(bytes.begin(), bytes.end());
  for (const char* word : kWords) {
    if (text == word) return text;
  }
  return std::nullopt;
}

// A text that no file holds as it is dumped: an escaped control character that means nothing begins it.
std::string placeholder(const std::string& word) { return "\x01not finite: " + word; }

void put_placeholders(OrderedJson& value) {
  if (auto word = word_of(value)) value = placeholder(*word);
  if (!value.is_structured()) return;
  for (OrderedJson& item : value) put_placeholders(item);
}

}  // namespace

std::optional<std::string> not_finite_word(const Json& value) { return word_of(value); }
std::optional<std::string> not_finite_word(const OrderedJson& value) { return word_of(value); }

std::string dump_with_not_finite(OrderedJson value, int indent) {
  put_placeholders(value);
  std::string text = value.dump(indent);
  for (const char* word : kWords) {
    const std::string dumped = OrderedJson(placeholder(word)).dump();
    for (size_t at = 0; (at = text.find(dumped, at)) != text.npos;) text.replace(at, dumped.size(), word);
  }
  return text;
}

std::string value_for_error(const Json& value) {
  if (auto word = word_of(value)) return *word;
  return value.is_structured() ? std::string(value.type_name()) : value.dump(-1, ' ', true);
}

}  // namespace moraine
