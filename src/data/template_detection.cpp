#include "data/template_detection.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/path.h"
#include "data/input_notes.h"

namespace moraine {
namespace {

constexpr const char* kHowToMend =
    "say which format: data.template: qwen3, qwen3_instruct_2507, qwen3_5 or deepseek_v4";

// A released template whose encoder is proven equal to it: XXH3-128 of its text, line ends as \n, without the last one.
struct Released {
  std::string_view hash;
  const char* format;
  bool thinks_by_default;
};
constexpr Released kReleased[] = {
    {"4457e3d12b367a860283f874ff58d644", "qwen3", true},  // Qwen3 as first released
    {"0fab82ce8f4d5175c9e0155c80737cf2", "qwen3", true},  // as it was updated: contents other than text, which no encoder takes
    {"cc9ddd5a40bc1c0c8fb5d937b1e8f5d0", "qwen3_instruct_2507", false},
    {"427b80bb3dda26b10ed0a1d8b9d7e0be", "qwen3_5", true},   // Qwen3.5-4B and larger
    {"b20ce3c106c0a721ea7113e61d9a8bcf", "qwen3_5", false},  // Qwen3.5-0.8B and 2B
};

// As Jinja reads it.
std::string template_source(std::string_view jinja) {
  std::string text;
  text.reserve(jinja.size());
  for (size_t i = 0; i < jinja.size(); ++i) {
    if (jinja[i] == '\r' && i + 1 < jinja.size() && jinja[i + 1] == '\n') continue;
    text += jinja[i] == '\r' ? '\n' : jinja[i];
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

// The templates that transformers gives names to, and where each was read.
struct Templates {
  struct Entry {
    std::string jinja, where;
  };
  std::map<std::string, Entry> by_name;
  std::optional<Entry> passed_over;  // the default of the file that is not read
};

std::string text_of_template(const Json& json, const std::string& where) {
  if (!json.is_string()) throw input_error(where, "chat_template is not text", kHowToMend);
  return json.get<std::string>();
}

std::map<std::string, Templates::Entry> from_tokenizer_config(const std::filesystem::path& path) {
  std::map<std::string, Templates::Entry> found;
  if (!path_exists(path)) return found;
  const Json config = read_json_file(path);
  const std::string where = path.string();
  if (!config.is_object() || !config.contains("chat_template")) return found;
  const Json& json = config["chat_template"];
  if (json.is_null()) return found;
  if (!json.is_array()) {
    found["default"] = {text_of_template(json, where), where};
    return found;
  }
  for (const Json& entry : json) {
    const bool is_named = entry.is_object() && entry.contains("template") && entry.value("name", Json()).is_string();
    if (!is_named) throw input_error(where, "chat_template is a list of other things than {name, template}", kHowToMend);
    found[entry["name"].get<std::string>()] = {text_of_template(entry["template"], where), where};
  }
  return found;
}

Templates read_templates(const std::filesystem::path& folder) {
  Templates templates;
  const std::filesystem::path file = folder / "chat_template.jinja", more = folder / "additional_chat_templates";
  if (path_exists(file)) templates.by_name["default"] = {read_text_file(file), file.string()};
  if (is_folder(more)) {
    for (const auto& entry : std::filesystem::directory_iterator(more)) {
      const std::filesystem::path& path = entry.path();
      if (path.extension() == ".jinja") templates.by_name[path.stem().string()] = {read_text_file(path), path.string()};
    }
  }
  auto in_config = from_tokenizer_config(folder / "tokenizer_config.json");
  if (templates.by_name.empty()) {
    templates.by_name = std::move(in_config);
  } else if (auto other = in_config.find("default"); other != in_config.end()) {
    templates.passed_over = other->second;
  }
  return templates;
}

// Its checkpoints come with an encoder in Python instead of a template.
bool is_deepseek_v4(const std::filesystem::path& folder) {
  if (!path_exists(folder / "config.json")) return false;
  const Json config = read_json_file(folder / "config.json");
  return config.is_object() && config.value("model_type", Json()) == "deepseek_v4";
}

bool looks_like_qwen3_5(std::string_view jinja) {
  const auto mentions = [&](std::string_view word) { return jinja.find(word) != jinja.npos; };
  for (const char* word : {"<|im_start|>", "<|im_end|>", "# Tools\\n\\nYou have access to the following functions:",
                           "<function=", "<parameter=", "<tool_response>", "</think>", "enable_thinking"}) {
    if (!mentions(word)) return false;
  }
  return !mentions("<name>");
}

Error not_released(const Templates::Entry& found, const std::filesystem::path& folder) {
  const std::string what = "the chat template is not exactly a released one of a format built in";
  const auto likeness = is_deepseek_v4(folder) ? "deepseek_v4" : resembling_format(found.jinja);
  if (!likeness) return input_error(found.where, what, kHowToMend);
  const std::string how_alike = *likeness == "deepseek_v4" ? "DeepSeek-V4 is released without one" : "it resembles " + *likeness;
  const std::string other_way = *likeness == "deepseek_v4" ? "remove the file" : "put the released template back";
  return input_error(found.where, fmt::format("{}; {}", what, how_alike),
                     fmt::format("{}, or take that format knowingly with data.template: {}", other_way, *likeness));
}

KnownTemplate recognise(const Templates::Entry& found, const std::filesystem::path& folder) {
  if (auto known = recognise_chat_template(found.jinja)) return *known;
  throw not_released(found, folder);
}

}  // namespace

std::optional<KnownTemplate> recognise_chat_template(std::string_view jinja) {
  const std::string source = template_source(jinja);
  const XXH128_hash_t hash = XXH3_128bits(source.data(), source.size());
  const std::string digits = fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
  for (const Released& known : kReleased) {
    if (digits == known.hash) return KnownTemplate{known.format, known.thinks_by_default};
  }
  return std::nullopt;
}

std::optional<std::string> resembling_format(std::string_view jinja) {
  const auto mentions = [&](std::string_view word) { return jinja.find(word) != jinja.npos; };
  if (looks_like_qwen3_5(jinja)) return "qwen3_5";
  // What Qwen3's two formats share: ChatML turns, tools in a system message, calls as JSON.
  for (const char* word : {"<|im_start|>", "<|im_end|>", "<tools>", "<tool_call>", "<tool_response>"}) {
    if (!mentions(word)) return std::nullopt;
  }
  // Relatives with calls as XML, and the VL models.
  for (const char* word : {"<function=", "<parameter=", "<|vision_start|>", "<|image_pad|>"}) {
    if (mentions(word)) return std::nullopt;
  }
  return mentions("think>") ? "qwen3" : "qwen3_instruct_2507";
}

KnownTemplate detect_chat_template(const std::filesystem::path& model_folder) {
  const Templates templates = read_templates(model_folder);
  if (templates.by_name.empty()) {
    if (is_deepseek_v4(model_folder)) return {"deepseek_v4", false};
    const bool for_processors = path_exists(model_folder / "chat_template.json");
    throw input_error(model_folder.string(), "no chat template (no chat_template.jinja, none in tokenizer_config.json)",
                      for_processors ? fmt::format("chat_template.json is a processor's, tokenizers do not read it; {}", kHowToMend)
                                     : kHowToMend);
  }
  const auto found = templates.by_name.find("default");
  if (found == templates.by_name.end()) {
    throw input_error(templates.by_name.begin()->second.where, "the chat templates have names, and none is the default", kHowToMend);
  }
  const KnownTemplate known = recognise(found->second, model_folder);
  // transformers renders conversations with tools by this one.
  if (auto for_tools = templates.by_name.find("tool_use"); for_tools != templates.by_name.end()) {
    if (recognise(for_tools->second, model_folder).format != known.format)
      throw input_error(for_tools->second.where, fmt::format("conversations with tools have a template of another format than {}", known.format),
                        kHowToMend);
  }
  if (templates.passed_over && template_source(templates.passed_over->jinja) != template_source(found->second.jinja)) {
    note_about_input(fmt::format("{}: its chat_template differs from {}, which is read instead, as in transformers", templates.passed_over->where,
                            found->second.where));
  }
  return known;
}

}  // namespace moraine
