// Conversations whose every assistant turn is a row of its own (data.turns: each).
#pragma once

#include <vector>

#include "base/json.h"
#include "text/chat/chat_encoder.h"

namespace moraine {

// Of `shown`, the conversation `messages` as `encoder` shows it for inference, the last turn alone as what is trained:
// what ChatEncoder::turn_text gives. Where the text does not begin with the turn's generation prompt, the turn is
// trained from where the encoder says, and counts as changed.
ChatText only_last_turn(ChatText shown, const ChatEncoder& encoder, const OrderedJson& messages,
                        const OrderedJson& tools);

struct AssistantTurn {
  OrderedJson messages;  // up to and with it
  ChatText text;
};

// Each assistant turn that no flag keeps out of training, or with `only_last` the last of the conversation, when it is
// such a turn. Throws what ChatEncoder::turn_text throws, and an input error without the row's place when `messages` is
// not a list of objects.
std::vector<AssistantTurn> each_turn(const ChatEncoder& encoder, const OrderedJson& messages, const OrderedJson& tools,
                                     bool only_last);

}  // namespace moraine
