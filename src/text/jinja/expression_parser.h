// Reads a template's tokens as expressions.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <unordered_map>
#include <vector>

#include "text/jinja/lexer.h"
#include "text/jinja/tree.h"

namespace moraine::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(std::string_view source) : tokens_(tokens_of(source)) {}

 protected:
  // Guards the stack against templates that nest without end.
  class Nested {
   public:
    explicit Nested(ExpressionParser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMaxNesting) parser_.fail("nested too deep");
    }
    ~Nested() { --parser_.depth_; }

   private:
    ExpressionParser& parser_;
  };

  const Token& now() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token take() { return at_ + 1 < tokens_.size() ? tokens_[at_++] : tokens_[at_]; }
  [[noreturn]] void fail(const std::string& what) const { throw Failure(what, now().place); }

  std::string shown() const {
    switch (now().kind) {
      case TokenKind::kEnd:
        return "the end of the template";
      case TokenKind::kVariableEnd:
        return "'}}'";
      case TokenKind::kBlockEnd:
        return "'%}'";
      default:
        return "'" + now().text + "'";
    }
  }

  bool is_op(std::string_view op) const { return now().kind == TokenKind::kOperator && now().text == op; }
  bool is_name(std::string_view name) const { return now().kind == TokenKind::kName && now().text == name; }
  bool skip_op(std::string_view op) { return is_op(op) && (++at_, true); }
  bool skip_name(std::string_view name) { return is_name(name) && (++at_, true); }
  void expect_op(std::string_view op) {
    if (!skip_op(op)) fail(fmt::format("'{}' is expected, not {}", op, shown()));
  }
  void expect_name(std::string_view name) {
    if (!skip_name(name)) fail(fmt::format("'{}' is expected, not {}", name, shown()));
  }
  std::string take_name() {
    if (now().kind != TokenKind::kName) fail("a name is expected, not " + shown());
    return take().text;
  }

  int symbol(const std::string& name) {
    const auto [place, is_new] = symbols_.emplace(name, static_cast<int>(tree_.symbols.size()));
    if (is_new) tree_.symbols.push_back(name);
    return place->second;
  }

  ExprPtr make(ExprKind kind, Place place) { return std::make_unique<Expr>(Expr{kind, place}); }
  ExprPtr make(ExprKind kind, Place place, ExprPtr first, ExprPtr second = nullptr) {
    ExprPtr expr = make(kind, place);
    expr->parts.push_back(std::move(first));
    if (second != nullptr) expr->parts.push_back(std::move(second));
    return expr;
  }
  ExprPtr constant(Value value, Place place) {
    ExprPtr expr = make(ExprKind::kConstant, place);
    expr->constant = std::move(value);
    return expr;
  }

  bool at_any_name(std::initializer_list<std::string_view> names) const {
    return std::any_of(names.begin(), names.end(), [&](std::string_view name) { return is_name(name); });
  }

  // Expressions, each method one level of the grammar.

  bool is_tuple_end(std::string_view end) const;
  ExprPtr tuple(bool with_if = true, std::string_view end = "", bool in_parentheses = false);
  ExprPtr expression();
  ExprPtr or_expression();
  // A long chain is a deep tree.
  void check_links(int links) const;
  ExprPtr and_expression();
  ExprPtr not_expression();
  bool skip_comparison(CompareKind& kind);
  ExprPtr compare();
  ExprPtr sum();
  ExprPtr concat();
  ExprPtr product();
  ExprPtr power();
  ExprPtr unary(bool with_filter);
  ExprPtr primary();
  ExprPtr list(Place place);
  ExprPtr dict(Place place);
  ExprPtr postfix(ExprPtr made);
  ExprPtr filters_and_tests(ExprPtr made);
  ExprPtr subscript(ExprPtr of);
  ExprPtr subscribed();
  void arguments(Expr& call);
  ExprPtr call(ExprPtr of);
  std::string dotted_name();
  // `is_first`: of a block, whose first filter has no "|".
  ExprPtr filters(ExprPtr made, bool is_first);
  ExprPtr test(ExprPtr of);

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  bool reads_[kKnownSymbols] = {};  // by the macro that is being read
  std::unordered_map<std::string, int> symbols_;
  Tree tree_;

 private:
  static constexpr int kMaxNesting = 600;
};

}  // namespace moraine::jinja
