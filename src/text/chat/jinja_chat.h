// The chat format of any Jinja template: a checkpoint's own, or one from a file.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/json.h"
#include "text/chat/chat_encoder.h"

namespace moraine {

struct JinjaChat {
  std::unique_ptr<ChatEncoder> encoder;
  std::string scaffold;     // a short conversation, rendered; "" where the template refuses that
  std::string end_of_turn;  // what ends an assistant's turns; "" where a template writes nothing certain
};

// `source` is the template's text, `where` its place for errors. Its variables are the special tokens that the
// tokenizer_config.json and special_tokens_map.json of `model_folder` name (neither needs to exist), then `options`.
// Tool calls' arguments that are JSON text are given to the template as objects, as servers do, and as text where the
// template refuses that. Throws input errors on a malformed template and on options that no template takes.
JinjaChat make_jinja_chat(const std::string& source, const std::string& where, const OrderedJson& options,
                          const std::filesystem::path& model_folder);

}  // namespace moraine
