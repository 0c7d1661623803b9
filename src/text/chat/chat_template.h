// Chats to training text and tokens: an encoder for each chat format, equal to the released templates.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "config/choices.h"
#include "text/chat/chat_encoder.h"
#include "text/chat/chat_format.h"
#include "text/tokenizer/tokenizer.h"

namespace moraine {

// A chat format with its options, ready to render.
struct ChatTemplate {
  const ChatFormat& format;
  const ChatFormat& turns;  // the format whose turns are written: `format` itself unless it wraps another one
  std::unique_ptr<ChatEncoder> encoder;
  std::shared_ptr<const ChatFormat> own =
      nullptr;  // what `format` and `turns` are of a template that no row of the table is
  // Text with the tokens that the format writes around messages. None of them is one inside of a user's text.
  std::string scaffold = "";
};

// `name`: auto, a format of chat_formats(), or a file FILE.jinja. auto takes the format whose released template the
// checkpoint in `model_folder` holds (detect_chat_template), and renders any other template by itself, as a file's.
// `options`: an object of the format's options, of a template's variables, or null. A format that wraps another takes
// `base`, the name of that one (default auto), and the other's options. Unknown names and options are input errors that
// list the known ones.
//
// `template_name` chooses among the templates of the checkpoint that have names (detect_chat_template); "" renders rows
// with tools by the one called tool_use, where there is one, and the others by default. An input error unless auto is
// what the template comes from.
std::unique_ptr<ChatTemplate> make_chat_template(const std::string& name, const Json& options,
                                                 const std::filesystem::path& model_folder,
                                                 const std::string& template_name = "");

// Throws an input error that names a token of the format's turns which is not one token of `tokenizer`: it would be
// trained in pieces.
void check_turn_tokens(const ChatTemplate& chat, const Tokenizer& tokenizer);

struct TokenizedChat {
  std::vector<int64_t> ids;
  std::vector<uint8_t> loss_mask;  // 1 = trained
};

// Tokenises the whole text at once and marks every token that holds a byte of a trained range (of the last one only
// with kLast, all tokens with kAll) and none of a withheld one. A token over a range's begin, as when an answer begins
// with a newline, counts as trained, as in transformers.
// In foreign text no special token is recognised, nor one of `controls` (control_tokens).
TokenizedChat tokenize_chat(const ChatText& chat, const Tokenizer& tokenizer, LossOn loss_on,
                            const std::vector<int64_t>& controls = {});

// The ids of the tokens that the format writes around messages, not all of which tokenizers call special.
std::vector<int64_t> control_tokens(const ChatTemplate& chat, const Tokenizer& tokenizer);

}  // namespace moraine
