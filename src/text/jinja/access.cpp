// Attributes, items and slices.
#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/functions.h"
#include "text/jinja/python_text.h"
#include "text/tokenizer/unicode.h"

namespace moraine::jinja {
namespace {

[[noreturn]] void fail_undefined(const Value& value) { throw Failure(fmt::format("{} is used", type_name(value))); }

}  // namespace

Value helper_attribute(const Value& value, std::string_view name) {
  const auto& helper = static_cast<const Helper&>(*value.object);
  if (helper.is_joiner) {
    if (name == "sep") return helper.separator;
    return name == "used" ? Value::boolean(helper.calls > 0) : Value::undefined(name);
  }
  if (name == "current") return helper.items[helper.calls];
  if (name == "pos") return Value::integer(static_cast<int64_t>(helper.calls));
  if (name == "items") return Value::list(helper.items, Kind::kTuple);
  return name == "next" || name == "reset" ? bound_method(value, name) : Value::undefined(name);
}

namespace {

// grouper and list of a Group; nullptr for everything else.
const Value* group_member(const Value& value, std::string_view name) {
  if (!value.is(Kind::kTuple) || dynamic_cast<const Group*>(value.object.get()) == nullptr) return nullptr;
  return name == "grouper" ? &value.items()[0] : name == "list" ? &value.items()[1] : nullptr;
}

}  // namespace

Value get_attribute(const Value& value, std::string_view name) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is(Kind::kHelper)) return helper_attribute(value, name);
  if (const Value* member = group_member(value, name)) return *member;
  if (has_method(value, name)) return bound_method(value, name);
  if (value.is(Kind::kDict) || value.is(Kind::kNamespace)) {
    if (const Value* found = value.dict().find(name)) return *found;
  }
  return Value::undefined(name);
}

Value get_item(const Value& value, const Value& key) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is(Kind::kDict)) {
    if (!key.is(Kind::kList) && !key.is(Kind::kDict)) {
      if (const Value* found = value.dict().find(key)) return *found;
    }
  } else if (key.is_integer() && value.is_sequence()) {
    const std::vector<Value>& items = value.items();
    int64_t at = key.integer();
    if (at < 0) at += static_cast<int64_t>(items.size());
    if (at >= 0 && at < static_cast<int64_t>(items.size())) return items[static_cast<size_t>(at)];
  } else if (key.is_integer() && value.is_string()) {
    const auto length = static_cast<int64_t>(length_of(value.text()));
    int64_t at = key.integer();
    if (at < 0) at += length;
    if (at >= 0 && at < length) {
      const size_t begin = byte_of(value.text(), static_cast<size_t>(at));
      size_t end = begin;
      next_code_point(value.text(), end);
      return slice_of(value, begin, end);
    }
  }
  if (key.is_string()) {
    if (value.is(Kind::kNamespace) || value.is(Kind::kHelper)) return get_attribute(value, key.text());
    if (const Value* member = group_member(value, key.text())) return *member;
    if (has_method(value, key.text())) return bound_method(value, key.text());
    return Value::undefined(key.text());
  }
  return Value::undefined("item");
}

Value get_slice(const Value& value, const Value& start, const Value& stop, const Value& step_value) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_string() && !value.is_sequence()) throw Failure(fmt::format("a {} has no slices", type_name(value)));
  const auto is_given = [](const Value& one) { return !one.is(Kind::kNone); };
  for (const Value* one : {&start, &stop, &step_value}) {
    if (is_given(*one) && !one->is_integer()) throw Failure("a slice needs ints");
  }
  const int64_t step = is_given(step_value) ? step_value.integer() : 1;
  if (step == 0) throw Failure("a slice with step 0");
  const std::string* text = value.is_string() ? &value.text() : nullptr;
  const auto length = static_cast<int64_t>(text != nullptr ? length_of(*text) : value.items().size());
  const auto clamp = [&](const Value& one, int64_t otherwise) {
    if (!is_given(one)) return otherwise;
    int64_t at = one.integer();
    if (at < 0) at = std::max<int64_t>(at + length, step < 0 ? -1 : 0);
    return std::min(at, step < 0 ? length - 1 : length);
  };
  const int64_t first = clamp(start, step < 0 ? length - 1 : 0), last = clamp(stop, step < 0 ? -1 : length);
  if (text != nullptr && step == 1) {
    if (first >= last) return slice_of(value, 0, 0);
    return slice_of(value, byte_of(*text, static_cast<size_t>(first)), byte_of(*text, static_cast<size_t>(last)));
  }
  std::vector<Value> from = iterate(value), items;
  // No step is longer than what there is.
  const int64_t stride = std::clamp<int64_t>(step, -length - 1, length + 1);
  for (int64_t at = first; stride > 0 ? at < last : at > last; at += stride)
    items.push_back(from[static_cast<size_t>(at)]);
  if (text == nullptr) return Value::list(std::move(items), value.kind);
  StrBuilder out;
  for (const Value& item : items) out.append(item);
  return out.finish();
}

}  // namespace moraine::jinja
