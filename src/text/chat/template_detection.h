// Which known chat format a checkpoint's own chat template is.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "text/chat/chat_format.h"

namespace moraine {

struct KnownTemplate {
  const ChatFormat* format = nullptr;  // that renders what the template renders; nullptr: none that is built in
  bool thinks_by_default = false;      // without enable_thinking
  // Without a format: the template itself, and where it was read.
  std::string jinja = "", where = "";
};

// A released template of chat_formats(), recognised by a hash of its text; what Jinja itself ignores, line ends and one
// newline at the end, does not matter. nullopt for every other text, however alike.
std::optional<KnownTemplate> recognise_chat_template(std::string_view jinja);

// The format that a template which is not a released one looks most like, by the words in it; nullptr when it is like
// none of them, or a released one that the Jinja engine is known to render. For messages only.
const ChatFormat* resembling_format(std::string_view jinja);

// A checkpoint's template, and the one for rows with tools where that is another.
struct CheckpointTemplates {
  KnownTemplate always = {};
  std::optional<KnownTemplate> with_tools = std::nullopt;
};

// The template that transformers' tokenizer would take in `model_folder`: chat_template.jinja and
// additional_chat_templates/, else chat_template in tokenizer_config.json (text, or a list of {name, template}). Of
// several the one called `name`, or without a name its rule: tool_use for rows with tools, where there is one, and
// default for the others. Without any, the model_type of config.json decides, where a format is that of models which
// are released without a template. Warns in one line when the folder holds two that differ. Throws an input error that
// says how to mend it when there is none, none of that name, or without a name no default.
CheckpointTemplates detect_chat_template(const std::filesystem::path& model_folder, const std::string& name = "");

}  // namespace moraine
