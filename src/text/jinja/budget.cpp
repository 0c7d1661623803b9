#include "text/jinja/budget.h"

namespace moraine::jinja {
namespace {

constexpr int kMaxLevels = 1500;
// Frames are several times as large under sanitisers, and threads' stacks may be 2 MiB small.
constexpr ptrdiff_t kMaxStack = 3 << 19;

thread_local Budget* budget = nullptr;

[[noreturn]] void fail_spent(const char* what) {
  budget->is_spent = true;
  throw Failure(what);
}

}  // namespace

BudgetScope::BudgetScope(Budget own) : own_(own), is_outermost_(budget == nullptr) {
  if (!is_outermost_) return;
  own_.stack = static_cast<const char*>(__builtin_frame_address(0));
  budget = &own_;
}
BudgetScope::~BudgetScope() {
  if (is_outermost_) budget = nullptr;
}
bool BudgetScope::is_spent() const { return budget->is_spent; }

void allow_rendering(size_t messages, size_t bytes) {
  if (budget == nullptr || budget->is_spent) return;
  budget->steps += static_cast<int64_t>(300 * messages + 6 * messages * messages + 2 * bytes);
  budget->bytes += static_cast<int64_t>(64 * bytes + 65536 * messages + 100 * messages * messages);
}

void pay_bytes(size_t bytes) {
  if (budget == nullptr) return;
  if (budget->is_spent || bytes > static_cast<size_t>(budget->bytes)) fail_spent("makes too much text");
  budget->bytes -= static_cast<int64_t>(bytes);
}

void pay_steps(size_t steps) {
  if (budget == nullptr) return;
  if (budget->is_spent || steps > static_cast<size_t>(budget->steps)) fail_spent("takes too many steps");
  budget->steps -= static_cast<int64_t>(steps);
}

Level::Level() {
  if (budget == nullptr) return;
  const ptrdiff_t stack = budget->stack - static_cast<const char*>(__builtin_frame_address(0));
  if (++budget->depth > kMaxLevels || stack > kMaxStack) {
    --budget->depth;
    throw Failure("recursion too deep");
  }
}
Level::~Level() {
  if (budget != nullptr) --budget->depth;
}

}  // namespace moraine::jinja
