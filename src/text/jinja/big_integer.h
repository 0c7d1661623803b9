// Integers of any size, as Python has them: what 64 bits do not hold.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace moraine::jinja {

// Sign and magnitude. Nothing has more than about 20,000 digits: more throws Failure.
class BigInteger {
 public:
  BigInteger(int64_t value = 0);
  // Digits in decimal, with "-" or "+" in front or without.
  static BigInteger from_digits(std::string_view digits);
  // A finite float's whole part.
  static BigInteger from_float(double value);
  // Of kBoolean, kInteger and kBigInteger.
  static BigInteger of(const Value& value);

  std::string digits() const;
  // kInteger where that holds it, else kBigInteger.
  Value value() const;
  // Throws Failure where no float is as large.
  double to_float() const;
  bool is_zero() const { return limbs_.empty(); }
  bool is_odd() const { return !limbs_.empty() && (limbs_[0] & 1) != 0; }
  bool is_negative() const { return negative_; }

  friend int compare(const BigInteger& a, const BigInteger& b);
  friend BigInteger operator-(BigInteger a);
  friend BigInteger operator+(const BigInteger& a, const BigInteger& b);
  friend BigInteger operator*(const BigInteger& a, const BigInteger& b);
  // Python's a // b and a % b; throw Failure on a divisor of 0.
  friend void floor_divide(const BigInteger& a, const BigInteger& b, BigInteger& quotient, BigInteger& rest);
  // Python's a / b.
  friend double true_divide(const BigInteger& a, const BigInteger& b);

 private:
  static int compare_size(const BigInteger& a, const BigInteger& b);
  static long double leading(const BigInteger& number, size_t count);
  static std::vector<uint32_t> sum_of_sizes(const BigInteger& a, const BigInteger& b);
  static std::vector<uint32_t> difference_of_sizes(const BigInteger& larger, const BigInteger& smaller);
  void trim();

  bool negative_ = false;
  std::vector<uint32_t> limbs_;  // base 10⁹, the lowest first
};

// base ** exponent, exponent being 0 or more.
BigInteger power(const BigInteger& base, int64_t exponent);

// Whether a value is a whole number of any size.
inline bool is_whole(const Value& value) { return value.is_integer() || value.is(Kind::kBigInteger); }
// A number of any size as a float; throws Failure where no float is as large.
double as_number(const Value& value);
// < 0, 0, > 0 of numbers of which one is a kBigInteger, exactly; NaN compares as larger.
int compare_numbers(const Value& a, const Value& b);

}  // namespace moraine::jinja
