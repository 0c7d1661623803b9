// Walks a parsed template with its variables and writes what it renders.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/functions.h"
#include "text/jinja/template.h"
#include "text/jinja/tree.h"

namespace moraine::jinja {

// What an operator gives; characters of texts without origin gain `origin`.
Value arithmetic(ExprKind kind, const Value& a, const Value& b, Origin origin);
bool holds(CompareKind kind, const Value& a, const Value& b);

// Variables of the template, a loop's turn, a macro's call. What is not in one is looked for in its parent.
struct Scope {
  std::vector<std::pair<int, Value>> variables;  // by symbol
  std::shared_ptr<Scope> parent;

  Value* find(int symbol);
  void set(int symbol, Value value);
};

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

// One rendering.
class Evaluator : public Caller {
 public:
  Evaluator(const Tree& tree, const std::tm& now);
  ~Evaluator() override;

  // Throws Failure with its place; failed_message() tells whose turn it was, -1: nobody's.
  Rendered render(const Variables& variables);
  // Instead of render: beginnings of the messages as it would render them (prefixes.cpp).
  RenderedBeginnings render_beginnings(const Variables& variables, const std::vector<bool>& wanted, size_t bytes);
  int failed_message() const { return failed_message_; }

  Origin template_origin() const override { return message_ < 0 ? kNoOrigin : origin_of(message_, Field::kTemplate); }

 private:
  enum class Flow { kOn, kBreak, kContinue };
  struct Macro : Object {
    const Parameters* parameters = nullptr;
    const Body* body = nullptr;
    std::string name;
    std::shared_ptr<Scope> scope;  // that it was written in
  };

  struct Loop : Object {
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

  Flow run(const Body& body);
  Flow run(const Stmt& statement);
  void run_for(const Stmt& statement, const Value& iterable, int depth);
  void enter_turn(const std::shared_ptr<Scope>& outer);
  Value iterable_of(const Stmt& statement);
  void run_turns(const Stmt& statement, const std::shared_ptr<Loop>& loop);
  void run_with(const Stmt& statement);
  void run_generation(const Stmt& statement);
  void run_block(const Stmt& statement);
  // What a body writes, as a string.
  Value captured(const Body& body);
  void assign(const Expr& target, Value value);
  Value make_macro(const Parameters& parameters, const Body& body, std::string name);

  Value eval(const Expr& expr);
  Value eval_here(const Expr& expr);
  Value eval_compare(const Expr& expr);
  Value eval_concat(const Expr& expr);
  Value eval_call(const Expr& expr, const Value* caller = nullptr);
  Value eval_filter(const Expr& expr, const Value* block = nullptr);
  Value look_up(const Expr& name);
  Arguments arguments_of(const Expr& expr);
  Value attribute_of(const Value& value, const std::string& name);

  Value call(const Value& function, Arguments arguments, const Value* caller);
  Value call_macro(const Macro& macro, const Arguments& arguments, const Value* caller);
  Value call_global(int which, const Arguments& arguments);
  Value call_loop(Loop& loop, const std::string& name, const Arguments& arguments);
  // Only while beginnings are rendered.
  struct Beginnings;
  Value look_up_unseen(const Expr& name);
  void observe(const Expr& name, const Value& value);
  void observe_set(const Expr& name);
  void observe_loop(const Loop& loop, std::string_view name);
  std::optional<Value> view_of_messages(const Expr& expr);
  std::optional<Value> item_of_messages(const Expr& expr);
  bool begin_messages(const Stmt& statement, const std::optional<Value>& messages);
  void render_aside(const Stmt& statement, const Loop& loop);
  bool run_aside(const Stmt& statement, const Loop& loop, size_t count, bool has_prompt, std::string& text);

  Value make_namespace(const Arguments& arguments);
  Value make_helper(bool is_joiner, const Arguments& arguments);
  Value call_helper(Helper& helper, const std::string& name, const Arguments& arguments);

  const Tree& tree_;
  const std::tm now_;
  std::shared_ptr<Scope> scope_;
  StrBuilder* out_ = nullptr;
  StrBuilder root_;
  int message_ = -1;              // whose loop turn it is
  bool counts_messages_ = false;  // the loop's item is a number, which may be a message's
  int failed_message_ = -1;
  Beginnings* beginnings_ = nullptr;
  std::vector<std::pair<size_t, size_t>> generated_;
  // What may hold itself: emptied at the end.
  std::vector<std::shared_ptr<Dict>> namespaces_;
  std::vector<std::shared_ptr<Scope>> scopes_;
};

}  // namespace moraine::jinja
