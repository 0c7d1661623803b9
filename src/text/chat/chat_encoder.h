// A conversation as text and back: what every chat format's encoder does, and its parser if it has one.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

namespace moraine {

// A rendered conversation. `trained` are byte ranges [begin, end) of `text`, in order, one for each assistant turn:
// what the assistant says, its end token included, its generation prompt excluded. `withheld` are those of them that
// the message's own flag takes out of training, whatever data.loss_on says. `foreign` is what users and tools wrote, in
// order.
struct ChatText {
  std::string text;
  std::vector<std::pair<size_t, size_t>> trained, withheld;
  std::vector<std::pair<size_t, size_t>> foreign = {};
  // Turns that this text shows otherwise than it would if they were the last: their thinking is left out, or the
  // generation prompt that served them is another.
  size_t changed_turns = 0;

  // A user's or tool's text.
  void append_foreign(std::string_view content) {
    if (!content.empty()) foreign.emplace_back(text.size(), text.size() + content.size());
    text += content;
  }

  // The end of an assistant's turn, which began at byte `begin`: every encoder calls it for each. `message` says
  // is_trained, of read_train_flag.
  template <typename Message>
  void add_answer(size_t begin, const Message& message) {
    trained.emplace_back(begin, text.size());
    if (!message.is_trained) withheld.push_back(trained.back());
  }
};

// `messages` is an array of {"role", "content", …}; `tools` an array or null. All throw an input error without the
// row's place (at_place.h) on messages that the format cannot express.
class ChatEncoder {
 public:
  virtual ~ChatEncoder() = default;
  // Every turn keeps its thinking block.
  virtual ChatText training_text(const OrderedJson& messages, const OrderedJson& tools) const = 0;
  // The conversation up to an assistant's turn, its last message, as the released template renders it. Trained is that
  // turn alone: all behind its generation prompt, where the text begins with that prompt.
  virtual ChatText turn_text(const OrderedJson& messages, const OrderedJson& tools) const = 0;
  // What the released template renders over the whole conversation; earlier turns may lose their thinking.
  virtual std::string inference_text(const OrderedJson& messages, const OrderedJson& tools) const = 0;
  // The conversation ready for an answer (the released template with add_generation_prompt).
  virtual std::string generation_prompt(const OrderedJson& messages, const OrderedJson& tools) const = 0;
};

// Takes a completion apart: {"role": "assistant", "content", …}. Throws an input error without the
// row's place that says why on a malformed one.
using CompletionParser = std::function<OrderedJson(std::string_view completion)>;

}  // namespace moraine
