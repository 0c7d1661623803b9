#include "text/tokenizer/token_decoder.h"

#include "text/tokenizer/byte_pair_encoding.h"
#include "text/tokenizer/unicode.h"

namespace moraine {
namespace {

// Accepts ByteLevel, also inside a Sequence.
void check_byte_level(const JsonField& field) {
  if (field.is_null()) field.refuse("is missing", "only the ByteLevel decoder is supported with byte-level BPE");
  const std::string& type = field["type"].string();
  if (type == "ByteLevel") return;
  std::vector<JsonField> items;
  if (type == "Sequence") items = field["decoders"].items();
  if (items.empty()) field["type"].refuse(fmt::format("\"{}\" is not supported", type), "only ByteLevel is");
  for (const JsonField& item : items) {
    // Fuse joins what ByteLevel has joined already.
    if (&item != &items.front() && item["type"].string() == "Fuse") continue;
    check_byte_level(item);
  }
}

const std::string& one_character(const JsonField& field) {
  const std::string& text = field.string();
  size_t end = 0;
  if (!text.empty()) next_code_point(text, end);
  if (end == 0 || end != text.size()) field.refuse("must be one character");
  return text;
}

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string out;
  size_t done = 0;
  for (size_t at; (at = text.find(pattern, done)) != text.npos; done = at + pattern.size()) {
    out += text.substr(done, at - done);
    out += content;
  }
  return out += text.substr(done);
}

// Runs of bytes' tokens become text; in a run that is no UTF-8 every byte becomes U+FFFD.
std::vector<std::string> join_bytes(const std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string run;
  auto end_run = [&] {
    if (run.empty()) return;
    if (is_valid_utf8(run)) {
      out.push_back(run);
    } else {
      out.insert(out.end(), run.size(), "\uFFFD");
    }
    run.clear();
  };
  for (const std::string& token : tokens) {
    if (auto byte = byte_of_token(token)) {
      run += static_cast<char>(*byte);
      continue;
    }
    end_run();
    out.push_back(token);
  }
  end_run();
  return out;
}

std::string joined(const std::vector<std::string>& tokens) {
  std::string out;
  for (const std::string& token : tokens) out += token;
  return out;
}

}  // namespace

TokenDecoder TokenDecoder::from_json(const JsonField& field, bool byte_fallback) {
  TokenDecoder out;
  out.byte_fallback_ = byte_fallback;
  if (!byte_fallback) {
    check_byte_level(field);
    return out;
  }
  if (field.is_null()) field.refuse("is missing", "without one the reference puts spaces between tokens");
  out.add(field);
  return out;
}

void TokenDecoder::add(const JsonField& field) {
  const std::string& type = field["type"].string();
  if (type == "Sequence") {
    for (const JsonField& item : field["decoders"].items()) add(item);
  } else if (type == "Replace") {
    JsonField pattern = field["pattern"]["String"];
    if (pattern.is_null()) field["pattern"].refuse("holds no String", "a regex is not supported here");
    if (pattern.string().empty()) pattern.refuse("is empty, which is not supported");
    steps_.emplace_back(Replace{pattern.string(), field["content"].string()});
  } else if (type == "ByteFallback") {
    steps_.emplace_back(ByteFallback{});
  } else if (type == "Fuse") {
    steps_.emplace_back(Fuse{});
  } else if (type == "Strip") {
    JsonField start = field["start"], stop = field["stop"];
    if (!start.json().is_number_unsigned()) start.refuse("must be a number");
    if (stop.json() != 0) stop.refuse("is not 0, which is not supported");
    steps_.emplace_back(Strip{one_character(field["content"]), start.json().get<size_t>()});
  } else if (type == "Metaspace") {
    JsonField scheme = field["prepend_scheme"];
    const bool never = (!scheme.is_null() && scheme.string() == "never") || !field["add_prefix_space"].boolean(true);
    steps_.emplace_back(Metaspace{one_character(field["replacement"]), !never});
  } else {
    field["type"].refuse(fmt::format("\"{}\" is not supported", type),
                         "supported with byte_fallback are Replace, ByteFallback, Fuse, Strip, Metaspace and Sequence");
  }
}

std::string TokenDecoder::bytes(const std::string& token) const {
  if (!byte_fallback_) return byte_level_bytes(token).value_or(token);
  if (auto byte = byte_of_token(token)) return {static_cast<char>(*byte)};
  std::string out = token;
  for (const Step& step : steps_) {
    if (const auto* replace = std::get_if<Replace>(&step)) {
      out = replace_all(out, replace->pattern, replace->content);
    } else if (const auto* metaspace = std::get_if<Metaspace>(&step)) {
      out = replace_all(out, metaspace->replacement, " ");
    }
  }
  return out;
}

std::string TokenDecoder::decode(const std::vector<const std::string*>& spelled,
                                 const std::vector<const std::string*>& bytes) const {
  if (!byte_fallback_) {
    std::string out;
    for (const std::string* token : bytes) out += *token;
    return is_valid_utf8(out) ? out : repair_utf8(out, nullptr);
  }
  std::vector<std::string> tokens;
  tokens.reserve(spelled.size());
  for (const std::string* token : spelled) tokens.push_back(*token);
  for (const Step& step : steps_) {
    if (const auto* replace = std::get_if<Replace>(&step)) {
      for (std::string& token : tokens) token = replace_all(token, replace->pattern, replace->content);
    } else if (const auto* strip = std::get_if<Strip>(&step)) {
      for (std::string& token : tokens) {
        size_t at = 0;
        for (size_t i = 0; i < strip->start && std::string_view(token).substr(at).starts_with(strip->content); ++i)
          at += strip->content.size();
        token.erase(0, at);
      }
    } else if (const auto* metaspace = std::get_if<Metaspace>(&step)) {
      for (std::string& token : tokens) {
        const bool drops = &token == &tokens.front() && metaspace->prepends;
        token = replace_all(token, metaspace->replacement, drops ? "" : " ");
      }
    } else if (std::holds_alternative<ByteFallback>(step)) {
      tokens = join_bytes(tokens);
    } else {
      tokens = {joined(tokens)};
    }
  }
  return joined(tokens);
}

}  // namespace moraine
