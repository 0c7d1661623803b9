// A chat template: parsed once, rendered for each conversation.
#pragma once

#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace moraine::jinja {

struct Tree;

using Variables = std::vector<std::pair<std::string, Value>>;

struct Rendered {
  std::string text;
  std::vector<Run> runs;  // where each stretch of `text` came from
  // Bytes [begin, end) of the {% generation %} blocks, in order.
  std::vector<std::pair<size_t, size_t>> generated;
};

// Renderings of the first messages of a conversation, each `shared` up to `head` and then `rest`.
struct RenderedBeginnings {
  struct Part {
    size_t count;  // messages
    bool has_prompt;
    size_t head;
    std::string rest;
  };
  std::string shared;
  std::vector<Part> parts;  // in order of count, and of each without generation prompt first
};

// Equal to the environment in which transformers renders chat templates. Safe from several threads.
class Template {
 public:
  // Throws an input error that names line and column. `where` names the template in errors.
  Template(std::string_view source, const std::string& where);
  Template(Template&&) noexcept;
  ~Template();

  // `now` is what strftime_now tells, as local time. Throws an input error without the row's place that names line,
  // column and the message whose turn it was where the template raises, where Python would, and where the row's budget
  // (budget.h), 1500 levels of recursion or 64 MiB of text are not enough.
  Rendered render(const Variables& variables, const std::tm& now) const;

  // What render gives of the first `count` messages, wherever wanted[count] and one rendering of all of them tells it
  // for certain (prefixes.cpp). `variables` hold all messages, with texts of so many bytes.
  RenderedBeginnings render_beginnings(const Variables& variables, const std::tm& now, const std::vector<bool>& wanted,
                                       size_t bytes) const;

  bool has_generation() const;
  // Whether the template reads a variable of this name.
  bool names(std::string_view variable) const;
  const std::string& source() const { return source_; }

 private:
  std::string source_, where_;
  std::unique_ptr<Tree> tree_;
};

}  // namespace moraine::jinja
