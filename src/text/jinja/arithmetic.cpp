// What Python's operators give.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja/big_integer.h"
#include "text/jinja/evaluator.h"

namespace moraine::jinja {
namespace {

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

}  // namespace

Value repeated(const Value& what, int64_t times) {
  const size_t size = what.is_string() ? what.text().size() : what.items().size();
  if (times <= 0 || size == 0) return what.is_string() ? Value::string("") : Value::list({}, what.kind);
  const size_t unit = what.is_string() ? 1 : sizeof(Value);
  size_t total = 0;
  if (__builtin_mul_overflow(size * unit, static_cast<size_t>(times), &total)) total = SIZE_MAX;
  if (what.is_string() && total > kMaxString) throw Failure("makes too long a text");
  pay_bytes(total);
  if (!what.is_string()) {
    std::vector<Value> items;
    items.reserve(size * static_cast<size_t>(times));
    for (int64_t i = 0; i < times; ++i) items.insert(items.end(), what.items().begin(), what.items().end());
    return Value::list(std::move(items), what.kind);
  }
  StrBuilder out;
  if (what.str().runs.empty()) {
    std::string text = size == 1 ? std::string(total, what.text()[0]) : "";
    text.reserve(total);
    while (text.size() < total) text += what.text();
    out.append(text, what.origin);
    return out.finish();
  }
  for (int64_t i = 0; i < times; ++i) {
    pay_steps(what.str().runs.size());
    out.append(what);
  }
  return out.finish();
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

}  // namespace moraine::jinja
