#include "text/chat/template_detection.h"

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
#include "text/chat/tojson.h"
#include "text/tokenizer/input_notes.h"

namespace moraine {
namespace {

// Released templates that the Jinja engine renders, by the hash of ReleasedTemplate: like a built-in format's, and not
// meant to be it.
constexpr std::string_view kReleasedByThemselves[] = {
    "cacc33f7684f2a30b0acca7adcbb8755",  // Qwen3-Coder
    "cb53a145cfc5e326bdee364f122d2352",  // Qwen3-*-Thinking-2507, Qwen3-Next-*-Thinking
    "572380022568fa7b579b2c2e5ecdae85",  // Qwen3.6
    "cb9dfc65c3b50c42b488fed7dae5f0ed",  // Qwen3.8
};

std::string how_to_mend() { return "say which format: data.template: " + join_choices(chat_format_names(has_encoder)); }

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
  if (!json.is_string()) throw input_error(where, "chat_template is not text", how_to_mend());
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
    if (!is_named)
      throw input_error(where, "chat_template is a list of other things than {name, template}", how_to_mend());
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

// The format whose checkpoints are released without a template, by config.json; nullptr for all others.
const ChatFormat* format_without_template(const std::filesystem::path& folder) {
  if (!path_exists(folder / "config.json")) return nullptr;
  const Json config = read_json_file(folder / "config.json");
  if (!config.is_object()) return nullptr;
  const Json model_type = config.value("model_type", Json());
  for (const ChatFormat& format : chat_formats()) {
    if (!format.model_type.empty() && model_type == format.model_type) return &format;
  }
  return nullptr;
}

// XXH3-128 of a template's text.
std::string hash_of(std::string_view jinja) {
  const std::string source = template_source(jinja);
  const XXH128_hash_t hash = XXH3_128bits(source.data(), source.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

KnownTemplate recognise(const Templates::Entry& found) {
  if (auto known = recognise_chat_template(found.jinja)) return *known;
  return {nullptr, false, found.jinja, found.where};
}

}  // namespace

std::optional<KnownTemplate> recognise_chat_template(std::string_view jinja) {
  const std::string digits = hash_of(jinja);
  for (const ChatFormat& format : chat_formats()) {
    for (const ReleasedTemplate& released : format.released) {
      if (digits == released.hash) return KnownTemplate{&format, released.thinks_by_default};
    }
  }
  return std::nullopt;
}

const ChatFormat* resembling_format(std::string_view jinja) {
  const auto& released = kReleasedByThemselves;
  if (std::find(std::begin(released), std::end(released), hash_of(jinja)) != std::end(released)) return nullptr;
  for (const ChatFormat& format : chat_formats()) {
    if (format.resembles != nullptr && format.resembles(jinja)) return &format;
  }
  return nullptr;
}

CheckpointTemplates detect_chat_template(const std::filesystem::path& model_folder, const std::string& name) {
  const Templates templates = read_templates(model_folder);
  if (templates.by_name.empty()) {
    const ChatFormat* format = format_without_template(model_folder);
    if (format != nullptr && name.empty()) return {{format}};
    const bool for_processors = path_exists(model_folder / "chat_template.json");
    throw input_error(model_folder.string(), "no chat template (no chat_template.jinja, none in tokenizer_config.json)",
                      for_processors ? fmt::format("chat_template.json is a processor's, tokenizers do not read it; {}",
                                                   how_to_mend())
                                     : how_to_mend());
  }
  const auto found = templates.by_name.find(name.empty() ? "default" : name);
  if (found == templates.by_name.end()) {
    std::vector<std::string> names;
    for (const auto& [known, entry] : templates.by_name) names.push_back(known);
    throw input_error(templates.by_name.begin()->second.where,
                      name.empty() ? "the chat templates have names, and none is the default"
                                   : fmt::format("no chat template is called {}", quoted_for_error(name)),
                      "say which: data.template_name: " + join_choices(names));
  }
  CheckpointTemplates known{recognise(found->second)};
  const KnownTemplate& always = known.always;
  if (const ChatFormat* alike = always.format == nullptr ? resembling_format(always.jinja) : nullptr) {
    note_about_input(
        fmt::format("{}: is no released template and is rendered as it is; it resembles {}, which "
                    "data.template: {} takes instead",
                    always.where, alike->name, alike->name));
  }
  if (auto for_tools = templates.by_name.find("tool_use"); name.empty() && for_tools != templates.by_name.end()) {
    const KnownTemplate other = recognise(for_tools->second);
    if (other.format != always.format || other.jinja != always.jinja) known.with_tools = other;
  }
  if (templates.passed_over && template_source(templates.passed_over->jinja) != template_source(found->second.jinja)) {
    note_about_input(fmt::format("{}: its chat_template differs from {}, which is read instead, as in transformers",
                                 templates.passed_over->where, found->second.where));
  }
  return known;
}

}  // namespace moraine
