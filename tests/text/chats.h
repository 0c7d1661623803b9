// What the tests of chat formats and tokenizers share.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/chat/chat_template.h"
#include "text/tokenizer/at_place.h"
#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/unicode.h"

namespace moraine {

namespace fs = std::filesystem;

inline const fs::path kGolden = fs::path(MORAINE_TESTS_DIR) / "golden";

inline const Tokenizer& qwen3_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::from_file(kGolden / "tokenizers/qwen3/tokenizer.json");
  return tokenizer;
}

inline const Tokenizer& deepseek_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::from_file(kGolden / "tokenizers/deepseek/tokenizer.json");
  return tokenizer;
}

// The character that stands for a byte in byte-level vocabularies, as UTF-8.
inline std::string byte_character(int byte) {
  int next = 0x100, c = 0;
  for (int b = 0; b <= byte; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    c = printable ? b : next++;
  }
  std::string out;
  append_utf8(out, static_cast<char32_t>(c));
  return out;
}

inline std::vector<OrderedJson> golden_rows(const std::string& name) {
  std::ifstream file(kGolden / "templates" / (name + ".jsonl"));
  EXPECT_TRUE(file.is_open()) << name;
  std::vector<OrderedJson> rows;
  for (std::string line; std::getline(file, line);) rows.push_back(parse_ordered_json(line, name));
  return rows;
}

// A folder that is gone with the test.
class Folder {
 public:
  Folder() {
    std::string name = fs::temp_directory_path() / "moraine_template_XXXXXX";
    path = mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path); }
  void write(const std::string& name, const std::string& text) const { std::ofstream(path / name) << text; }
  fs::path path;
};

inline std::unique_ptr<ChatTemplate> make(const std::string& name, const char* options = "{}") {
  return make_chat_template(name, Json::parse(options), "/no/such/folder");
}

template <typename F>
std::string error_of(F&& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind, ErrorKind::kInput);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    EXPECT_LT(std::string(error.what()).size(), 500u);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

inline std::string training_text(const std::string& name, const char* messages, const char* tools = "null") {
  return at_place("chats.jsonl:1", [&] {
    return make(name)->encoder->training_text(OrderedJson::parse(messages), OrderedJson::parse(tools)).text;
  });
}

}  // namespace moraine
