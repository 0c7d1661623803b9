#include "cli/parse_args.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "base/path.h"
#include "base/text.h"

namespace moraine {
namespace {

std::string see_help(const Command& command) { return fmt::format("see moraine {} --help", command.name); }

template <typename Number>
Number parse_number(const std::string& flag, const std::string& text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  bool good = error == std::errc() && end == text.data() + text.size();
  if constexpr (std::is_floating_point_v<Number>) good = good && std::isfinite(number);
  if (good) return number;
  const char* wanted = std::is_floating_point_v<Number> ? "a number"
                       : std::is_unsigned_v<Number>     ? "a whole number, 0 or more"
                                                        : "a whole number";
  throw input_error(flag, fmt::format("{} is not {}", quote_text(text), wanted));
}

// The shell expands ~ at the beginning of a word, not in --out=~/runs.
bool is_path(const std::string& value) { return value.starts_with("DIR") || value.starts_with("FILE"); }

void store(const Flag& flag, const std::string& text, CommandArgs& args) {
  std::visit(
      [&](auto target) {
        using Value = std::remove_reference_t<decltype(args.*target)>;
        if constexpr (std::is_same_v<Value, std::vector<std::string>>) {
          (args.*target).push_back(is_path(flag.value) ? expand_home(text, flag.name) : text);
        } else if constexpr (std::is_same_v<Value, std::string>) {
          args.*target = is_path(flag.value) ? expand_home(text, flag.name) : text;
        } else if constexpr (!std::is_same_v<Value, bool>) {
          args.*target = parse_number<Value>(flag.name, text);
        }
      },
      flag.target);
}

bool is_flag(const std::string& word) { return word.size() > 1 && word[0] == '-'; }

// section.key=value; whether there is such a key, the recipe knows.
bool is_override(const std::string& word) {
  const size_t equals = word.find('=');
  if (equals == word.npos) return false;
  const std::string_view key(word.data(), equals);
  return key.find('.') != key.npos && key.front() != '.' && key.back() != '.' &&
         std::all_of(key.begin(), key.end(), [](char c) {
           return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.';
         });
}

Error unknown_flag(const Command& command, const std::string& word) {
  const std::string name = word.substr(0, word.find('='));
  std::vector<std::string> known{"--help"};
  for (const Flag& flag : command.flags) known.push_back(flag.name);
  const std::string nearest = nearest_word(name, known);
  return input_error(command.name, "unknown flag " + quote_text(name),
                     nearest.empty() ? see_help(command) : fmt::format("did you mean {}?", nearest));
}

// What CLI11 did not recognise, in order.
void take_other_words(const Command& command, const std::vector<std::string>& words, CommandArgs& args) {
  // Flags first: what follows an unknown flag is probably its value.
  for (const std::string& word : words)
    if (is_flag(word)) throw unknown_flag(command, word);
  size_t num_positionals = 0;
  for (const std::string& word : words) {
    if (command.takes_overrides && is_override(word)) {
      args.overrides.push_back(word);
    } else if (num_positionals < command.positionals.size()) {
      const Positional& positional = command.positionals[num_positionals++];
      args.*positional.target = expand_home(word, positional.value);  // a path, or a word without ~
    } else {
      throw input_error(command.name, "unexpected argument " + quote_text(word),
                        command.takes_overrides ? "recipe keys are written section.key=value" : see_help(command));
    }
  }
}

void check_required(const Command& command, const CommandArgs& args) {
  for (const Positional& positional : command.positionals) {
    if (positional.required && (args.*positional.target).empty())
      throw input_error(command.name, positional.value + " is missing", see_help(command));
  }
  for (const Flag& flag : command.flags) {
    if (!flag.required) continue;
    const bool is_missing = flag.is_list()
                                ? (args.*std::get<std::vector<std::string> CommandArgs::*>(flag.target)).empty()
                                : (args.*std::get<std::string CommandArgs::*>(flag.target)).empty();
    if (is_missing)
      throw input_error(command.name, fmt::format("{} {} is missing", flag.name, flag.value), see_help(command));
  }
}

// CLI11 leaves what it does not know to take_other_words, so that its complaints are about a flag's value only. Which
// one it is, is told from the words: CLI11's own text is not for users.
Error misused_flag(const Command& command, const std::vector<std::string>& words) {
  for (const Flag& flag : command.flags) {
    const auto is_this = [&](const std::string& word) {
      return word == flag.name || word.starts_with(flag.name + "=");
    };
    if (flag.value.empty() && std::any_of(words.begin(), words.end(), [&](const std::string& word) {
          return is_this(word) && word != flag.name;
        })) {
      return input_error(flag.name, "takes no value");
    }
    if (!flag.is_list() && std::count_if(words.begin(), words.end(), is_this) > 1)
      return input_error(flag.name, "is given more than once");
    if (words.back() == flag.name) return input_error(flag.name, fmt::format("its value {} is missing", flag.value));
  }
  return input_error(command.name, "a flag is used wrongly", see_help(command));
}

}  // namespace

std::optional<CommandArgs> parse_args(const Command& command, const std::vector<std::string>& words) {
  CommandArgs args;
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  bool help = false;
  app.add_flag("-h,--help", help);
  std::vector<std::vector<std::string>> texts(command.flags.size());
  std::vector<CLI::Option*> options;
  for (size_t i = 0; i < command.flags.size(); ++i) {
    const Flag& flag = command.flags[i];
    if (auto* target = std::get_if<bool CommandArgs::*>(&flag.target)) {
      options.push_back(app.add_flag(flag.name, args.**target)->disable_flag_override());
    } else {
      options.push_back(app.add_option(flag.name, texts[i])->allow_extra_args(false));
      if (!flag.is_list()) options.back()->expected(1);
    }
  }
  std::vector<std::string> reversed(words.rbegin(), words.rend());  // CLI11 takes them off the end
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError&) {
    throw misused_flag(command, words);
  }
  if (help) return std::nullopt;
  for (size_t i = 0; i < command.flags.size(); ++i)
    for (const std::string& text : texts[i]) store(command.flags[i], text, args);
  take_other_words(command, app.remaining(), args);
  check_required(command, args);
  return args;
}

}  // namespace moraine
