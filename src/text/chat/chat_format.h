// The chat formats that are built in: one row of a table for each. Options, detection, errors, help, tokenize and
// generate read the table; no other place knows a format by its name.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/chat/chat_encoder.h"

namespace moraine {

struct ReleasedTemplate {
  std::string_view hash;   // XXH3-128 of its text, line ends as \n, without the last one
  bool thinks_by_default;  // without the option
};

struct ChatFormat {
  std::string name;                  // as data.template says it
  std::vector<std::string> options;  // the keys of data.template_options that it takes

  // How a checkpoint's own template is recognised: by the released texts, which the encoder is proven equal to, and for
  // errors only by a likeness to them. Where checkpoints are released without a template, by the model_type in
  // config.json; model_name is that model in errors.
  std::vector<ReleasedTemplate> released = {};
  bool (*resembles)(std::string_view jinja) = nullptr;
  std::string model_type = "", model_name = "";

  // What begins and ends turns. Each is one token of a tokenizer that the format is for; end_of_turn ends an answer.
  std::vector<std::string> turn_tokens = {};
  std::string end_of_turn = "";
  std::string answers = "";  // the syntax of its answers (answer_syntax.h); "": none

  // Makes the encoder. `options` holds known keys only; `thinks_by_default` is for a format with an option to think.
  std::unique_ptr<ChatEncoder> (*make)(const Json& options, bool thinks_by_default) = nullptr;
  // Instead of `make`: the format rewrites messages for another format, which its option `base` names. It has the turns
  // and takes the options of that one, whose `when_wrapped` are then the values of options that are not given.
  std::unique_ptr<ChatEncoder> (*wrap)(std::unique_ptr<ChatEncoder> base) = nullptr;
  Json when_wrapped = Json::object();
  // Values of options that the checkpoint in the folder decides, where they are not given; nullptr: none.
  Json (*from_checkpoint)(const std::filesystem::path& model_folder) = nullptr;
  // What in its options keeps answers out of training, for a hint; "" when nothing does.
  std::string leaves_untrained = "";

  // Takes completions apart where they need more than that syntax; else nullptr. `row` is the JSON object that the
  // completion comes in: its `completion_keys` override the options. Throws an input error without the row's place on a
  // wrong value of one.
  CompletionParser (*parser)(const Json& options, const OrderedJson& row, bool may_lack_end) = nullptr;
  std::vector<std::string> completion_keys = {};
};

const std::vector<ChatFormat>& chat_formats();

// nullptr when there is none of this name.
const ChatFormat* find_chat_format(std::string_view name);

// Their names in the order of the table; only of those that `have` it.
std::vector<std::string> chat_format_names(bool (*have)(const ChatFormat& format) = nullptr);
bool has_encoder(const ChatFormat& format);  // of its own
bool has_parser(const ChatFormat& format);   // of its own

// "a, b or c".
std::string join_choices(const std::vector<std::string>& words);

}  // namespace moraine
