// What templates call: their own macros and loops, and the functions that they know without defining them.
#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/evaluator.h"

namespace moraine::jinja {
namespace {

constexpr std::string_view kGlobals[] = {"namespace", "range",  "raise_exception", "strftime_now",
                                         "dict",      "joiner", "cycler",          "lipsum"};
enum Global { kNamespaceGlobal, kRange, kRaise, kStrftime, kDictGlobal, kJoiner, kCycler };

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
  pay_steps(20 + format->text().size());
  char buffer[8192];
  const size_t size = std::strftime(buffer, sizeof buffer, format->text().c_str(), &now);
  return Value::string(std::string(buffer, size));
}

}  // namespace

int find_global(std::string_view name) {
  const auto found = std::find(std::begin(kGlobals), std::end(kGlobals), name);
  return found == std::end(kGlobals) ? -1 : static_cast<int>(found - std::begin(kGlobals));
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
  pay_steps(count * (count + arguments.named.size()) / 32);  // each is looked for
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
  pay_steps(space->items.size() * arguments.named.size() / 32);
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
      pay_steps(arguments.named.size() * (items.size() + arguments.named.size()) / 32);
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
