// What the renderings of one row may use, so that no template hangs or fills the memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "text/jinja/failure.h"

namespace moraine::jinja {

// A step is the evaluation of one small expression, or as much work: some 50 ns. Bytes are those of all texts and lists
// that are made, whether they are kept or not.
struct Budget {
  int64_t steps = 10'000'000, bytes = int64_t{256} << 20;
  int depth = 0;
  bool is_spent = false;
  const char* stack = nullptr;  // where the outermost scope stands on this thread's stack
};

// The budget of this thread's row. Scopes inside of another share its budget. Without one nothing is limited.
class BudgetScope {
 public:
  explicit BudgetScope(Budget budget = {});
  ~BudgetScope();
  BudgetScope(const BudgetScope&) = delete;
  BudgetScope& operator=(const BudgetScope&) = delete;

  // Whether a rendering in this scope has failed for want of steps or bytes, as every further one will.
  bool is_spent() const;

 private:
  Budget own_;
  bool is_outermost_;
};

// More for a rendering of so many messages, of so many bytes altogether. What templates do with a conversation takes
// time in proportion to that, and some look from every message at all others.
void allow_rendering(size_t messages, size_t bytes);

// All throw Failure when the budget is used up.
void pay_bytes(size_t bytes);
void pay_steps(size_t steps);
inline void pay_step() { pay_steps(1); }
// For bytes that are compared, searched or counted, and for characters that are looked at one by one.
inline void pay_scan(size_t bytes) { pay_steps(bytes / 256); }
inline void pay_characters(size_t characters) { pay_steps(characters / 4); }

// Counts a level of recursion; throws Failure on too many, or on too much of the stack.
class Level {
 public:
  Level();
  ~Level();
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;
};

}  // namespace moraine::jinja
