#include "text/jinja/expression_parser.h"

#include "text/jinja/functions.h"

namespace moraine::jinja {

bool ExpressionParser::is_tuple_end(std::string_view end) const {
  return now().kind == TokenKind::kVariableEnd || now().kind == TokenKind::kBlockEnd || is_op(")") ||
         (!end.empty() && is_name(end));
}

ExprPtr ExpressionParser::tuple(bool with_if, std::string_view end, bool in_parentheses) {
  const Place place = now().place;
  std::vector<ExprPtr> parts;
  bool is_tuple = false;
  while (true) {
    if (!parts.empty()) expect_op(",");
    if (is_tuple_end(end)) break;
    parts.push_back(with_if ? expression() : or_expression());
    if (!is_op(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!parts.empty()) return std::move(parts[0]);
    if (!in_parentheses) fail("an expression is expected, not " + shown());
  }
  ExprPtr made = make(ExprKind::kTuple, place);
  made->parts = std::move(parts);
  return made;
}

ExprPtr ExpressionParser::expression() {
  Nested nested(*this);
  ExprPtr made = or_expression();
  for (int links = 0; is_name("if");) {
    const Place place = take().place;
    ExprPtr test = or_expression();
    ExprPtr other = skip_name("else") ? expression() : nullptr;
    ExprPtr choice = make(ExprKind::kIf, place, std::move(test), std::move(made));
    choice->parts.push_back(std::move(other));
    made = std::move(choice);
    check_links(++links);
  }
  return made;
}

ExprPtr ExpressionParser::or_expression() {
  Nested nested(*this);
  ExprPtr left = and_expression();
  for (int links = 0; is_name("or");) {
    const Place place = take().place;
    left = make(ExprKind::kOr, place, std::move(left), and_expression());
    check_links(++links);
  }
  return left;
}

void ExpressionParser::check_links(int links) const {
  if (links > 1000) fail("too long an expression");
}

ExprPtr ExpressionParser::and_expression() {
  ExprPtr left = not_expression();
  for (int links = 0; is_name("and");) {
    const Place place = take().place;
    left = make(ExprKind::kAnd, place, std::move(left), not_expression());
    check_links(++links);
  }
  return left;
}

ExprPtr ExpressionParser::not_expression() {
  Nested nested(*this);
  if (!is_name("not")) return compare();
  const Place place = take().place;
  return make(ExprKind::kNot, place, not_expression());
}

bool ExpressionParser::skip_comparison(CompareKind& kind) {
  constexpr std::pair<std::string_view, CompareKind> kKinds[] = {
      {"==", CompareKind::kEqual},     {"!=", CompareKind::kNotEqual}, {"<", CompareKind::kLess},
      {"<=", CompareKind::kLessEqual}, {">", CompareKind::kGreater},   {">=", CompareKind::kGreaterEqual}};
  for (const auto& [op, which] : kKinds) {
    if (skip_op(op)) return kind = which, true;
  }
  if (skip_name("in")) return kind = CompareKind::kIn, true;
  if (is_name("not") && ahead().kind == TokenKind::kName && ahead().text == "in") {
    at_ += 2;
    return kind = CompareKind::kNotIn, true;
  }
  return false;
}

ExprPtr ExpressionParser::compare() {
  const Place place = now().place;
  ExprPtr first = sum();
  CompareKind kind;
  ExprPtr made;
  while (skip_comparison(kind)) {
    if (made == nullptr) made = make(ExprKind::kCompare, place, std::move(first));
    made->operators.push_back(kind);
    made->parts.push_back(sum());
  }
  return made != nullptr ? std::move(made) : std::move(first);
}

ExprPtr ExpressionParser::sum() {
  ExprPtr left = concat();
  for (int links = 0; is_op("+") || is_op("-");) {
    const Token token = take();
    left = make(token.text == "+" ? ExprKind::kAdd : ExprKind::kSubtract, token.place, std::move(left), concat());
    check_links(++links);
  }
  return left;
}

ExprPtr ExpressionParser::concat() {
  ExprPtr first = product();
  if (!is_op("~")) return first;
  ExprPtr made = make(ExprKind::kConcat, now().place, std::move(first));
  while (skip_op("~")) made->parts.push_back(product());
  return made;
}

ExprPtr ExpressionParser::product() {
  ExprPtr left = power();
  for (int links = 0; is_op("*") || is_op("/") || is_op("//") || is_op("%");) {
    const Token token = take();
    const ExprKind kind = token.text == "*"    ? ExprKind::kMultiply
                          : token.text == "/"  ? ExprKind::kDivide
                          : token.text == "//" ? ExprKind::kFloorDivide
                                               : ExprKind::kModulo;
    left = make(kind, token.place, std::move(left), power());
    check_links(++links);
  }
  return left;
}

ExprPtr ExpressionParser::power() {
  ExprPtr left = unary(true);
  for (int links = 0; is_op("**");) {
    const Place place = take().place;
    left = make(ExprKind::kPower, place, std::move(left), unary(true));
    check_links(++links);
  }
  return left;
}

ExprPtr ExpressionParser::unary(bool with_filter) {
  Nested nested(*this);
  const Place place = now().place;
  ExprPtr made;
  if (skip_op("-")) {
    made = make(ExprKind::kNegative, place, unary(false));
  } else if (skip_op("+")) {
    made = make(ExprKind::kPositive, place, unary(false));
  } else {
    made = primary();
  }
  made = postfix(std::move(made));
  return with_filter ? filters_and_tests(std::move(made)) : std::move(made);
}

ExprPtr ExpressionParser::primary() {
  Token token = take();
  switch (token.kind) {
    case TokenKind::kName: {
      const std::string& name = token.text;
      if (name == "true" || name == "True") return constant(Value::boolean(true), token.place);
      if (name == "false" || name == "False") return constant(Value::boolean(false), token.place);
      if (name == "none" || name == "None") return constant(Value::none(), token.place);
      ExprPtr made = make(ExprKind::kName, token.place);
      made->symbol = symbol(name);
      if (made->symbol < kKnownSymbols) reads_[made->symbol] = true;
      return made;
    }
    case TokenKind::kString:
      while (now().kind == TokenKind::kString) token.text += take().text;
      return constant(Value::string(token.text), token.place);
    case TokenKind::kInteger:
      return constant(token.is_big ? Value::big_integer(token.text) : Value::integer(token.integer), token.place);
    case TokenKind::kFloat:
      return constant(Value::number(token.number), token.place);
    default:
      break;
  }
  if (token.kind == TokenKind::kOperator) {
    if (token.text == "(") {
      ExprPtr made = tuple(true, "", true);
      expect_op(")");
      return made;
    }
    if (token.text == "[") return list(token.place);
    if (token.text == "{") return dict(token.place);
  }
  --at_;
  fail("an expression is expected, not " + shown());
}

ExprPtr ExpressionParser::list(Place place) {
  ExprPtr made = make(ExprKind::kList, place);
  while (!is_op("]")) {
    if (!made->parts.empty()) expect_op(",");
    if (is_op("]")) break;
    made->parts.push_back(expression());
  }
  expect_op("]");
  return made;
}

ExprPtr ExpressionParser::dict(Place place) {
  ExprPtr made = make(ExprKind::kDict, place);
  while (!is_op("}")) {
    if (!made->parts.empty()) expect_op(",");
    if (is_op("}")) break;
    made->parts.push_back(expression());
    expect_op(":");
    made->parts.push_back(expression());
  }
  expect_op("}");
  return made;
}

ExprPtr ExpressionParser::postfix(ExprPtr made) {
  for (int links = 0;;) {
    check_links(++links);
    if (is_op(".") || is_op("[")) {
      made = subscript(std::move(made));
    } else if (is_op("(")) {
      made = call(std::move(made));
    } else {
      return made;
    }
  }
}

ExprPtr ExpressionParser::filters_and_tests(ExprPtr made) {
  for (int links = 0;;) {
    check_links(++links);
    if (is_op("|")) {
      made = filters(std::move(made), false);
    } else if (is_name("is")) {
      made = test(std::move(made));
    } else if (is_op("(")) {
      made = call(std::move(made));
    } else {
      return made;
    }
  }
}

ExprPtr ExpressionParser::subscript(ExprPtr of) {
  const Token token = take();
  if (token.text == ".") {
    if (now().kind == TokenKind::kName) {
      ExprPtr made = make(ExprKind::kAttribute, token.place, std::move(of));
      made->text = take().text;
      return made;
    }
    if (now().kind != TokenKind::kInteger) fail("a name or a number is expected, not " + shown());
    const Token number = take();
    if (number.is_big) fail("too large an index");
    return make(ExprKind::kItem, token.place, std::move(of), constant(Value::integer(number.integer), number.place));
  }
  std::vector<ExprPtr> parts;
  while (!is_op("]")) {
    if (!parts.empty()) expect_op(",");
    parts.push_back(subscribed());
  }
  expect_op("]");
  if (parts.size() == 1) return make(ExprKind::kItem, token.place, std::move(of), std::move(parts[0]));
  ExprPtr index = make(ExprKind::kTuple, token.place);
  index->parts = std::move(parts);
  return make(ExprKind::kItem, token.place, std::move(of), std::move(index));
}

ExprPtr ExpressionParser::subscribed() {
  const Place place = now().place;
  ExprPtr start;
  if (!is_op(":")) {
    start = expression();
    if (!is_op(":")) return start;
  }
  expect_op(":");
  ExprPtr stop, step;
  if (!is_op(":") && !is_op("]") && !is_op(",")) stop = expression();
  if (skip_op(":") && !is_op("]") && !is_op(",")) step = expression();
  ExprPtr made = make(ExprKind::kSlice, place);
  made->parts.push_back(std::move(start));
  made->parts.push_back(std::move(stop));
  made->parts.push_back(std::move(step));
  return made;
}

void ExpressionParser::arguments(Expr& call) {
  expect_op("(");
  bool is_first = true;
  while (!is_op(")")) {
    if (!is_first) {
      expect_op(",");
      if (is_op(")")) break;
    }
    is_first = false;
    if (skip_op("*")) {
      if (call.all_arguments != nullptr || call.all_named != nullptr) fail("malformed arguments");
      call.all_arguments = expression();
    } else if (skip_op("**")) {
      if (call.all_named != nullptr) fail("malformed arguments");
      call.all_named = expression();
    } else if (now().kind == TokenKind::kName && ahead().kind == TokenKind::kOperator && ahead().text == "=") {
      if (call.all_named != nullptr) fail("malformed arguments");
      std::string name = take().text;
      ++at_;
      for (const auto& [other, value] : call.named) {
        if (other == name) fail(fmt::format("the argument '{}' is given twice", name));
      }
      call.named.emplace_back(std::move(name), expression());
    } else {
      if (call.all_arguments != nullptr || call.all_named != nullptr || !call.named.empty())
        fail("an argument without a name follows one with a name");
      call.parts.push_back(expression());
    }
  }
  expect_op(")");
}

ExprPtr ExpressionParser::call(ExprPtr of) {
  ExprPtr made = make(ExprKind::kCall, now().place, std::move(of));
  arguments(*made);
  return made;
}

std::string ExpressionParser::dotted_name() {
  std::string name = take_name();
  while (skip_op(".")) name += "." + take_name();
  return name;
}

ExprPtr ExpressionParser::filters(ExprPtr made, bool is_first) {
  for (int links = 0; is_first || is_op("|"); is_first = false) {
    check_links(++links);
    if (!is_first) ++at_;
    const Place place = now().place;
    ExprPtr filter = make(ExprKind::kFilter, place);
    filter->parts.push_back(std::move(made));
    filter->text = dotted_name();
    filter->function = find_filter(filter->text);
    if (is_op("(")) arguments(*filter);
    made = std::move(filter);
  }
  return made;
}

ExprPtr ExpressionParser::test(ExprPtr of) {
  const Place place = take().place;
  const bool is_not = skip_name("not");
  ExprPtr made = make(ExprKind::kTest, place, std::move(of));
  made->text = dotted_name();
  made->function = find_test(made->text);
  if (is_op("(")) {
    arguments(*made);
  } else if (now().kind == TokenKind::kString || now().kind == TokenKind::kInteger || now().kind == TokenKind::kFloat ||
             is_op("[") || is_op("{") || (now().kind == TokenKind::kName && !at_any_name({"else", "or", "and"}))) {
    if (is_name("is")) fail("tests in a row need parentheses");
    made->parts.push_back(postfix(primary()));
  }
  return is_not ? make(ExprKind::kNot, place, std::move(made)) : std::move(made);
}

}  // namespace moraine::jinja
