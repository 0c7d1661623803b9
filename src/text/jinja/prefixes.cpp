// The renderings of a conversation's beginnings, cut out of one rendering of the whole. As long as the template has
// seen nothing that would differ if the conversation ended behind message k - no length, no loop.last that is true, no
// list as a whole - its rendering of the first k messages is what it has written so far, and then what it writes from
// here when the list ends there. So in front of each turn of the loop over the messages the state is kept, the list is
// cut, and the turn and all behind the loop is run to the side. Whatever else reads the list of messages ends that.
#include <algorithm>

#include "text/jinja/evaluator.h"

namespace moraine::jinja {
namespace {

// The side is to hold a message and what stands behind the last. Of a template that looks at all messages in one loop
// and writes them in another it would hold all.
constexpr size_t kMaxAside = 4096;

// Thrown through the evaluator: from here on nothing is known of beginnings.
struct EndOfBeginnings {};

// Whether what runs to the side could change the value for what follows.
bool keeps_state(const Value& value) {
  switch (value.kind) {
    case Kind::kHelper:
    case Kind::kLoop:
    case Kind::kMethod:
      return true;
    case Kind::kGenerator:
      if (value.view().empty()) return true;
      [[fallthrough]];
    case Kind::kList:
    case Kind::kTuple:
      return std::any_of(value.items().begin(), value.items().end(), keeps_state);
    case Kind::kDict:
      return std::any_of(value.dict().items.begin(), value.dict().items.end(),
                         [](const auto& item) { return keeps_state(item.second); });
    default:
      return false;
  }
}

}  // namespace

// The list of messages, and those that lack its first ones: `offset` of them.
struct Evaluator::Beginnings {
  struct View {
    std::shared_ptr<List> list;
    size_t offset;
  };

  const std::vector<bool>* wanted = nullptr;  // of which numbers of messages
  size_t bytes = 0;                           // of the texts in them
  std::vector<RenderedBeginnings::Part>* made = nullptr;
  int prompt_symbol = -1;  // add_generation_prompt
  size_t count = 0;        // messages
  size_t seen = 0;         // shorter beginnings may have been rendered otherwise
  std::vector<View> views;
  size_t statement = 0;  // of the template's, that runs
  size_t offset = 0;     // of the list that it loops over
  bool is_looping = false, is_aside = false;

  const View* view_of(const Value& value) const {
    if (value.object == nullptr || !value.is(Kind::kList)) return nullptr;
    for (const View& view : views) {
      if (view.list == value.object) return &view;
    }
    return nullptr;
  }
  void see(size_t length) { seen = std::max(seen, length); }
};

RenderedBeginnings Evaluator::render_beginnings(const Variables& variables, const std::vector<bool>& wanted,
                                                size_t bytes) {
  RenderedBeginnings made;
  Beginnings beginnings;
  beginnings.wanted = &wanted;
  beginnings.bytes = bytes;
  beginnings.made = &made.parts;
  for (const auto& [name, value] : variables) {
    const auto symbol = std::find(tree_.symbols.begin(), tree_.symbols.end(), name);
    if (symbol == tree_.symbols.end()) continue;
    if (name == "add_generation_prompt") beginnings.prompt_symbol = static_cast<int>(symbol - tree_.symbols.begin());
    if (name == "messages") {
      auto list = std::make_shared<List>(static_cast<const List&>(*value.object));
      beginnings.count = list->items.size();
      beginnings.views.push_back({list, 0});
      scope_->set(static_cast<int>(symbol - tree_.symbols.begin()), Value::of(Kind::kList, std::move(list)));
    } else {
      scope_->set(static_cast<int>(symbol - tree_.symbols.begin()), value);
    }
  }
  if (beginnings.views.empty()) return made;
  beginnings_ = &beginnings;
  out_ = &root_;
  try {
    // A loop over the messages that ends has seen how many there are.
    for (; beginnings.statement < tree_.body.size() && !beginnings.is_looping; ++beginnings.statement)
      run(*tree_.body[beginnings.statement]);
  } catch (const EndOfBeginnings&) {
  } catch (const Failure&) {  // a rendering that is wanted will say it
  }
  beginnings_ = nullptr;
  std::vector<Run> runs;
  made.shared = root_.take(runs);
  return made;
}

void Evaluator::observe(const Expr& name, const Value& value) {
  if (beginnings_->is_aside) return;
  if (name.symbol == beginnings_->prompt_symbol || beginnings_->view_of(value) != nullptr) throw EndOfBeginnings{};
}

void Evaluator::observe_set(const Expr& name) {
  if (!beginnings_->is_aside && name.symbol == beginnings_->prompt_symbol) throw EndOfBeginnings{};
}

void Evaluator::observe_loop(const Loop& loop, std::string_view name) {
  if (beginnings_->is_aside || !beginnings_->is_looping || loop.statement != tree_.body[beginnings_->statement].get())
    return;
  if (name == "last" || name == "nextitem") {
    if (loop.index + 1 == loop.items.size()) throw EndOfBeginnings{};
    beginnings_->see(beginnings_->offset + loop.index + 2);
  } else if (name == "length" || name == "revindex" || name == "revindex0") {
    throw EndOfBeginnings{};
  }
}

// The list of messages, or all but its first ones, without a look at it; nullopt for everything else.
std::optional<Value> Evaluator::view_of_messages(const Expr& expr) {
  if (beginnings_ == nullptr || beginnings_->is_aside) return std::nullopt;
  if (expr.kind == ExprKind::kName) {
    for (Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
      const Value* found = scope->find(expr.symbol);
      if (found == nullptr) continue;
      if (beginnings_->view_of(*found) == nullptr) return std::nullopt;
      return *found;
    }
  }
  if (expr.kind != ExprKind::kItem || expr.parts[1]->kind != ExprKind::kSlice) return std::nullopt;
  const auto& bounds = expr.parts[1]->parts;
  const auto is_none = [](const ExprPtr& bound) {
    return bound == nullptr || (bound->kind == ExprKind::kConstant && bound->constant.is(Kind::kNone));
  };
  if (is_none(bounds[0]) || bounds[0]->kind != ExprKind::kConstant || !bounds[0]->constant.is(Kind::kInteger) ||
      bounds[0]->constant.integer() < 0 || !is_none(bounds[1]) || !is_none(bounds[2]))
    return std::nullopt;
  const std::optional<Value> whole = view_of_messages(*expr.parts[0]);
  if (!whole) return std::nullopt;
  const size_t offset = beginnings_->view_of(*whole)->offset;
  pay_step();
  Value rest = get_slice(*whole, bounds[0]->constant, Value::none(), Value::none());
  beginnings_->views.push_back(
      {std::static_pointer_cast<List>(rest.object), offset + static_cast<size_t>(bounds[0]->constant.integer())});
  return rest;
}

// messages[i]; nullopt for everything else.
std::optional<Value> Evaluator::item_of_messages(const Expr& expr) {
  if (expr.parts[1]->kind == ExprKind::kSlice) return std::nullopt;
  const std::optional<Value> whole = view_of_messages(*expr.parts[0]);
  if (!whole) return std::nullopt;
  const Value key = eval(*expr.parts[1]);
  if (!key.is(Kind::kInteger) || key.integer() < 0) throw EndOfBeginnings{};
  const auto at = static_cast<size_t>(key.integer());
  if (at < whole->items().size()) beginnings_->see(beginnings_->view_of(*whole)->offset + at + 1);
  return get_item(*whole, key);
}

bool Evaluator::begin_messages(const Stmt& statement, const std::optional<Value>& messages) {
  if (beginnings_->is_aside || tree_.body[beginnings_->statement].get() != &statement) return false;
  if (!messages || statement.test != nullptr || statement.is_recursive) return false;
  beginnings_->offset = beginnings_->view_of(*messages)->offset;
  beginnings_->is_looping = true;
  return true;
}

// In front of a turn of the loop over the messages: with and without a generation prompt behind it.
void Evaluator::render_aside(const Stmt& statement, const Loop& loop) {
  if (beginnings_->is_aside || !beginnings_->is_looping || tree_.body[beginnings_->statement].get() != &statement)
    return;
  const size_t count = beginnings_->offset + loop.index + 1;
  beginnings_->see(count);
  if (beginnings_->seen > count || count >= beginnings_->wanted->size() || !(*beginnings_->wanted)[count]) return;
  Scope& top = *scopes_.front();
  const auto stays = [&](const std::pair<int, Value>& variable) {
    if (variable.second.is(Kind::kMacro)) return static_cast<const Macro&>(*variable.second.object).scope.get() == &top;
    return beginnings_->view_of(variable.second) != nullptr || !keeps_state(variable.second);
  };
  if (!std::all_of(top.variables.begin(), top.variables.end(), stays)) throw EndOfBeginnings{};
  for (const auto& space : namespaces_) {
    for (const auto& [name, value] : space->items) {
      if (value.is(Kind::kMacro) || keeps_state(value)) throw EndOfBeginnings{};
    }
  }
  for (const bool has_prompt : {false, true}) {
    RenderedBeginnings::Part one{count, has_prompt, root_.size(), ""};
    if (!run_aside(statement, loop, count, has_prompt, one.rest)) continue;
    if (one.rest.size() > beginnings_->bytes / 16 + kMaxAside) throw EndOfBeginnings{};
    beginnings_->made->push_back(std::move(one));
  }
}

bool Evaluator::run_aside(const Stmt& statement, const Loop& loop, size_t count, bool has_prompt, std::string& text) {
  Beginnings& all = *beginnings_;
  Scope& top = *scopes_.front();
  const std::vector<std::pair<int, Value>> variables = top.variables;
  const std::vector<std::shared_ptr<Dict>> spaces = namespaces_;
  std::vector<std::vector<std::pair<Value, Value>>> members;
  for (const auto& space : spaces) members.push_back(space->items);
  std::vector<std::vector<Value>> behind(all.views.size());
  allow_rendering(count, all.bytes);
  pay_steps((all.count - count + loop.index) / 16 + 1);
  const size_t num_views = all.views.size();
  for (size_t i = 0; i < num_views; ++i) {
    std::vector<Value>& items = all.views[i].list->items;
    const size_t kept = std::min(items.size(), count - std::min(count, all.views[i].offset));
    behind[i].assign(std::make_move_iterator(items.begin() + static_cast<ptrdiff_t>(kept)),
                     std::make_move_iterator(items.end()));
    items.resize(kept);
  }
  Restore out(out_);
  Restore scope(scope_);
  Restore message(message_);
  Restore counts(counts_messages_);
  scope_ = scopes_.front();
  StrBuilder builder;
  out_ = &builder;
  all.is_aside = true;
  top.set(all.prompt_symbol, Value::boolean(has_prompt));
  bool is_done = true;
  try {
    auto cut = std::make_shared<Loop>(loop);
    cut->items.resize(loop.index + 1);
    run_turns(statement, cut);
    for (size_t i = all.statement + 1; i < tree_.body.size(); ++i) run(*tree_.body[i]);
    std::vector<Run> runs;
    text = builder.take(runs);
  } catch (const Failure&) {
    is_done = false;  // the rendering alone says why
  }
  all.is_aside = false;
  for (size_t i = 0; i < num_views; ++i) {
    std::vector<Value>& items = all.views[i].list->items;
    items.insert(items.end(), std::make_move_iterator(behind[i].begin()), std::make_move_iterator(behind[i].end()));
  }
  top.variables = variables;
  for (size_t i = 0; i < spaces.size(); ++i) spaces[i]->items = std::move(members[i]);
  return is_done;
}

}  // namespace moraine::jinja
