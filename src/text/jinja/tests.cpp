// Jinja's tests: what stands behind "is".
#include <fmt/format.h>

#include <cmath>

#include "text/jinja/big_integer.h"
#include "text/jinja/functions.h"

namespace moraine::jinja {
namespace {

const Value& other_of(const Arguments& args) {
  if (args.values.empty()) throw Failure("the test needs another value");
  return args.values[0];
}

using Tested = const Value&;
using Given = const Arguments&;

bool is_defined(Tested value, Given) { return !value.is_undefined(); }
bool is_undefined(Tested value, Given) { return value.is_undefined(); }
bool is_none(Tested value, Given) { return value.is(Kind::kNone); }
bool is_boolean(Tested value, Given) { return value.is(Kind::kBoolean); }
bool is_really_true(Tested value, Given) { return value.is(Kind::kBoolean) && value.truth; }
bool is_really_false(Tested value, Given) { return value.is(Kind::kBoolean) && !value.truth; }
bool is_integer(Tested value, Given) { return value.is(Kind::kInteger) || value.is(Kind::kBigInteger); }
bool is_float(Tested value, Given) { return value.is(Kind::kFloat); }
bool is_number(Tested value, Given) { return value.is_number() || value.is(Kind::kBigInteger); }
bool is_string(Tested value, Given) { return value.is_string(); }
bool is_mapping(Tested value, Given) { return value.is(Kind::kDict); }
// Undefined has a length and items as far as Python can see.
bool is_sequence(Tested value, Given) {
  return value.is_string() || value.is_sequence() || value.is(Kind::kDict) || value.is_undefined();
}
bool is_iterable(Tested value, Given args) {
  return is_sequence(value, args) || value.is(Kind::kGenerator) || value.is(Kind::kLoop);
}
bool is_callable(Tested value, Given) {
  return value.is(Kind::kMethod) || value.is(Kind::kGlobal) || value.is(Kind::kMacro) || value.is(Kind::kLoop) ||
         (value.is(Kind::kHelper) && static_cast<const Helper&>(*value.object).is_joiner) || value.is_undefined();
}
bool is_same(Tested value, Given args) {
  const Value& other = other_of(args);
  if (value.kind != other.kind) return false;
  switch (value.kind) {
    case Kind::kNone:
      return true;
    case Kind::kBoolean:
    case Kind::kInteger:
      return value.integer() == other.integer();
    case Kind::kString:
      return value.text() == other.text();
    default:
      return value.object != nullptr && value.object == other.object;
  }
}
bool is_equal(Tested value, Given args) { return are_equal(value, other_of(args)); }
bool is_not_equal(Tested value, Given args) { return !are_equal(value, other_of(args)); }
bool is_less(Tested value, Given args) { return compare(value, other_of(args)) < 0; }
bool is_less_or_equal(Tested value, Given args) { return compare(value, other_of(args)) <= 0; }
bool is_greater(Tested value, Given args) { return compare(value, other_of(args)) > 0; }
bool is_greater_or_equal(Tested value, Given args) { return compare(value, other_of(args)) >= 0; }
bool is_in(Tested value, Given args) {
  if (other_of(args).is(Kind::kNone)) throw Failure("nothing can be in None");
  return contains(other_of(args), value);
}

int64_t whole(const Value& value) {
  if (!value.is_integer()) throw Failure(fmt::format("the test needs an int, not {}", type_name(value)));
  return value.integer();
}
// Python's value % by, where one of them is a float.
double float_remainder(Tested value, double by) {
  const double number = value.is(Kind::kFloat) ? value.number_value : static_cast<double>(whole(value));
  if (by == 0) throw Failure("division by zero");
  const double rest = std::fmod(number, by);
  return rest != 0 && (rest < 0) != (by < 0) ? rest + by : rest;
}
bool is_odd(Tested value, Given) {
  if (value.is(Kind::kBigInteger)) return BigInteger::of(value).is_odd();
  return value.is(Kind::kFloat) ? float_remainder(value, 2) == 1 : whole(value) % 2 != 0;
}
bool is_even(Tested value, Given) {
  if (value.is(Kind::kBigInteger)) return !BigInteger::of(value).is_odd();
  return value.is(Kind::kFloat) ? float_remainder(value, 2) == 0 : whole(value) % 2 == 0;
}
bool is_divisible(Tested value, Given args) {
  const Value& divisor = other_of(args);
  if (is_whole(value) && is_whole(divisor) && (value.is(Kind::kBigInteger) || divisor.is(Kind::kBigInteger))) {
    BigInteger quotient, rest;
    floor_divide(BigInteger::of(value), BigInteger::of(divisor), quotient, rest);
    return rest.is_zero();
  }
  if (divisor.is(Kind::kFloat)) return float_remainder(value, divisor.number_value) == 0;
  const int64_t by = whole(divisor);
  if (value.is(Kind::kFloat)) return float_remainder(value, static_cast<double>(by)) == 0;
  if (by == 0) throw Failure("division by zero");
  return by == -1 || whole(value) % by == 0;
}
bool is_filter(Tested value, Given) { return value.is_string() && find_filter(value.text()) >= 0; }
bool is_test(Tested value, Given) { return value.is_string() && find_test(value.text()) >= 0; }
bool is_escaped(Tested value, Given) { return value.is_string() && value.str().is_markup; }

bool has_case(const Value& value, const char* method) {
  struct NoCaller : Caller {
    Origin template_origin() const override { return kNoOrigin; }
  };
  Method call;
  call.self = to_str(value);
  call.name = method;
  return is_true(call_method(call, {}, NoCaller{}));
}
bool is_lower_text(Tested value, Given) { return has_case(value, "islower"); }
bool is_upper_text(Tested value, Given) { return has_case(value, "isupper"); }

struct Test {
  std::string_view name;
  bool (*holds)(const Value& value, const Arguments& args);
};

constexpr Test kTests[] = {
    {"defined", is_defined},
    {"undefined", is_undefined},
    {"none", is_none},
    {"boolean", is_boolean},
    {"true", is_really_true},
    {"false", is_really_false},
    {"integer", is_integer},
    {"float", is_float},
    {"number", is_number},
    {"string", is_string},
    {"mapping", is_mapping},
    {"sequence", is_sequence},
    {"iterable", is_iterable},
    {"callable", is_callable},
    {"sameas", is_same},
    {"eq", is_equal},
    {"equalto", is_equal},
    {"==", is_equal},
    {"ne", is_not_equal},
    {"!=", is_not_equal},
    {"lt", is_less},
    {"lessthan", is_less},
    {"<", is_less},
    {"le", is_less_or_equal},
    {"<=", is_less_or_equal},
    {"gt", is_greater},
    {"greaterthan", is_greater},
    {">", is_greater},
    {"ge", is_greater_or_equal},
    {">=", is_greater_or_equal},
    {"in", is_in},
    {"odd", is_odd},
    {"even", is_even},
    {"divisibleby", is_divisible},
    {"filter", is_filter},
    {"test", is_test},
    {"escaped", is_escaped},
    {"lower", is_lower_text},
    {"upper", is_upper_text},
};

}  // namespace

int find_test(std::string_view name) {
  for (size_t i = 0; i < std::size(kTests); ++i) {
    if (kTests[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

bool apply_test(int test, const Value& value, const Arguments& arguments) {
  pay_step();
  return kTests[test].holds(value, arguments);
}

}  // namespace moraine::jinja
