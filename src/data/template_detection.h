// Which known chat format a checkpoint's own chat template is.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace moraine {

// The name of the format that a jinja template renders, told by what it mentions so that small edits do not matter;
// nullopt when it is none of those with an encoder.
std::optional<std::string> recognise_chat_template(std::string_view jinja);

// Whether a template that knows enable_thinking thinks when the option is not given.
bool thinks_by_default(std::string_view jinja);

// Reads chat_template.jinja, or chat_template in tokenizer_config.json (text, or a list of {name, template} of which
// "default" is taken), in `model_folder`; where there is neither, a config.json of DeepSeek-V4 decides. Throws an input
// error that says how to mend it when there is none or none fits.
std::string detect_chat_template(const std::filesystem::path& model_folder);

// thinks_by_default of the template that detect_chat_template reads.
bool template_thinks_by_default(const std::filesystem::path& model_folder);

}  // namespace moraine
