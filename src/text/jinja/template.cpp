#include "text/jinja/template.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "text/jinja/evaluator.h"
#include "text/jinja/tree.h"

namespace moraine::jinja {

Template::Template(std::string_view source, const std::string& where) : source_(source), where_(where) {
  if (!is_utf8(source)) throw input_error(where, "is not UTF-8 text");
  try {
    tree_ = std::make_unique<Tree>(parse(source));
  } catch (const Failure& failure) {
    throw input_error(fmt::format("{}:{}:{}", where, failure.place.line, failure.place.column), failure.what());
  }
}

Template::Template(Template&&) noexcept = default;
Template::~Template() = default;

Rendered Template::render(const Variables& variables, const std::tm& now) const {
  const BudgetScope budget;
  Evaluator evaluator(*tree_, now);
  try {
    return evaluator.render(variables);
  } catch (const Failure& failure) {
    const int message = evaluator.failed_message();
    throw input_error("", fmt::format("{}{}:{}:{}: {}", message < 0 ? "" : fmt::format("message {}: ", message), where_,
                                      failure.place.line, failure.place.column, failure.what()));
  }
}

RenderedBeginnings Template::render_beginnings(const Variables& variables, const std::tm& now,
                                               const std::vector<bool>& wanted, size_t bytes) const {
  const BudgetScope budget;
  return Evaluator(*tree_, now).render_beginnings(variables, wanted, bytes);
}

bool Template::has_generation() const { return tree_->has_generation; }

bool Template::names(std::string_view variable) const {
  return std::find(tree_->symbols.begin(), tree_->symbols.end(), variable) != tree_->symbols.end();
}

}  // namespace moraine::jinja
