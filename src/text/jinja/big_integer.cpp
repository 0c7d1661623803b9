#include "text/jinja/big_integer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace moraine::jinja {
namespace {

constexpr uint32_t kBase = 1'000'000'000;
constexpr size_t kDigitsPerLimb = 9, kMaxLimbs = 2'222;

void check_limbs(size_t count) {
  if (count > kMaxLimbs) throw Failure("the result is too large");
  pay_steps(count / 2);
  pay_bytes(count * sizeof(uint32_t));
}

}  // namespace

BigInteger::BigInteger(int64_t value) : negative_(value < 0) {
  for (uint64_t rest = negative_ ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value); rest > 0;
       rest /= kBase)
    limbs_.push_back(static_cast<uint32_t>(rest % kBase));
}

BigInteger BigInteger::from_digits(std::string_view digits) {
  BigInteger made;
  if (digits.starts_with('-') || digits.starts_with('+')) {
    made.negative_ = digits.front() == '-';
    digits.remove_prefix(1);
  }
  check_limbs(digits.size() / kDigitsPerLimb);
  while (!digits.empty()) {
    const size_t count = std::min(digits.size(), kDigitsPerLimb);
    uint32_t limb = 0;
    for (const char c : digits.substr(digits.size() - count)) limb = limb * 10 + static_cast<uint32_t>(c - '0');
    made.limbs_.push_back(limb);
    digits.remove_suffix(count);
  }
  made.trim();
  return made;
}

BigInteger BigInteger::from_float(double value) { return from_digits(fmt::format("{:.0f}", std::trunc(value))); }

BigInteger BigInteger::of(const Value& value) {
  return value.is(Kind::kBigInteger) ? from_digits(value.text()) : BigInteger(value.integer());
}

std::string BigInteger::digits() const {
  if (limbs_.empty()) return "0";
  std::string text = negative_ ? "-" : "";
  text += std::to_string(limbs_.back());
  for (size_t i = limbs_.size() - 1; i-- > 0;) text += fmt::format("{:09}", limbs_[i]);
  return text;
}

Value BigInteger::value() const {
  if (limbs_.size() <= 3) {
    const std::string text = digits();
    errno = 0;
    const int64_t number = std::strtoll(text.c_str(), nullptr, 10);
    if (errno != ERANGE) return Value::integer(number);
  }
  return Value::big_integer(digits());
}

double BigInteger::to_float() const {
  const double number = std::strtod(digits().c_str(), nullptr);
  if (std::isinf(number)) throw Failure("an int too large for a float");
  return number;
}

void BigInteger::trim() {
  while (!limbs_.empty() && limbs_.back() == 0) limbs_.pop_back();
  if (limbs_.empty()) negative_ = false;
}

int BigInteger::compare_size(const BigInteger& a, const BigInteger& b) {
  if (a.limbs_.size() != b.limbs_.size()) return a.limbs_.size() < b.limbs_.size() ? -1 : 1;
  for (size_t i = a.limbs_.size(); i-- > 0;) {
    if (a.limbs_[i] != b.limbs_[i]) return a.limbs_[i] < b.limbs_[i] ? -1 : 1;
  }
  return 0;
}

int compare(const BigInteger& a, const BigInteger& b) {
  if (a.negative_ != b.negative_) return a.negative_ ? -1 : 1;
  return a.negative_ ? -BigInteger::compare_size(a, b) : BigInteger::compare_size(a, b);
}

std::vector<uint32_t> BigInteger::sum_of_sizes(const BigInteger& a, const BigInteger& b) {
  const size_t count = std::max(a.limbs_.size(), b.limbs_.size()) + 1;
  check_limbs(count);
  std::vector<uint32_t> sum(count, 0);
  uint32_t carry = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t limb = carry + (i < a.limbs_.size() ? a.limbs_[i] : 0) + (i < b.limbs_.size() ? b.limbs_[i] : 0);
    sum[i] = limb % kBase;
    carry = limb / kBase;
  }
  return sum;
}

std::vector<uint32_t> BigInteger::difference_of_sizes(const BigInteger& larger, const BigInteger& smaller) {
  std::vector<uint32_t> difference = larger.limbs_;
  check_limbs(difference.size());
  int64_t borrow = 0;
  for (size_t i = 0; i < difference.size(); ++i) {
    int64_t limb = int64_t{difference[i]} - borrow - (i < smaller.limbs_.size() ? smaller.limbs_[i] : 0);
    borrow = limb < 0;
    if (limb < 0) limb += kBase;
    difference[i] = static_cast<uint32_t>(limb);
  }
  return difference;
}

BigInteger operator-(BigInteger a) {
  a.negative_ = !a.negative_ && !a.limbs_.empty();
  return a;
}

BigInteger operator+(const BigInteger& a, const BigInteger& b) {
  BigInteger sum;
  if (a.negative_ == b.negative_) {
    sum.limbs_ = BigInteger::sum_of_sizes(a, b);
    sum.negative_ = a.negative_;
  } else {
    const bool a_is_larger = BigInteger::compare_size(a, b) >= 0;
    sum.limbs_ = a_is_larger ? BigInteger::difference_of_sizes(a, b) : BigInteger::difference_of_sizes(b, a);
    sum.negative_ = a_is_larger ? a.negative_ : b.negative_;
  }
  sum.trim();
  return sum;
}

BigInteger operator*(const BigInteger& a, const BigInteger& b) {
  BigInteger product;
  check_limbs(a.limbs_.size() + b.limbs_.size());
  product.limbs_.assign(a.limbs_.size() + b.limbs_.size(), 0);
  for (size_t i = 0; i < a.limbs_.size(); ++i) {
    pay_steps(b.limbs_.size() / 16);
    uint64_t carry = 0;
    for (size_t j = 0; j < b.limbs_.size() || carry > 0; ++j) {
      const uint64_t limb =
          product.limbs_[i + j] + carry + (j < b.limbs_.size() ? uint64_t{a.limbs_[i]} * b.limbs_[j] : 0);
      product.limbs_[i + j] = static_cast<uint32_t>(limb % kBase);
      carry = limb / kBase;
    }
  }
  product.negative_ = a.negative_ != b.negative_;
  product.trim();
  return product;
}

// The value of the first limbs in units of limb `count - 3`, where three limbs of a number of `count` limbs begin.
long double BigInteger::leading(const BigInteger& number, size_t count) {
  long double value = 0;
  for (size_t i = number.limbs_.size(); i-- > (count > 3 ? count - 3 : 0);) value = value * kBase + number.limbs_[i];
  return value;
}

void floor_divide(const BigInteger& a, const BigInteger& b, BigInteger& quotient, BigInteger& rest) {
  if (b.is_zero()) throw Failure("division by zero");
  BigInteger divisor = b, left;
  divisor.negative_ = false;
  std::vector<uint32_t> limbs(a.limbs_.size(), 0);
  for (size_t i = a.limbs_.size(); i-- > 0;) {
    pay_step();
    left.limbs_.insert(left.limbs_.begin(), a.limbs_[i]);
    left.trim();
    // By the leading digits, of which a long double holds so many that no more than the last digit can be wrong.
    const long double estimate =
        BigInteger::leading(left, divisor.limbs_.size()) / BigInteger::leading(divisor, divisor.limbs_.size());
    auto limb = static_cast<uint32_t>(std::min(estimate, static_cast<long double>(kBase - 1)));
    left = left + -(BigInteger(limb) * divisor);
    for (; left.negative_; --limb) left = left + divisor;
    for (; BigInteger::compare_size(left, divisor) >= 0; ++limb) left = left + -divisor;
    limbs[i] = limb;
  }
  quotient = BigInteger();
  quotient.limbs_ = std::move(limbs);
  quotient.negative_ = a.negative_ != b.negative_;
  quotient.trim();
  left.negative_ = a.negative_;
  left.trim();
  if (!left.is_zero() && a.negative_ != b.negative_) {
    quotient = quotient + BigInteger(-1);
    left = left + b;
  }
  rest = std::move(left);
}

double true_divide(const BigInteger& a, const BigInteger& b) {
  if (b.is_zero()) throw Failure("division by zero");
  // As many digits as decide the rounding, and one more for what is behind them.
  constexpr size_t kDigits = 45;
  const size_t more = b.limbs_.size() * kDigitsPerLimb + kDigits;
  const BigInteger scaled = BigInteger::from_digits(a.digits() + std::string(more, '0'));
  BigInteger size = scaled, divisor = b, quotient, rest;
  size.negative_ = divisor.negative_ = false;
  floor_divide(size, divisor, quotient, rest);
  const bool is_negative = a.negative_ != b.negative_;
  const std::string text =
      fmt::format("{}{}{}e-{}", is_negative ? "-" : "", quotient.digits(), rest.is_zero() ? 0 : 1, more + 1);
  const double number = std::strtod(text.c_str(), nullptr);
  if (std::isinf(number)) throw Failure("the result is too large for a float");
  return number;
}

BigInteger power(const BigInteger& base, int64_t exponent) {
  BigInteger result(1), square = base;
  const bool stays = base.is_zero() || compare(base, 1) == 0 || compare(base, -1) == 0;
  if (stays) exponent = exponent == 0 ? 0 : base.is_negative() ? 2 - (exponent & 1) : 1;
  for (int64_t rest = exponent; rest > 0; rest >>= 1) {
    pay_step();
    if ((rest & 1) != 0) result = result * square;
    if (rest > 1) square = square * square;
  }
  return result;
}

double as_number(const Value& value) {
  return value.is(Kind::kBigInteger) ? BigInteger::of(value).to_float() : value.number();
}

int compare_numbers(const Value& a, const Value& b) {
  if (b.is(Kind::kFloat)) {
    const double number = b.number_value;
    if (std::isnan(number)) return -1;
    const BigInteger big = BigInteger::of(a);
    if (std::isinf(number)) return number > 0 ? -1 : 1;
    if (const int order = compare(big, BigInteger::from_float(number)); order != 0) return order;
    const double behind = number - std::trunc(number);
    return behind > 0 ? -1 : behind < 0 ? 1 : 0;
  }
  if (a.is(Kind::kFloat)) return std::isnan(a.number_value) ? 1 : -compare_numbers(b, a);
  return compare(BigInteger::of(a), BigInteger::of(b));
}

}  // namespace moraine::jinja
