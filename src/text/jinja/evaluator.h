// Walks a parsed template with its variables and writes what it renders.
#pragma once

#include <ctime>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/functions.h"
#include "text/jinja/template.h"
#include "text/jinja/tree.h"

namespace moraine::jinja {

// Variables of the template, a loop's turn, a macro's call. What is not in one is looked for in its parent.
struct Scope {
  std::vector<std::pair<int, Value>> variables;  // by symbol
  std::shared_ptr<Scope> parent;

  Value* find(int symbol);
  void set(int symbol, Value value);
};

// One rendering.
class Evaluator : public Caller {
 public:
  Evaluator(const Tree& tree, const std::tm& now);
  ~Evaluator() override;

  // Throws Failure with its place; failed_message() tells whose turn it was, -1: nobody's.
  Rendered render(const Variables& variables);
  int failed_message() const { return failed_message_; }

  Origin template_origin() const override { return message_ < 0 ? kNoOrigin : origin_of(message_, Field::kTemplate); }

 private:
  enum class Flow { kOn, kBreak, kContinue };
  struct Macro;
  struct Loop;

  Flow run(const Body& body);
  Flow run(const Stmt& statement);
  void run_for(const Stmt& statement, const Value& iterable, int depth);
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
  Value make_namespace(const Arguments& arguments);
  Value make_helper(bool is_joiner, const Arguments& arguments);
  Value call_helper(Helper& helper, const std::string& name, const Arguments& arguments);

  const Tree& tree_;
  const std::tm now_;
  Budget budget_;
  std::vector<int> globals_;  // of each symbol, which global function it names; -1: none
  std::shared_ptr<Scope> scope_;
  StrBuilder* out_ = nullptr;
  StrBuilder root_;
  int message_ = -1;              // whose loop turn it is
  bool counts_messages_ = false;  // the loop's item is a number, which may be a message's
  int failed_message_ = -1;
  std::vector<std::pair<size_t, size_t>> generated_;
  // What may hold itself: emptied at the end.
  std::vector<std::shared_ptr<Dict>> namespaces_;
  std::vector<std::shared_ptr<Scope>> scopes_;
};

}  // namespace moraine::jinja
