#include "text/jinja/evaluator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja/big_integer.h"
#include "text/jinja/python_text.h"

namespace moraine::jinja {

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

Evaluator::Evaluator(const Tree& tree, const std::tm& now) : tree_(tree), now_(now), scope_(std::make_shared<Scope>()) {
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
  for (const auto& [name, value] : variables) {
    const auto symbol = std::find(tree_.symbols.begin(), tree_.symbols.end(), name);
    if (symbol != tree_.symbols.end()) scope_->set(static_cast<int>(symbol - tree_.symbols.begin()), value);
  }
  out_ = &root_;
  run(tree_.body);
  Rendered rendered;
  rendered.text = root_.take(rendered.runs);
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
        run_for(statement, iterable_of(statement), 1);
        break;
      case StmtKind::kIf:
        return run(is_true(eval(*statement.expr)) ? statement.body : statement.other);
      case StmtKind::kSet: {
        std::optional<Value> messages;
        if (statement.target->kind == ExprKind::kName) messages = view_of_messages(*statement.expr);
        assign(*statement.target, messages ? std::move(*messages) : eval(*statement.expr));
        break;
      }
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

// Variables of a loop's turn alone.
void Evaluator::enter_turn(const std::shared_ptr<Scope>& outer) {
  if (scope_ == outer || scope_.use_count() > 1) {
    scope_ = std::make_shared<Scope>();
    scope_->parent = outer;
  } else {
    scope_->variables.clear();
  }
}

Value Evaluator::iterable_of(const Stmt& statement) {
  if (beginnings_ != nullptr) {
    std::optional<Value> messages = view_of_messages(*statement.expr);
    if (begin_messages(statement, messages)) return std::move(*messages);
  }
  return eval(*statement.expr);
}

void Evaluator::run_for(const Stmt& statement, const Value& iterable, int depth) {
  Restore scope(scope_);
  const std::shared_ptr<Scope> outer = scope_;
  auto loop = std::make_shared<Loop>();
  loop->statement = &statement;
  loop->depth = depth;
  loop->scope = outer;
  loop->items = iterate(iterable);
  const auto enter = [&] { enter_turn(outer); };
  if (statement.test != nullptr) {
    std::vector<Value> kept;
    for (Value& item : loop->items) {
      enter();
      assign(*statement.target, item);
      if (is_true(eval(*statement.test))) kept.push_back(std::move(item));
    }
    loop->items = std::move(kept);
  }
  run_turns(statement, loop);
  if (loop->items.empty()) {
    enter();
    run(statement.other);
  }
}

void Evaluator::run_turns(const Stmt& statement, const std::shared_ptr<Loop>& loop) {
  Restore scope(scope_);
  Restore message(message_);
  Restore counts(counts_messages_);
  const std::shared_ptr<Scope>& outer = loop->scope;
  const int message_outside = message_;
  for (; loop->index < loop->items.size(); ++loop->index) {
    if (beginnings_ != nullptr) render_aside(statement, *loop);
    pay_step();
    enter_turn(outer);
    const Value& item = loop->items[loop->index];
    const int of_item = message_of(item.origin);
    message_ = of_item >= 0 ? of_item : message_outside;
    counts_messages_ = item.is(Kind::kInteger);
    assign(*statement.target, item);
    scope_->set(kLoop, Value::of(Kind::kLoop, loop));
    if (run(statement.body) == Flow::kBreak) break;
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
    if (beginnings_ != nullptr) observe_set(target);
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
  size_t places = 0;
  for (Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
    if ((places += 1 + scope->variables.size()) >= 64) pay_steps(std::exchange(places, 0) / 32);
    if (const Value* found = scope->find(name.symbol)) {
      if (beginnings_ != nullptr) observe(name, *found);
      return *found;
    }
  }
  const auto symbol = static_cast<size_t>(name.symbol);
  const int which = tree_.globals[symbol];
  if (which < 0) return Value::undefined(tree_.symbols[symbol]);
  Value global = Value::of(Kind::kGlobal, nullptr);
  global.integer_value = which;
  return global;
}

Value Evaluator::look_up_unseen(const Expr& name) {
  Restore watching(beginnings_);
  beginnings_ = nullptr;
  return eval(name);
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
      if (beginnings_ != nullptr) {
        if (std::optional<Value> item = item_of_messages(expr)) return std::move(*item);
      }
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
      // Whether there are messages is no matter of how many.
      const bool is_unseen = beginnings_ != nullptr && expr.parts[0]->kind == ExprKind::kName &&
                             (expr.text == "defined" || expr.text == "undefined");
      const Value value = is_unseen ? look_up_unseen(*expr.parts[0]) : part(0);
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
      pay_steps(arguments.named.size() / 16);
      if (arguments.find(SIZE_MAX, name.text()) != nullptr)
        throw Failure(fmt::format("the argument '{}' is given twice", name.text()));
      arguments.named.emplace_back(name.text(), value);
    }
  }
  return arguments;
}

Value Evaluator::attribute_of(const Value& value, const std::string& name) {
  if (value.is(Kind::kLoop)) {
    if (beginnings_ != nullptr) observe_loop(static_cast<const Loop&>(*value.object), name);
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

}  // namespace moraine::jinja
