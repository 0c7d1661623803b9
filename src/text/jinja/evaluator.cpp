#include "text/jinja/evaluator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja/big_integer.h"
#include "text/jinja/python_text.h"

namespace moraine::jinja {
namespace {

constexpr int64_t kSteps = 20'000'000, kBytes = int64_t{1} << 30;

constexpr std::string_view kGlobals[] = {"namespace", "range",  "raise_exception", "strftime_now",
                                         "dict",      "joiner", "cycler",          "lipsum"};
enum Global { kNamespaceGlobal, kRange, kRaise, kStrftime, kDictGlobal, kJoiner, kCycler };

// Of what 64 bits hold; not of INT64_MIN by -1.
int64_t floor_divide(int64_t a, int64_t b) {
  if (b == 0) throw Failure("division by zero");
  if (b == -1) return -a;
  const int64_t quotient = a / b;
  return quotient - ((a % b != 0 && (a < 0) != (b < 0)) ? 1 : 0);
}

double floor_modulo(double a, double b) {
  if (b == 0) throw Failure("division by zero");
  double rest = std::fmod(a, b);
  if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
  if (rest == 0) rest = std::copysign(0.0, b);
  return rest;
}

double floor_divide(double a, double b) {
  if (b == 0) throw Failure("division by zero");
  double rest = std::fmod(a, b), quotient = (a - rest) / b;
  if (rest != 0 && (rest < 0) != (b < 0)) quotient -= 1;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floored = std::floor(quotient);
  return quotient - floored > 0.5 ? floored + 1 : floored;
}

Value repeated(const Value& what, int64_t times) {
  times = std::max<int64_t>(times, 0);
  if (what.is_string()) {
    StrBuilder out;
    for (int64_t i = 0; i < times && !what.text().empty(); ++i) out.append(what);
    return out.finish();
  }
  std::vector<Value> items;
  for (int64_t i = 0; i < times && !what.items().empty(); ++i) {
    pay_bytes(what.items().size() * sizeof(Value));
    items.insert(items.end(), what.items().begin(), what.items().end());
  }
  return Value::list(std::move(items), what.kind);
}

Value float_power(double a, double b) {
  if (a == 0 && b < 0) throw Failure("division by zero");
  if (a < 0 && b != std::floor(b)) throw Failure("complex numbers are not supported");
  const double result = std::pow(a, b);
  if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) throw Failure("the result is too large");
  return Value::number(result);
}

// Of whole numbers, whatever their size.
Value big_arithmetic(ExprKind kind, const Value& a, const Value& b) {
  const BigInteger left = BigInteger::of(a), right = BigInteger::of(b);
  BigInteger quotient, rest;
  switch (kind) {
    case ExprKind::kAdd:
      return (left + right).value();
    case ExprKind::kSubtract:
      return (left + -right).value();
    case ExprKind::kMultiply:
      return (left * right).value();
    case ExprKind::kDivide:
      return Value::number(true_divide(left, right));
    case ExprKind::kFloorDivide:
      floor_divide(left, right, quotient, rest);
      return quotient.value();
    case ExprKind::kModulo:
      floor_divide(left, right, quotient, rest);
      return rest.value();
    default:
      if (right.is_negative()) return float_power(left.to_float(), right.to_float());
      // Nothing but 0, 1 and -1 has a power of that size, and of those the last bit decides.
      return power(left, b.is(Kind::kBigInteger) ? INT64_MAX - !right.is_odd() : b.integer()).value();
  }
}

Value power(const Value& a, const Value& b) {
  if (!a.is_integer() || !b.is_integer() || b.integer() < 0) return float_power(a.number(), b.number());
  int64_t result = 1, base = a.integer();
  for (int64_t rest = b.integer(); rest > 0; rest >>= 1) {
    if ((rest & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return big_arithmetic(ExprKind::kPower, a, b);
    if (rest > 1 && __builtin_mul_overflow(base, base, &base)) return big_arithmetic(ExprKind::kPower, a, b);
  }
  return Value::integer(result);
}

Value arithmetic(ExprKind kind, const Value& a, const Value& b, Origin origin) {
  if (kind == ExprKind::kAdd) return add(a, b, origin);
  if (kind == ExprKind::kMultiply) {
    if ((a.is_string() || a.is_sequence()) && b.is_integer()) return repeated(a, b.integer());
    if ((b.is_string() || b.is_sequence()) && a.is_integer()) return repeated(b, a.integer());
  }
  if (kind == ExprKind::kModulo && a.is_string()) return format_percent(a, b);
  if (a.is(Kind::kBigInteger) || b.is(Kind::kBigInteger)) {
    if (is_whole(a) && is_whole(b)) return big_arithmetic(kind, a, b);
    const auto as_float = [](const Value& one) { return is_whole(one) ? Value::number(as_number(one)) : one; };
    return arithmetic(kind, as_float(a), as_float(b), origin);
  }
  if (!a.is_number() || !b.is_number())
    throw Failure(fmt::format("{} and {} are no numbers to calculate with", type_name(a), type_name(b)));
  const bool whole = a.is_integer() && b.is_integer();
  int64_t result = 0;
  switch (kind) {
    case ExprKind::kSubtract:
      if (!whole) return Value::number(a.number() - b.number());
      if (__builtin_sub_overflow(a.integer(), b.integer(), &result)) return big_arithmetic(kind, a, b);
      return Value::integer(result);
    case ExprKind::kMultiply:
      if (!whole) return Value::number(a.number() * b.number());
      if (__builtin_mul_overflow(a.integer(), b.integer(), &result)) return big_arithmetic(kind, a, b);
      return Value::integer(result);
    case ExprKind::kDivide:
      if (b.number() == 0) throw Failure("division by zero");
      return Value::number(a.number() / b.number());
    case ExprKind::kFloorDivide:
      if (!whole) return Value::number(floor_divide(a.number(), b.number()));
      if (a.integer() == INT64_MIN && b.integer() == -1) return big_arithmetic(kind, a, b);
      return Value::integer(floor_divide(a.integer(), b.integer()));
    case ExprKind::kModulo:
      if (!whole) return Value::number(floor_modulo(a.number(), b.number()));
      if (b.integer() == -1) return Value::integer(0);
      return Value::integer(a.integer() - floor_divide(a.integer(), b.integer()) * b.integer());
    default:
      return power(a, b);
  }
}

bool holds(CompareKind kind, const Value& a, const Value& b) {
  switch (kind) {
    case CompareKind::kEqual:
      return are_equal(a, b);
    case CompareKind::kNotEqual:
      return !are_equal(a, b);
    case CompareKind::kIn:
    case CompareKind::kNotIn:
      if (b.is(Kind::kNone) || b.is_number()) throw Failure(fmt::format("nothing can be in a {}", type_name(b)));
      return contains(b, a) == (kind == CompareKind::kIn);
    default:
      break;
  }
  if ((a.is(Kind::kFloat) && std::isnan(a.number_value)) || (b.is(Kind::kFloat) && std::isnan(b.number_value))) {
    if ((a.is_number() || is_whole(a)) && (b.is_number() || is_whole(b))) return false;
  }
  const int order = compare(a, b);
  switch (kind) {
    case CompareKind::kLess:
      return order < 0;
    case CompareKind::kLessEqual:
      return order <= 0;
    case CompareKind::kGreater:
      return order > 0;
    default:
      return order >= 0;
  }
}

Value range(const Arguments& arguments) {
  constexpr int64_t kLongest = 100'000;  // the sandbox's
  arguments.check("range", 3, {});
  if (arguments.values.empty()) throw Failure("range needs a number");
  for (const Value& value : arguments.values) {
    if (!value.is_integer()) throw Failure(fmt::format("range needs ints, not {}", type_name(value)));
  }
  const std::vector<Value>& given = arguments.values;
  const int64_t start = given.size() > 1 ? given[0].integer() : 0, stop = given[given.size() > 1 ? 1 : 0].integer(),
                step = given.size() > 2 ? given[2].integer() : 1;
  if (step == 0) throw Failure("range with step 0");
  std::vector<Value> items;
  for (int64_t at = start; step > 0 ? at < stop : at > stop;) {
    if (static_cast<int64_t>(items.size()) >= kLongest) throw Failure(fmt::format("range is longer than {}", kLongest));
    items.push_back(Value::integer(at));
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  return Value::list(std::move(items));
}

Value format_time(const Arguments& arguments, const std::tm& now) {
  arguments.check("strftime_now", 1, {"format"});
  const Value* format = arguments.find(0, "format");
  if (format == nullptr || !format->is_string()) throw Failure("strftime_now needs a format");
  if (format->text().size() > 500) throw Failure("strftime_now has too long a format");
  if (format->text().empty()) return *format;
  char buffer[8192];
  const size_t size = std::strftime(buffer, sizeof buffer, format->text().c_str(), &now);
  return Value::string(std::string(buffer, size));
}

// Restores a variable at the end of a block.
template <typename T>
class Restore {
 public:
  explicit Restore(T& variable) : variable_(variable), before_(variable) {}
  ~Restore() { variable_ = std::move(before_); }
  Restore(const Restore&) = delete;
  Restore& operator=(const Restore&) = delete;

 private:
  T& variable_;
  T before_;
};

}  // namespace

struct Evaluator::Macro : Object {
  const Parameters* parameters = nullptr;
  const Body* body = nullptr;
  std::string name;
  std::shared_ptr<Scope> scope;  // that it was written in
};

struct Evaluator::Loop : Object {
  const Stmt* statement = nullptr;
  std::vector<Value> items;
  size_t index = 0;
  int depth = 1;
  std::shared_ptr<Scope> scope;  // around the loop
  bool has_last = false;
  std::vector<Value> last_changed;

  Value attribute(std::string_view name) const {
    const auto number = [](size_t value) { return Value::integer(static_cast<int64_t>(value)); };
    if (name == "index0") return number(index);
    if (name == "index") return number(index + 1);
    if (name == "first") return Value::boolean(index == 0);
    if (name == "last") return Value::boolean(index + 1 == items.size());
    if (name == "length") return number(items.size());
    if (name == "revindex") return number(items.size() - index);
    if (name == "revindex0") return number(items.size() - index - 1);
    if (name == "previtem") return index > 0 ? items[index - 1] : Value::undefined("there is no previous item");
    if (name == "nextitem")
      return index + 1 < items.size() ? items[index + 1] : Value::undefined("there is no next item");
    if (name == "depth") return number(static_cast<size_t>(depth));
    if (name == "depth0") return number(static_cast<size_t>(depth) - 1);
    return Value::undefined(name);
  }
};

Value* Scope::find(int symbol) {
  for (auto variable = variables.rbegin(); variable != variables.rend(); ++variable) {
    if (variable->first == symbol) return &variable->second;
  }
  return nullptr;
}

void Scope::set(int symbol, Value value) {
  if (Value* found = find(symbol)) {
    *found = std::move(value);
  } else {
    variables.emplace_back(symbol, std::move(value));
  }
}

Evaluator::Evaluator(const Tree& tree, const std::tm& now)
    : tree_(tree),
      now_(now),
      budget_{kSteps, kBytes, 0},
      globals_(tree.symbols.size(), -1),
      scope_(std::make_shared<Scope>()) {
  for (size_t i = 0; i < tree.symbols.size(); ++i) {
    const auto found = std::find(std::begin(kGlobals), std::end(kGlobals), tree.symbols[i]);
    if (found != std::end(kGlobals)) globals_[i] = static_cast<int>(found - std::begin(kGlobals));
  }
  scopes_.push_back(scope_);
}

Evaluator::~Evaluator() {
  std::vector<Value> rest;
  for (const auto& scope : scopes_) {
    for (auto& [symbol, value] : scope->variables) rest.push_back(std::move(value));
    scope->variables.clear();
  }
  for (const auto& space : namespaces_) {
    for (auto& [name, value] : space->items) rest.push_back(std::move(value));
    space->items.clear();
  }
}

Rendered Evaluator::render(const Variables& variables) {
  BudgetScope budget(&budget_);
  for (const auto& [name, value] : variables) {
    const auto symbol = std::find(tree_.symbols.begin(), tree_.symbols.end(), name);
    if (symbol != tree_.symbols.end()) scope_->set(static_cast<int>(symbol - tree_.symbols.begin()), value);
  }
  out_ = &root_;
  run(tree_.body);
  Rendered rendered;
  rendered.runs = root_.runs();
  rendered.text = root_.text();
  rendered.generated = std::move(generated_);
  return rendered;
}

Evaluator::Flow Evaluator::run(const Body& body) {
  for (const auto& statement : body) {
    if (const Flow flow = run(*statement); flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

Evaluator::Flow Evaluator::run(const Stmt& statement) {
  Level level;
  pay_step();
  try {
    switch (statement.kind) {
      case StmtKind::kText:
        out_->append(statement.text, template_origin());
        break;
      case StmtKind::kOutput:
        out_->append_printed(eval(*statement.expr), template_origin());
        break;
      case StmtKind::kFor:
        run_for(statement, eval(*statement.expr), 1);
        break;
      case StmtKind::kIf:
        return run(is_true(eval(*statement.expr)) ? statement.body : statement.other);
      case StmtKind::kSet:
        assign(*statement.target, eval(*statement.expr));
        break;
      case StmtKind::kSetBlock: {
        Value text = captured(statement.body);
        if (statement.expr != nullptr) text = eval_filter(*statement.expr, &text);
        assign(*statement.target, std::move(text));
        break;
      }
      case StmtKind::kMacro:
        scope_->set(statement.symbol, make_macro(statement.parameters, statement.body, statement.name));
        break;
      case StmtKind::kCallBlock: {
        const Value caller = make_macro(statement.parameters, statement.body, "caller");
        out_->append_printed(eval_call(*statement.expr, &caller), template_origin());
        break;
      }
      case StmtKind::kFilterBlock: {
        const Value text = captured(statement.body);
        out_->append_printed(eval_filter(*statement.expr, &text), template_origin());
        break;
      }
      case StmtKind::kWith:
        run_with(statement);
        break;
      case StmtKind::kGeneration:
        run_generation(statement);
        break;
      case StmtKind::kBlock:
        run_block(statement);
        break;
      case StmtKind::kBreak:
        return Flow::kBreak;
      case StmtKind::kContinue:
        return Flow::kContinue;
    }
  } catch (Failure& failure) {
    if (failure.place.line == 0) {
      failure.place = statement.place;
      failed_message_ = message_;
    }
    throw;
  }
  return Flow::kOn;
}

void Evaluator::run_for(const Stmt& statement, const Value& iterable, int depth) {
  Restore scope(scope_);
  Restore message(message_);
  Restore counts(counts_messages_);
  const std::shared_ptr<Scope> outer = scope_;
  auto loop = std::make_shared<Loop>();
  loop->statement = &statement;
  loop->depth = depth;
  loop->scope = outer;
  loop->items = iterate(iterable);
  const auto enter = [&] {
    if (scope_ == outer || scope_.use_count() > 1) {
      scope_ = std::make_shared<Scope>();
      scope_->parent = outer;
    } else {
      scope_->variables.clear();
    }
  };
  if (statement.test != nullptr) {
    std::vector<Value> kept;
    for (Value& item : loop->items) {
      enter();
      assign(*statement.target, item);
      if (is_true(eval(*statement.test))) kept.push_back(std::move(item));
    }
    loop->items = std::move(kept);
  }
  const int message_outside = message_;
  for (; loop->index < loop->items.size(); ++loop->index) {
    pay_step();
    enter();
    const Value& item = loop->items[loop->index];
    const int of_item = message_of(item.origin);
    message_ = of_item >= 0 ? of_item : message_outside;
    counts_messages_ = item.is(Kind::kInteger);
    assign(*statement.target, item);
    scope_->set(kLoop, Value::of(Kind::kLoop, loop));
    if (run(statement.body) == Flow::kBreak) break;
  }
  if (loop->items.empty()) {
    enter();
    run(statement.other);
  }
}

void Evaluator::run_with(const Stmt& statement) {
  Restore scope(scope_);
  // All values are those of outside.
  std::vector<Value> values;
  for (const auto& [target, value] : statement.with) values.push_back(eval(*value));
  auto inner = std::make_shared<Scope>();
  inner->parent = scope_;
  scope_ = inner;
  for (size_t i = 0; i < values.size(); ++i) assign(*statement.with[i].first, std::move(values[i]));
  run(statement.body);
}

// It sees the variables of the template, and those around it only when it is scoped.
void Evaluator::run_block(const Stmt& statement) {
  Restore scope(scope_);
  auto inner = std::make_shared<Scope>();
  inner->parent = statement.is_scoped ? scope_ : scopes_.front();
  scope_ = inner;
  run(statement.body);
}

void Evaluator::run_generation(const Stmt& statement) {
  if (out_ != &root_) throw Failure("a generation block inside of a macro or another block's text");
  const size_t begin = out_->size();
  out_->append(captured(statement.body));
  generated_.emplace_back(begin, out_->size());
}

Value Evaluator::captured(const Body& body) {
  Restore out(out_);
  Restore scope(scope_);
  auto inner = std::make_shared<Scope>();
  inner->parent = scope_;
  scope_ = inner;
  StrBuilder text;
  out_ = &text;
  run(body);
  return text.finish();
}

void Evaluator::assign(const Expr& target, Value value) {
  if (target.kind == ExprKind::kName) {
    if (value.is_message && counts_messages_) message_ = message_of(value.origin);
    scope_->set(target.symbol, std::move(value));
    return;
  }
  if (target.kind == ExprKind::kNamespaceItem) {
    const Value space = look_up(target);
    if (!space.is(Kind::kNamespace)) throw Failure("only a namespace's attributes can be set", target.place);
    std::vector<std::pair<Value, Value>>& items = space.dict().items;
    for (auto& [name, item] : items) {
      if (name.text() == target.text) {
        std::swap(item, value);  // what was there may be the last of something deep
        return;
      }
    }
    items.emplace_back(Value::string(target.text), std::move(value));
    return;
  }
  const std::vector<Value> items = iterate(value);
  if (items.size() != target.parts.size()) {
    throw Failure(fmt::format("{} values for {} names", items.size(), target.parts.size()), target.place);
  }
  for (size_t i = 0; i < items.size(); ++i) assign(*target.parts[i], items[i]);
}

Value Evaluator::make_macro(const Parameters& parameters, const Body& body, std::string name) {
  auto macro = std::make_shared<Macro>();
  macro->parameters = &parameters;
  macro->body = &body;
  macro->name = std::move(name);
  macro->scope = scope_;
  if (scopes_.back() != scope_) {
    pay_bytes(256);
    scopes_.push_back(scope_);
  }
  return Value::of(Kind::kMacro, std::move(macro));
}

Value Evaluator::eval(const Expr& expr) {
  if (expr.kind == ExprKind::kConstant) return expr.constant;
  Level level;
  pay_step();
  try {
    return eval_here(expr);
  } catch (Failure& failure) {
    if (failure.place.line == 0) {
      failure.place = expr.place;
      failed_message_ = message_;
    }
    throw;
  }
}

Value Evaluator::look_up(const Expr& name) {
  for (Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
    if (const Value* found = scope->find(name.symbol)) return *found;
  }
  const auto symbol = static_cast<size_t>(name.symbol);
  if (globals_[symbol] < 0) return Value::undefined(tree_.symbols[symbol]);
  Value global = Value::of(Kind::kGlobal, nullptr);
  global.integer_value = globals_[symbol];
  return global;
}

Value Evaluator::eval_here(const Expr& expr) {
  const auto part = [&](size_t i) { return eval(*expr.parts[i]); };
  switch (expr.kind) {
    case ExprKind::kName:
      return look_up(expr);
    case ExprKind::kTuple:
    case ExprKind::kList: {
      std::vector<Value> items;
      for (const ExprPtr& one : expr.parts) items.push_back(eval(*one));
      return Value::list(std::move(items), expr.kind == ExprKind::kTuple ? Kind::kTuple : Kind::kList);
    }
    case ExprKind::kDict: {
      Dict dict;
      for (size_t i = 0; i < expr.parts.size(); i += 2) {
        Value key = part(i), value = part(i + 1);
        if (key.is(Kind::kList) || key.is(Kind::kDict))
          throw Failure(fmt::format("a {} cannot be a key", type_name(key)));
        if (const Value* found = dict.find(key)) {
          *const_cast<Value*>(found) = std::move(value);
        } else {
          pay_bytes(dict.items.size());
          dict.items.emplace_back(std::move(key), std::move(value));
        }
      }
      return Value::dict(std::move(dict.items));
    }
    case ExprKind::kAttribute:
      return attribute_of(part(0), expr.text);
    case ExprKind::kItem: {
      const Expr& index = *expr.parts[1];
      if (index.kind == ExprKind::kSlice) {
        const auto bound = [&](size_t i) { return index.parts[i] != nullptr ? eval(*index.parts[i]) : Value::none(); };
        const Value of = part(0), start = bound(0), stop = bound(1);
        return get_slice(of, start, stop, bound(2));
      }
      const Value of = part(0), key = part(1);
      if (of.is(Kind::kLoop) && key.is_string()) return attribute_of(of, key.text());
      return get_item(of, key);
    }
    case ExprKind::kCall:
      return eval_call(expr);
    case ExprKind::kFilter:
      return eval_filter(expr);
    case ExprKind::kTest: {
      const Value value = part(0);
      if (expr.function < 0) throw Failure(fmt::format("no test named '{}'", expr.text));
      if (expr.parts.size() == 1 && expr.named.empty() && expr.all_arguments == nullptr)
        return Value::boolean(apply_test(expr.function, value, {}));
      return Value::boolean(apply_test(expr.function, value, arguments_of(expr)));
    }
    case ExprKind::kNot:
      return Value::boolean(!is_true(part(0)));
    case ExprKind::kNegative:
    case ExprKind::kPositive: {
      const Value value = part(0);
      const bool is_negative = expr.kind == ExprKind::kNegative;
      if (value.is(Kind::kBigInteger)) return is_negative ? (-BigInteger::of(value)).value() : value;
      if (!value.is_number()) throw Failure(fmt::format("a {} has no sign", type_name(value)));
      if (value.is(Kind::kFloat)) return Value::number(is_negative ? -value.number_value : value.number_value);
      if (is_negative && value.integer() == INT64_MIN) return (-BigInteger::of(value)).value();
      return Value::integer(is_negative ? -value.integer() : value.integer());
    }
    case ExprKind::kAnd: {
      Value left = part(0);
      return is_true(left) ? part(1) : left;
    }
    case ExprKind::kOr: {
      Value left = part(0);
      return is_true(left) ? left : part(1);
    }
    case ExprKind::kIf:
      if (is_true(part(0))) return part(1);
      return expr.parts[2] != nullptr ? part(2) : Value::undefined("if without else");
    case ExprKind::kCompare:
      return eval_compare(expr);
    case ExprKind::kConcat:
      return eval_concat(expr);
    case ExprKind::kSlice:
      throw Failure("a slice is not expected here");
    default: {
      const Value left = part(0);
      return arithmetic(expr.kind, left, part(1), template_origin());
    }
  }
}

Value Evaluator::eval_compare(const Expr& expr) {
  Value left = eval(*expr.parts[0]);
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    Value right = eval(*expr.parts[i + 1]);
    if (!holds(expr.operators[i], left, right)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Evaluator::eval_concat(const Expr& expr) {
  StrBuilder out;
  for (const ExprPtr& part : expr.parts) out.append_printed(eval(*part), template_origin());
  return out.finish();
}

Value Evaluator::eval_filter(const Expr& expr, const Value* block) {
  const Expr* inner = expr.parts[0].get();
  Value value = inner == nullptr                                       ? *block
                : inner->kind == ExprKind::kFilter && block != nullptr ? eval_filter(*inner, block)
                                                                       : eval(*inner);
  if (expr.function < 0) throw Failure(fmt::format("no filter named '{}'", expr.text));
  if (expr.parts.size() == 1 && expr.named.empty() && expr.all_arguments == nullptr && expr.all_named == nullptr)
    return apply_filter(expr.function, value, {}, *this);
  return apply_filter(expr.function, value, arguments_of(expr), *this);
}

Arguments Evaluator::arguments_of(const Expr& expr) {
  Arguments arguments;
  for (size_t i = 1; i < expr.parts.size(); ++i) arguments.values.push_back(eval(*expr.parts[i]));
  for (const auto& [name, value] : expr.named) arguments.named.emplace_back(name, eval(*value));
  if (expr.all_arguments != nullptr) {
    for (Value& value : iterate(eval(*expr.all_arguments))) arguments.values.push_back(std::move(value));
  }
  if (expr.all_named != nullptr) {
    const Value given = eval(*expr.all_named);
    if (!given.is(Kind::kDict)) throw Failure(fmt::format("** needs a dict, not {}", type_name(given)));
    for (const auto& [name, value] : given.dict().items) {
      if (!name.is_string()) throw Failure("arguments' names are strs");
      if (arguments.find(SIZE_MAX, name.text()) != nullptr)
        throw Failure(fmt::format("the argument '{}' is given twice", name.text()));
      arguments.named.emplace_back(name.text(), value);
    }
  }
  return arguments;
}

Value Evaluator::attribute_of(const Value& value, const std::string& name) {
  if (value.is(Kind::kLoop)) {
    if (name != "cycle" && name != "changed") return static_cast<const Loop&>(*value.object).attribute(name);
    auto method = std::make_shared<Method>();
    method->self = value;
    method->name = name;
    return Value::of(Kind::kMethod, std::move(method));
  }
  if (value.is(Kind::kMacro) && name == "name") return Value::string(static_cast<const Macro&>(*value.object).name);
  return get_attribute(value, name);
}

Value Evaluator::eval_call(const Expr& expr, const Value* caller) {
  const Expr& of = *expr.parts[0];
  if (of.kind == ExprKind::kAttribute && caller == nullptr) {
    // A method that is called at once needs no value of its own.
    const Value self = eval(*of.parts[0]);
    if (self.is_string() && has_method(self, of.text)) {
      Method method;
      method.self = self;
      method.name = of.text;
      return call_method(method, arguments_of(expr), *this);
    }
    const Value function = attribute_of(self, of.text);
    return call(function, arguments_of(expr), nullptr);
  }
  const Value function = eval(of);
  return call(function, arguments_of(expr), caller);
}

Value Evaluator::call(const Value& function, Arguments arguments, const Value* caller) {
  switch (function.kind) {
    case Kind::kMethod: {
      const auto& method = static_cast<const Method&>(*function.object);
      if (method.self.is(Kind::kLoop))
        return call_loop(static_cast<Loop&>(*method.self.object), method.name, arguments);
      if (method.self.is(Kind::kHelper))
        return call_helper(static_cast<Helper&>(*method.self.object), method.name, arguments);
      return call_method(method, arguments, *this);
    }
    case Kind::kGlobal:
      return call_global(static_cast<int>(function.integer_value), arguments);
    case Kind::kMacro:
      return call_macro(static_cast<const Macro&>(*function.object), arguments, caller);
    case Kind::kLoop:
      return call_loop(static_cast<Loop&>(*function.object), "", arguments);
    case Kind::kHelper:
      return call_helper(static_cast<Helper&>(*function.object), "", arguments);
    default:
      throw Failure(fmt::format("{} is called", type_name(function)));
  }
}

Value Evaluator::call_macro(const Macro& macro, const Arguments& arguments, const Value* caller) {
  const Parameters& parameters = *macro.parameters;
  auto inner = std::make_shared<Scope>();
  inner->parent = macro.scope;
  const size_t count = parameters.symbols.size();
  std::vector<bool> is_given(count, false);
  for (size_t i = 0; i < std::min(count, arguments.values.size()); ++i) {
    inner->set(parameters.symbols[i], arguments.values[i]);
    is_given[i] = true;
  }
  std::vector<std::pair<Value, Value>> more_named;
  Value called_by = caller != nullptr ? *caller : Value::undefined("caller");
  bool has_caller = caller != nullptr;
  for (const auto& [name, value] : arguments.named) {
    const auto found = std::find(parameters.names.begin(), parameters.names.end(), name);
    const auto at = static_cast<size_t>(found - parameters.names.begin());
    if (at < count) {
      if (is_given[at]) throw Failure(fmt::format("the argument '{}' is given twice", name));
      inner->set(parameters.symbols[at], value);
      is_given[at] = true;
    } else if (name == "caller" && !has_caller) {
      called_by = value;
      has_caller = true;
    } else {
      more_named.emplace_back(Value::string(name), value);
    }
  }
  if (arguments.values.size() > count && !parameters.takes_more)
    throw Failure(fmt::format("the macro '{}' takes at most {} arguments", macro.name, count));
  if (!more_named.empty() && !parameters.takes_named)
    throw Failure(fmt::format("the macro '{}' takes no argument '{}'", macro.name, more_named[0].first.text()));
  if (has_caller && !parameters.takes_caller) throw Failure(fmt::format("the macro '{}' takes no caller", macro.name));

  Restore scope(scope_);
  Restore out(out_);
  scope_ = inner;
  const size_t without_default = count - parameters.defaults.size();
  for (size_t i = 0; i < count; ++i) {
    if (is_given[i]) continue;
    inner->set(parameters.symbols[i], i >= without_default ? eval(*parameters.defaults[i - without_default])
                                                           : Value::undefined(parameters.names[i]));
  }
  if (parameters.takes_caller) inner->set(kCaller, std::move(called_by));
  if (parameters.takes_named) inner->set(kKwargs, Value::dict(std::move(more_named)));
  if (parameters.takes_more) {
    const size_t first = std::min(count, arguments.values.size());
    inner->set(kVarargs, Value::list({arguments.values.begin() + static_cast<int64_t>(first), arguments.values.end()},
                                     Kind::kTuple));
  }
  StrBuilder text;
  out_ = &text;
  run(*macro.body);
  return text.finish();
}

Value Evaluator::make_namespace(const Arguments& arguments) {
  auto space = std::make_shared<Dict>();
  arguments.values.size() > 1 ? throw Failure("namespace takes one dict") : void();
  const auto set = [&](const Value& name, const Value& value) {
    for (auto& [key, item] : space->items) {
      if (key.text() == name.text()) {
        item = value;
        return;
      }
    }
    space->items.emplace_back(name, value);
  };
  if (!arguments.values.empty()) {
    if (!arguments.values[0].is(Kind::kDict)) throw Failure("namespace takes a dict");
    for (const auto& [name, value] : arguments.values[0].dict().items) {
      if (!name.is_string()) throw Failure("a namespace's names are strs");
      set(name, value);
    }
  }
  for (const auto& [name, value] : arguments.named) set(Value::string(name), value);
  pay_bytes(256);
  namespaces_.push_back(space);
  return Value::of(Kind::kNamespace, std::move(space));
}

Value Evaluator::make_helper(bool is_joiner, const Arguments& arguments) {
  auto helper = std::make_shared<Helper>();
  helper->is_joiner = is_joiner;
  if (is_joiner) {
    arguments.check("joiner", 1, {"sep"});
    helper->separator = arguments.get(0, "sep", Value::string(", "));
  } else {
    arguments.check("cycler", arguments.values.size(), {});
    if (arguments.values.empty()) throw Failure("cycler needs items");
    pay_bytes(arguments.values.size() * sizeof(Value));
    helper->items = arguments.values;
  }
  return Value::of(Kind::kHelper, std::move(helper));
}

Value Evaluator::call_helper(Helper& helper, const std::string& name, const Arguments& arguments) {
  if (helper.is_joiner == !name.empty()) throw Failure("a cycler is called");
  arguments.check(helper.is_joiner ? "a joiner" : name, 0, {});
  if (helper.is_joiner) return helper.calls++ == 0 ? Value::string("") : helper.separator;
  if (name == "reset") {
    helper.calls = 0;
    return Value::none();
  }
  const Value current = helper.items[helper.calls];
  helper.calls = (helper.calls + 1) % helper.items.size();
  return current;
}

Value Evaluator::call_global(int which, const Arguments& arguments) {
  switch (which) {
    case kNamespaceGlobal:
      return make_namespace(arguments);
    case kRange:
      return range(arguments);
    case kRaise: {
      arguments.check("raise_exception", 1, {"message"});
      const Value* message = arguments.find(0, "message");
      throw Failure(message != nullptr ? to_str(*message).text() : "raise_exception without a message");
    }
    case kStrftime:
      return format_time(arguments, now_);
    case kJoiner:
    case kCycler:
      return make_helper(which == kJoiner, arguments);
    case kDictGlobal: {
      std::vector<std::pair<Value, Value>> items;
      if (!arguments.values.empty()) {
        if (arguments.values.size() > 1 || !arguments.values[0].is(Kind::kDict)) throw Failure("dict takes a dict");
        items = arguments.values[0].dict().items;
      }
      for (const auto& [name, value] : arguments.named) {
        const auto same = std::find_if(items.begin(), items.end(), [&name = name](const auto& item) {
          return item.first.is_string() && item.first.text() == name;
        });
        if (same != items.end()) {
          same->second = value;
        } else {
          items.emplace_back(Value::string(name), value);
        }
      }
      return Value::dict(std::move(items));
    }
    default:
      throw Failure(fmt::format("the function '{}' is not supported", kGlobals[which]));
  }
}

Value Evaluator::call_loop(Loop& loop, const std::string& name, const Arguments& arguments) {
  if (name == "cycle") {
    if (arguments.values.empty()) throw Failure("loop.cycle needs values");
    return arguments.values[loop.index % arguments.values.size()];
  }
  if (name == "changed") {
    const bool same =
        loop.has_last && loop.last_changed.size() == arguments.values.size() &&
        std::equal(loop.last_changed.begin(), loop.last_changed.end(), arguments.values.begin(), are_equal);
    if (!same) loop.last_changed = arguments.values;
    loop.has_last = true;
    return Value::boolean(!same);
  }
  if (!loop.statement->is_recursive) throw Failure("the loop is not recursive");
  if (arguments.values.size() != 1) throw Failure("a recursive loop needs what to go through");
  Restore scope(scope_);
  Restore out(out_);
  StrBuilder text;
  out_ = &text;
  scope_ = loop.scope;
  run_for(*loop.statement, arguments.values[0], loop.depth + 1);
  return text.finish();
}

}  // namespace moraine::jinja
