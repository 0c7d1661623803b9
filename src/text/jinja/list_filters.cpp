// Jinja's filters of lists and dicts.
#include <fmt/format.h>

#include <algorithm>

#include "text/jinja/filters.h"
#include "text/jinja/python_text.h"

namespace moraine::jinja {
namespace {

// "a.b.0" of a value. What is undefined on the way is `otherwise`, unless that is None.
Value at_path(const Value& value, const Value& path, const Value& otherwise = Value::none()) {
  const auto found_or = [&](Value found) {
    return found.is_undefined() && !otherwise.is(Kind::kNone) ? otherwise : found;
  };
  if (path.is_integer()) return found_or(get_item(value, path));
  if (!path.is_string()) throw Failure(fmt::format("an attribute must be a str, not {}", type_name(path)));
  Value found = value;
  const std::string& text = path.text();
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('.', at), text.size());
    const std::string part = text.substr(at, end - at);
    const bool is_number = !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == part.npos;
    found = found_or(get_item(found, is_number ? Value::integer(std::stoll(part)) : Value::string(part)));
    at = end + 1;
  }
  return found;
}

Value join(const Value& value, const Args& args, const Caller&) {
  args.check("join", 2, {"d", "attribute"});
  const Value separator = to_str(args.get(0, "d", Value::string("")));
  const Value* attribute = args.find(1, "attribute");
  StrBuilder out;
  bool is_first = true;
  for (const Value& item : iterate(value)) {
    if (!is_first) out.append(separator);
    is_first = false;
    out.append_printed(attribute != nullptr && !attribute->is(Kind::kNone) ? at_path(item, *attribute) : item);
  }
  return out.finish();
}

Value first(const Value& value, const Args& args, const Caller&) {
  args.check("first", 0, {});
  const std::vector<Value> items = iterate(value);
  return items.empty() ? Value::undefined("first") : items.front();
}

Value last(const Value& value, const Args& args, const Caller&) {
  args.check("last", 0, {});
  if (value.is(Kind::kGenerator) && value.view().empty()) throw Failure("a generator has no last item");
  const std::vector<Value> items = iterate(value);
  return items.empty() ? Value::undefined("last") : items.back();
}

Value list(const Value& value, const Args& args, const Caller&) {
  args.check("list", 0, {});
  return Value::list(iterate(value));
}

Value items(const Value& value, const Args& args, const Caller&) {
  args.check("items", 0, {});
  std::vector<Value> pairs;
  if (!value.is_undefined()) {
    if (!value.is(Kind::kDict)) throw Failure(fmt::format("items needs a dict, not {}", type_name(value)));
    for (const auto& [key, item] : value.dict().items) pairs.push_back(Value::list({key, item}, Kind::kTuple));
  }
  return Value::generator(std::move(pairs));
}

Value folded(const Value& value, const Caller& caller) {
  return value.is_string() ? method_of(value, "lower", {}, caller) : value;
}

// What items are sorted by: an attribute (or several after each other), letters of both cases alike.
class SortKey {
 public:
  SortKey(const Args& args, size_t index, bool case_sensitive, const Caller& caller)
      : case_sensitive_(case_sensitive), caller_(caller) {
    const Value* attribute = args.find(index, "attribute");
    if (attribute == nullptr || attribute->is(Kind::kNone)) return;
    if (!attribute->is_string()) {
      paths_.push_back(*attribute);
      return;
    }
    const std::string& text = attribute->text();
    for (size_t at = 0; at <= text.size();) {
      const size_t end = std::min(text.find(',', at), text.size());
      paths_.push_back(Value::string(text.substr(at, end - at)));
      at = end + 1;
    }
  }

  Value of(const Value& item) const {
    if (paths_.empty()) return fold(item);
    std::vector<Value> keys;
    for (const Value& path : paths_) keys.push_back(fold(at_path(item, path)));
    return Value::list(std::move(keys));
  }

 private:
  Value fold(const Value& value) const { return case_sensitive_ ? value : folded(value, caller_); }

  std::vector<Value> paths_;
  bool case_sensitive_;
  const Caller& caller_;
};

// A stable sort that never trusts the order of values which have none.
void sort_values(std::vector<std::pair<Value, Value>>& keyed, bool reverse) {
  for (size_t i = 1; i < keyed.size(); ++i) compare(keyed[i - 1].first, keyed[i].first);  // throws as Python does
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    pay_step();
    return reverse ? compare(a.first, b.first) > 0 : compare(a.first, b.first) < 0;
  });
}

Value sort(const Value& value, const Args& args, const Caller& caller) {
  args.check("sort", 3, {"reverse", "case_sensitive", "attribute"});
  const SortKey key(args, 2, flag(args, 1, "case_sensitive", false), caller);
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : iterate(value)) keyed.emplace_back(key.of(item), item);
  sort_values(keyed, flag(args, 0, "reverse", false));
  std::vector<Value> sorted;
  for (auto& [unused, item] : keyed) sorted.push_back(std::move(item));
  return Value::list(std::move(sorted));
}

Value dictsort(const Value& value, const Args& args, const Caller& caller) {
  args.check("dictsort", 3, {"case_sensitive", "by", "reverse"});
  const std::string by = to_str(args.get(1, "by", Value::string("key"))).text();
  if (by != "key" && by != "value") throw Failure("dictsort sorts by 'key' or 'value'");
  if (!value.is(Kind::kDict)) throw Failure(fmt::format("dictsort needs a dict, not {}", type_name(value)));
  const bool case_sensitive = flag(args, 0, "case_sensitive", false);
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, item] : value.dict().items) {
    const Value& of = by == "key" ? key : item;
    keyed.emplace_back(case_sensitive ? of : folded(of, caller), Value::list({key, item}, Kind::kTuple));
  }
  sort_values(keyed, flag(args, 2, "reverse", false));
  std::vector<Value> sorted;
  for (auto& [unused, item] : keyed) sorted.push_back(std::move(item));
  return Value::list(std::move(sorted));
}

// Sorted by an attribute, items of the same one together: pairs of it, as the first item has it, and the items.
Value groupby(const Value& value, const Args& args, const Caller& caller) {
  args.check("groupby", 3, {"attribute", "default", "case_sensitive"});
  const Value& path = first_argument(args, "attribute", "groupby");
  const Value otherwise = args.get(1, "default", Value::none());
  const bool case_sensitive = flag(args, 2, "case_sensitive", false);
  std::vector<std::pair<Value, Value>> keyed;  // by the attribute: it and the item
  const auto key_of = [&](const Value& item) { return at_path(item, path, otherwise); };
  for (const Value& item : iterate(value)) {
    const Value key = key_of(item);
    keyed.emplace_back(case_sensitive ? key : folded(key, caller), item);
  }
  if (keyed.size() > 1) {
    for (const auto& [key, item] : keyed) {
      if (key.is_undefined()) throw Failure(fmt::format("{} is used", type_name(key)));
    }
  }
  sort_values(keyed, false);
  std::vector<Value> groups;
  for (size_t i = 0; i < keyed.size();) {
    size_t end = i;
    std::vector<Value> items;
    for (; end < keyed.size() && are_equal(keyed[end].first, keyed[i].first); ++end) items.push_back(keyed[end].second);
    Value pair = Value::list({key_of(keyed[i].second), Value::list(std::move(items))}, Kind::kTuple);
    auto group = std::make_shared<Group>();
    static_cast<List&>(*group) = static_cast<const List&>(*pair.object);
    pair.object = std::move(group);
    groups.push_back(std::move(pair));
    i = end;
  }
  return Value::list(std::move(groups));
}

// Whether Python's set takes it: lists and dicts have no hash, and no tuple that holds one.
bool has_hash(const Value& value) {
  if (!value.is(Kind::kTuple)) return !value.is(Kind::kList) && !value.is(Kind::kDict);
  const std::vector<Value>& items = value.items();
  return std::all_of(items.begin(), items.end(), has_hash);
}

Value unique(const Value& value, const Args& args, const Caller& caller) {
  args.check("unique", 2, {"case_sensitive", "attribute"});
  const SortKey key(args, 1, flag(args, 0, "case_sensitive", false), caller);
  std::vector<Value> seen, kept;
  for (const Value& item : iterate(value)) {
    Value one = key.of(item);
    if (!has_hash(one)) throw Failure(fmt::format("unique needs items that have a hash, not a {}", type_name(one)));
    pay_steps(seen.size() / 4);
    if (std::any_of(seen.begin(), seen.end(), [&](const Value& other) { return are_equal(one, other); })) continue;
    seen.push_back(std::move(one));
    kept.push_back(item);
  }
  return Value::generator(std::move(kept));
}

// The largest or smallest.
Value extreme(const Value& value, const Args& args, const Caller& caller, int sign) {
  args.check("min or max", 2, {"case_sensitive", "attribute"});
  const SortKey key(args, 1, flag(args, 0, "case_sensitive", false), caller);
  Value best = Value::undefined("item"), best_key;
  bool is_first = true;
  for (const Value& item : iterate(value)) {
    Value one = key.of(item);
    if (!is_first && compare(one, best_key) * sign <= 0) continue;
    best = item;
    best_key = std::move(one);
    is_first = false;
  }
  return best;
}
Value min(const Value& value, const Args& args, const Caller& caller) { return extreme(value, args, caller, -1); }
Value max(const Value& value, const Args& args, const Caller& caller) { return extreme(value, args, caller, 1); }

Value sum(const Value& value, const Args& args, const Caller&) {
  args.check("sum", 2, {"attribute", "start"});
  const Value* attribute = args.find(0, "attribute");
  Value total = args.get(1, "start", Value::integer(0));
  if (total.is_string()) throw Failure("sum cannot add strings");
  for (const Value& item : iterate(value))
    total = add(total, attribute != nullptr && !attribute->is(Kind::kNone) ? at_path(item, *attribute) : item);
  return total;
}

Value map(const Value& value, const Args& args, const Caller& caller) {
  std::vector<Value> mapped;
  if (!is_true(value)) return Value::generator({});
  if (args.values.empty()) {
    args.check("map", 0, {"attribute", "default"});
    const Value* attribute = args.find(0, "attribute");
    if (attribute == nullptr) throw Failure("map needs a filter or an attribute");
    const Value* otherwise = args.find(SIZE_MAX, "default");
    for (const Value& item : iterate(value)) {
      Value found = at_path(item, *attribute);
      mapped.push_back(found.is_undefined() && otherwise != nullptr ? *otherwise : std::move(found));
    }
    return Value::generator(std::move(mapped));
  }
  const std::string name = to_str(args.values[0]).text();
  const int filter = find_filter(name);
  if (filter < 0) throw Failure(fmt::format("no filter named '{}'", name));
  Args rest = args;
  rest.values.erase(rest.values.begin());
  for (const Value& item : iterate(value)) mapped.push_back(apply_filter(filter, item, rest, caller));
  return Value::generator(std::move(mapped));
}

// select, reject and those by an attribute, which is the first argument then.
Value choose(const Value& value, Args args, bool keeps, bool by_attribute) {
  Value attribute;
  if (by_attribute) {
    attribute = first_argument(args, "", "selectattr or rejectattr");
    args.values.erase(args.values.begin());
  }
  int test = -1;
  if (!args.values.empty()) {
    const std::string name = to_str(args.values[0]).text();
    test = find_test(name);
    if (test < 0) throw Failure(fmt::format("no test named '{}'", name));
    args.values.erase(args.values.begin());
  }
  std::vector<Value> kept;
  if (!is_true(value)) return Value::generator({});
  for (const Value& item : iterate(value)) {
    const Value tested = by_attribute ? at_path(item, attribute) : item;
    if ((test < 0 ? is_true(tested) : apply_test(test, tested, args)) == keeps) kept.push_back(item);
  }
  return Value::generator(std::move(kept));
}
Value select(const Value& value, const Args& args, const Caller&) { return choose(value, args, true, false); }
Value reject(const Value& value, const Args& args, const Caller&) { return choose(value, args, false, false); }
Value selectattr(const Value& value, const Args& args, const Caller&) { return choose(value, args, true, true); }
Value rejectattr(const Value& value, const Args& args, const Caller&) { return choose(value, args, false, true); }

Value reverse(const Value& value, const Args& args, const Caller&) {
  args.check("reverse", 0, {});
  if (value.is(Kind::kGenerator) && value.view().empty()) throw Failure("a generator cannot be reversed");
  std::vector<Value> items = iterate(value);
  std::reverse(items.begin(), items.end());
  if (!value.is_string()) return Value::generator(std::move(items));
  StrBuilder out;
  for (const Value& item : items) out.append(item);
  return out.finish();
}

Value batch(const Value& value, const Args& args, const Caller&) {
  args.check("batch", 2, {"linecount", "fill_with"});
  const int64_t count = integer_argument(args, 0, "linecount", 0);
  const Value fill = args.get(1, "fill_with", Value::none());
  std::vector<Value> batches, one;
  if (count <= 0) throw Failure("batch needs a count");
  for (const Value& item : iterate(value)) {
    if (static_cast<int64_t>(one.size()) == count) batches.push_back(Value::list(std::exchange(one, {})));
    one.push_back(item);
  }
  if (!one.empty()) {
    if (!fill.is(Kind::kNone)) {
      if (count > 100000) throw Failure("too long a batch");
      one.resize(static_cast<size_t>(count), fill);
    }
    batches.push_back(Value::list(std::move(one)));
  }
  return Value::generator(std::move(batches));
}

Value slice(const Value& value, const Args& args, const Caller&) {
  args.check("slice", 2, {"slices", "fill_with"});
  const int64_t count = integer_argument(args, 0, "slices", 0);
  if (count <= 0 || count > 100000) throw Failure("slice needs a count");
  const Value fill = args.get(1, "fill_with", Value::none());
  const std::vector<Value> items = iterate(value);
  const auto slices = static_cast<size_t>(count), each = items.size() / slices, longer = items.size() % slices;
  std::vector<Value> made;
  for (size_t i = 0, at = 0; i < slices; ++i) {
    const size_t size = each + (i < longer ? 1 : 0);
    std::vector<Value> part(items.begin() + static_cast<int64_t>(at), items.begin() + static_cast<int64_t>(at + size));
    if (!fill.is(Kind::kNone) && i >= longer) part.push_back(fill);
    at += size;
    made.push_back(Value::list(std::move(part)));
  }
  return Value::generator(std::move(made));
}

constexpr Filter kListFilters[] = {
    {"items", items},
    {"join", join},
    {"list", list},
    {"selectattr", selectattr},
    {"rejectattr", rejectattr},
    {"select", select},
    {"reject", reject},
    {"map", map},
    {"dictsort", dictsort},
    {"sort", sort},
    {"unique", unique},
    {"groupby", groupby},
    {"first", first},
    {"last", last},
    {"reverse", reverse},
    {"sum", sum},
    {"min", min},
    {"max", max},
    {"batch", batch},
    {"slice", slice},
};

}  // namespace

std::span<const Filter> list_filters() { return kListFilters; }

}  // namespace moraine::jinja
