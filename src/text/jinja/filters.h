// What the filters share.
#pragma once

#include <fmt/format.h>

#include <span>
#include <string>
#include <string_view>

#include "text/jinja/functions.h"

namespace moraine::jinja {

using Args = Arguments;

struct Filter {
  std::string_view name;
  Value (*apply)(const Value& value, const Args& args, const Caller& caller);
};

// The filters of lists and dicts; filters.cpp has those of texts and numbers.
std::span<const Filter> list_filters();

inline Value method_of(const Value& self, std::string name, Args args, const Caller& caller) {
  Method method;
  method.self = self;
  method.name = std::move(name);
  return call_method(method, args, caller);
}

inline const Value& first_argument(const Args& args, std::string_view name, std::string_view filter) {
  const Value* value = args.find(0, name);
  if (value == nullptr) throw Failure(fmt::format("{} needs another argument", filter));
  return *value;
}

inline int64_t integer_argument(const Args& args, size_t index, std::string_view name, int64_t otherwise) {
  const Value value = args.get(index, name, Value::integer(otherwise));
  if (!value.is_integer()) throw Failure(fmt::format("'{}' must be an int, not {}", name, type_name(value)));
  return value.integer();
}

inline bool flag(const Args& args, size_t index, std::string_view name, bool otherwise) {
  return is_true(args.get(index, name, Value::boolean(otherwise)));
}

}  // namespace moraine::jinja
