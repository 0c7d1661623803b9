#include "text/chat/deepseek_v4_turns.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "text/chat/tojson.h"
#include "text/tokenizer/at_place.h"

namespace moraine::deepseek_v4 {
namespace {

// Every result answers a call of the last assistant's message that has any.
void check_results(const Message& message, const std::vector<Call>* calls) {
  for (const UserBlock& block : message.blocks) {
    if (!block.is_result) continue;
    if (calls == nullptr) throw input_error(message.place, "the result of a tool without a call before it");
    const auto has_id = [](const Call& call) { return !call.id.empty(); };
    if (block.call_id.empty() || std::none_of(calls->begin(), calls->end(), has_id)) continue;
    const auto answered = [&](const Call& call) { return call.id == block.call_id; };
    if (std::none_of(calls->begin(), calls->end(), answered)) {
      throw input_error(message.place, fmt::format("the result of {}, which is no call of the turn before",
                                                   quoted_for_error(block.call_id)));
    }
  }
}

void sort_results(std::vector<UserBlock>& blocks, const std::vector<Call>& calls) {
  std::vector<UserBlock> results;
  for (const UserBlock& block : blocks)
    if (block.is_result) results.push_back(block);
  const auto call_of = [&](const UserBlock& block) -> size_t {
    for (size_t i = calls.size(); i-- > 0;)
      if (!block.call_id.empty() && calls[i].id == block.call_id) return i;
    return 0;
  };
  std::stable_sort(results.begin(), results.end(),
                   [&](const UserBlock& a, const UserBlock& b) { return call_of(a) < call_of(b); });
  size_t next = 0;
  for (UserBlock& block : blocks)
    if (block.is_result) block = results[next++];
}

// Users' messages and results that follow each other become one turn, which a task ends.
std::vector<Message> merge(std::vector<Message> messages) {
  std::vector<Message> turns;
  for (Message& message : messages) {
    const bool after_user = !turns.empty() && turns.back().role == Role::kUser && turns.back().task.empty();
    if (message.role != Role::kUser || !after_user) {
      turns.push_back(std::move(message));
      continue;
    }
    if (!message.task.empty()) {
      throw input_error(message.place, "task on a message that joins the turn of the one before",
                        "the format knows it on the first message of a turn only");
    }
    for (UserBlock& block : message.blocks) turns.back().blocks.push_back(std::move(block));
  }
  return turns;
}

}  // namespace

std::vector<Message> read_turns(const OrderedJson& messages, const OrderedJson& tools) {
  if (!messages.is_array()) throw row_error("messages is not a list");
  if (messages.empty()) throw row_error("no messages");
  if (!tools.is_null() && !tools.is_array()) throw row_error("tools is not a list");
  std::vector<Message> read;
  read.reserve(messages.size() + 1);
  if (!tools.empty()) {
    Message system;
    system.tools = read_tools(tools);
    read.push_back(std::move(system));
  }
  std::optional<size_t> last_caller;
  for (const OrderedJson& message : messages) {
    const size_t index = static_cast<size_t>(&message - &messages.front());
    const std::string place = fmt::format("messages[{}]", index);
    read.push_back(at_place(place, [&] { return read_message(message); }));
    read.back().place = place;
    check_results(read.back(), last_caller ? &read[*last_caller].calls : nullptr);
    if (!read.back().calls.empty()) last_caller = read.size() - 1;
  }
  std::vector<Message> turns = merge(std::move(read));
  const std::vector<Call>* calls = nullptr;
  for (Message& turn : turns) {
    if (!turn.calls.empty()) calls = &turn.calls;
    if (calls != nullptr && turn.blocks.size() > 1) sort_results(turn.blocks, *calls);
  }
  return turns;
}

}  // namespace moraine::deepseek_v4
