// Jinja's grammar, as its own parser reads it.
#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <set>
#include <unordered_map>

#include "text/jinja/functions.h"
#include "text/jinja/lexer.h"
#include "text/jinja/tree.h"

namespace moraine::jinja {
namespace {

constexpr int kMaxNesting = 600;

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(tokens_of(source)) {
    for (const char* name : {"loop", "caller", "varargs", "kwargs"}) symbol(name);
  }

  Tree run() {
    tree_.body = body({});
    for (const std::string& name : tree_.symbols) tree_.globals.push_back(find_global(name));
    return std::move(tree_);
  }

 private:
  // Guards the stack against templates that nest without end.
  class Nested {
   public:
    explicit Nested(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMaxNesting) parser_.fail("nested too deep");
    }
    ~Nested() { --parser_.depth_; }

   private:
    Parser& parser_;
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

  // Statements.

  bool at_any_name(std::initializer_list<std::string_view> names) const {
    return std::any_of(names.begin(), names.end(), [&](std::string_view name) { return is_name(name); });
  }

  // Up to a block tag that begins with one of `ends`, whose name is the next token then.
  Body body(std::initializer_list<std::string_view> ends) {
    Nested nested(*this);
    Body statements;
    while (now().kind != TokenKind::kEnd) {
      const Place place = now().place;
      switch (now().kind) {
        case TokenKind::kText: {
          auto statement = std::make_unique<Stmt>(Stmt{StmtKind::kText, place});
          statement->text = Value::string(take().text);
          statements.push_back(std::move(statement));
          break;
        }
        case TokenKind::kVariableBegin: {
          ++at_;
          auto statement = std::make_unique<Stmt>(Stmt{StmtKind::kOutput, place});
          statement->expr = tuple();
          if (now().kind != TokenKind::kVariableEnd) fail("'}}' is expected, not " + shown());
          ++at_;
          statements.push_back(std::move(statement));
          break;
        }
        case TokenKind::kBlockBegin:
          ++at_;
          if (at_any_name(ends)) return statements;
          statements.push_back(statement(place));
          if (now().kind != TokenKind::kBlockEnd) fail("'%}' is expected, not " + shown());
          ++at_;
          break;
        default:
          fail("unexpected " + shown());
      }
    }
    if (ends.size() > 0) fail(fmt::format("'{}' is missing", *std::prev(ends.end())));
    return statements;
  }

  void end_tag() {
    if (now().kind != TokenKind::kBlockEnd) fail("'%}' is expected, not " + shown());
    ++at_;
  }

  // The body behind a tag's '%}', up to the tag `end`, which is read.
  Body body_to(std::string_view end) {
    end_tag();
    Body statements = body({end});
    ++at_;
    return statements;
  }

  std::unique_ptr<Stmt> statement(Place place) {
    const std::string tag = take_name();
    auto made = std::make_unique<Stmt>(Stmt{StmtKind::kBreak, place});
    if (tag == "for") {
      read_for(*made);
    } else if (tag == "if") {
      read_if(*made);
    } else if (tag == "set") {
      read_set(*made);
    } else if (tag == "macro") {
      made->kind = StmtKind::kMacro;
      made->name = take_name();
      made->symbol = symbol(made->name);
      read_signature(made->parameters);
      read_macro_body(*made, "endmacro");
    } else if (tag == "call") {
      made->kind = StmtKind::kCallBlock;
      if (is_op("(")) read_signature(made->parameters);
      made->expr = expression();
      if (made->expr->kind != ExprKind::kCall) fail("a call block needs a call");
      read_macro_body(*made, "endcall");
    } else if (tag == "filter") {
      made->kind = StmtKind::kFilterBlock;
      made->expr = filters(nullptr, true);
      made->body = body_to("endfilter");
    } else if (tag == "with") {
      made->kind = StmtKind::kWith;
      while (now().kind != TokenKind::kBlockEnd) {
        if (!made->with.empty()) expect_op(",");
        ExprPtr target = assign_target(false);
        expect_op("=");
        made->with.emplace_back(std::move(target), expression());
      }
      made->body = body_to("endwith");
    } else if (tag == "generation") {
      made->kind = StmtKind::kGeneration;
      tree_.has_generation = true;
      made->body = body_to("endgeneration");
    } else if (tag == "block") {
      read_block(*made, place);
    } else if (tag == "break" || tag == "continue") {
      if (loops_ == 0) throw Failure(fmt::format("'{}' outside of a loop", tag), place);
      made->kind = tag == "break" ? StmtKind::kBreak : StmtKind::kContinue;
    } else {
      throw Failure(fmt::format("the tag '{}' is not one of chat templates", tag), place);
    }
    return made;
  }

  // Without templates that extend this one, a block is what stands in it.
  void read_block(Stmt& made, Place place) {
    made.kind = StmtKind::kBlock;
    made.name = take_name();
    if (is_op("-")) fail("the name of a block has no hyphens");
    if (!blocks_.insert(made.name).second)
      throw Failure(fmt::format("the block '{}' is there twice", made.name), place);
    made.is_scoped = skip_name("scoped");
    if (skip_name("required")) throw Failure("a required block, which only another template could give", place);
    const int loops = std::exchange(loops_, 0);
    made.body = body_to("endblock");
    loops_ = loops;
    skip_name(made.name);
  }

  void read_for(Stmt& made) {
    made.kind = StmtKind::kFor;
    made.target = target_tuple(false, "in");
    check_target(*made.target);
    expect_name("in");
    made.expr = tuple(false, "recursive");
    if (skip_name("if")) made.test = expression();
    made.is_recursive = skip_name("recursive");
    end_tag();
    ++loops_;
    made.body = body({"endfor", "else"});
    --loops_;
    if (take().text == "else") made.other = body_to("endfor");
  }

  void read_if(Stmt& made) {
    made.kind = StmtKind::kIf;
    Stmt* branch = &made;
    for (int links = 0;;) {
      check_links(++links);
      branch->expr = tuple(false);
      end_tag();
      branch->body = body({"elif", "else", "endif"});
      const Token token = take();
      if (token.text == "elif") {
        branch->other.push_back(std::make_unique<Stmt>(Stmt{StmtKind::kIf, token.place}));
        branch = branch->other.back().get();
        continue;
      }
      if (token.text == "else") branch->other = body_to("endif");
      return;
    }
  }

  void read_set(Stmt& made) {
    made.kind = StmtKind::kSet;
    made.target = target_tuple(true, "");
    check_target(*made.target);
    if (skip_op("=")) {
      made.expr = tuple();
      return;
    }
    made.kind = StmtKind::kSetBlock;
    if (made.target->kind == ExprKind::kTuple) fail("a block cannot be taken apart");
    made.expr = filters(nullptr, false);
    made.body = body_to("endset");
  }

  void read_signature(Parameters& parameters) {
    expect_op("(");
    while (!is_op(")")) {
      if (!parameters.symbols.empty()) expect_op(",");
      const std::string name = take_name();
      if (std::find(parameters.names.begin(), parameters.names.end(), name) != parameters.names.end())
        fail(fmt::format("the parameter '{}' is there twice", name));
      parameters.symbols.push_back(symbol(name));
      parameters.names.push_back(name);
      if (skip_op("=")) {
        parameters.defaults.push_back(expression());
      } else if (!parameters.defaults.empty()) {
        fail("a parameter without a default follows one with a default");
      }
    }
    expect_op(")");
  }

  // What a macro reads tells whether it takes further arguments.
  void read_macro_body(Stmt& made, std::string_view end) {
    const bool outer[] = {reads_[kCaller], reads_[kVarargs], reads_[kKwargs]};
    std::fill(std::begin(reads_), std::end(reads_), false);
    const int loops = std::exchange(loops_, 0);
    made.body = body_to(end);
    loops_ = loops;
    made.parameters.takes_caller = reads_[kCaller];
    made.parameters.takes_more = reads_[kVarargs];
    made.parameters.takes_named = reads_[kKwargs];
    reads_[kCaller] = outer[0], reads_[kVarargs] = outer[1], reads_[kKwargs] = outer[2];
  }

  // Targets.

  void check_target(const Expr& target) const {
    if (target.kind == ExprKind::kTuple) {
      for (const ExprPtr& part : target.parts) check_target(*part);
    } else if (target.kind != ExprKind::kName && target.kind != ExprKind::kNamespaceItem) {
      throw Failure("cannot be assigned to", target.place);
    } else if (target.kind == ExprKind::kName && tree_.symbols[static_cast<size_t>(target.symbol)] == "loop" &&
               loops_ > 0) {
      throw Failure("'loop' cannot be assigned to", target.place);
    }
  }

  ExprPtr assign_target(bool with_namespace) { return target_tuple(with_namespace, ""); }

  ExprPtr target_tuple(bool with_namespace, std::string_view end) {
    Nested nested(*this);
    const Place place = now().place;
    std::vector<ExprPtr> parts;
    bool is_tuple = false;
    while (true) {
      if (is_tuple_end(end)) break;
      parts.push_back(target_primary(with_namespace));
      if (!skip_op(",")) break;
      is_tuple = true;
    }
    if (!is_tuple) {
      if (parts.empty()) fail("a name is expected, not " + shown());
      return std::move(parts[0]);
    }
    ExprPtr made = make(ExprKind::kTuple, place);
    made->parts = std::move(parts);
    return made;
  }

  ExprPtr target_primary(bool with_namespace) {
    const Place place = now().place;
    if (skip_op("(")) {
      ExprPtr made = target_tuple(with_namespace, "");
      expect_op(")");
      return made;
    }
    const std::string name = take_name();
    for (const char* word : {"true", "false", "none", "True", "False", "None"}) {
      if (name == word) throw Failure(fmt::format("'{}' cannot be assigned to", name), place);
    }
    ExprPtr made = make(ExprKind::kName, place);
    if (with_namespace && skip_op(".")) {
      made->kind = ExprKind::kNamespaceItem;
      made->text = take_name();
    }
    made->symbol = symbol(name);
    return made;
  }

  // Expressions.

  bool is_tuple_end(std::string_view end) const {
    return now().kind == TokenKind::kVariableEnd || now().kind == TokenKind::kBlockEnd || is_op(")") ||
           (!end.empty() && is_name(end));
  }

  ExprPtr tuple(bool with_if = true, std::string_view end = "", bool in_parentheses = false) {
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

  ExprPtr expression() {
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

  ExprPtr or_expression() {
    Nested nested(*this);
    ExprPtr left = and_expression();
    for (int links = 0; is_name("or");) {
      const Place place = take().place;
      left = make(ExprKind::kOr, place, std::move(left), and_expression());
      check_links(++links);
    }
    return left;
  }

  // A long chain is a deep tree.
  void check_links(int links) const {
    if (links > 1000) fail("too long an expression");
  }

  ExprPtr and_expression() {
    ExprPtr left = not_expression();
    for (int links = 0; is_name("and");) {
      const Place place = take().place;
      left = make(ExprKind::kAnd, place, std::move(left), not_expression());
      check_links(++links);
    }
    return left;
  }

  ExprPtr not_expression() {
    Nested nested(*this);
    if (!is_name("not")) return compare();
    const Place place = take().place;
    return make(ExprKind::kNot, place, not_expression());
  }

  bool skip_comparison(CompareKind& kind) {
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

  ExprPtr compare() {
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

  ExprPtr sum() {
    ExprPtr left = concat();
    for (int links = 0; is_op("+") || is_op("-");) {
      const Token token = take();
      left = make(token.text == "+" ? ExprKind::kAdd : ExprKind::kSubtract, token.place, std::move(left), concat());
      check_links(++links);
    }
    return left;
  }

  ExprPtr concat() {
    ExprPtr first = product();
    if (!is_op("~")) return first;
    ExprPtr made = make(ExprKind::kConcat, now().place, std::move(first));
    while (skip_op("~")) made->parts.push_back(product());
    return made;
  }

  ExprPtr product() {
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

  ExprPtr power() {
    ExprPtr left = unary(true);
    for (int links = 0; is_op("**");) {
      const Place place = take().place;
      left = make(ExprKind::kPower, place, std::move(left), unary(true));
      check_links(++links);
    }
    return left;
  }

  ExprPtr unary(bool with_filter) {
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

  ExprPtr primary() {
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

  ExprPtr list(Place place) {
    ExprPtr made = make(ExprKind::kList, place);
    while (!is_op("]")) {
      if (!made->parts.empty()) expect_op(",");
      if (is_op("]")) break;
      made->parts.push_back(expression());
    }
    expect_op("]");
    return made;
  }

  ExprPtr dict(Place place) {
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

  ExprPtr postfix(ExprPtr made) {
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

  ExprPtr filters_and_tests(ExprPtr made) {
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

  ExprPtr subscript(ExprPtr of) {
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

  ExprPtr subscribed() {
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

  void arguments(Expr& call) {
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

  ExprPtr call(ExprPtr of) {
    ExprPtr made = make(ExprKind::kCall, now().place, std::move(of));
    arguments(*made);
    return made;
  }

  std::string dotted_name() {
    std::string name = take_name();
    while (skip_op(".")) name += "." + take_name();
    return name;
  }

  // `is_first`: of a block, whose first filter has no "|".
  ExprPtr filters(ExprPtr made, bool is_first) {
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

  ExprPtr test(ExprPtr of) {
    const Place place = take().place;
    const bool is_not = skip_name("not");
    ExprPtr made = make(ExprKind::kTest, place, std::move(of));
    made->text = dotted_name();
    made->function = find_test(made->text);
    if (is_op("(")) {
      arguments(*made);
    } else if (now().kind == TokenKind::kString || now().kind == TokenKind::kInteger ||
               now().kind == TokenKind::kFloat || is_op("[") || is_op("{") ||
               (now().kind == TokenKind::kName && !at_any_name({"else", "or", "and"}))) {
      if (is_name("is")) fail("tests in a row need parentheses");
      made->parts.push_back(postfix(primary()));
    }
    return is_not ? make(ExprKind::kNot, place, std::move(made)) : std::move(made);
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0, loops_ = 0;
  bool reads_[kKnownSymbols] = {};
  std::unordered_map<std::string, int> symbols_;
  std::set<std::string> blocks_;
  Tree tree_;
};

}  // namespace

Tree parse(std::string_view source) { return Parser(source).run(); }

}  // namespace moraine::jinja
