// Chats to training text and back: one encoder a chat format, equal to the released templates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "data/tokenizer.h"

namespace moraine {

// A rendered conversation. `trained` are byte ranges [begin, end) of `text`, in order, one for each assistant turn:
// what the assistant says, its end token included, its generation prompt excluded. `withheld` are those of them that
// the message's own flag takes out of training, whatever data.loss_on says.
struct ChatText {
  std::string text;
  std::vector<std::pair<size_t, size_t>> trained, withheld;

  // The end of an assistant's turn, which began at byte `begin`: every encoder calls it for each. `message` says
  // is_trained, of read_train_flag.
  template <typename Message>
  void add_answer(size_t begin, const Message& message) {
    trained.emplace_back(begin, text.size());
    if (!message.is_trained) withheld.push_back(trained.back());
  }
};

class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  virtual std::string name() const = 0;
  // What begins and ends turns: each is one token of a tokenizer that the format is for.
  virtual std::vector<std::string> turn_tokens() const = 0;
  // `messages` is an array of {"role", "content", …}; `tools` an array or null. Every turn keeps its thinking block.
  // Throws an input error (where = `where`) on messages the format cannot express.
  virtual ChatText training_text(const OrderedJson& messages, const OrderedJson& tools,
                                 const std::string& where) const = 0;
  // What the released template renders over the whole conversation; earlier turns may lose their thinking.
  virtual std::string inference_text(const OrderedJson& messages, const OrderedJson& tools,
                                     const std::string& where) const = 0;
  // The conversation ready for an answer (the released template with add_generation_prompt).
  virtual std::string generation_prompt(const OrderedJson& messages, const OrderedJson& tools,
                                        const std::string& where) const = 0;
};

// `name`: qwen3, qwen3_instruct_2507, qwen3_5, deepseek_v4, react or auto. auto takes the format
// whose released template the checkpoint in `model_folder` holds (detect_chat_template), and throws an input error when it holds
// another one.
// `options`: enable_thinking for qwen3 and qwen3_5 (default true; with auto what the checkpoint's template does without
// it); qwen3_instruct_2507, which never thinks, takes only false there. read_deepseek_v4_options for deepseek_v4. base for
// react: the format that renders its plain messages (default auto), which takes the other options.
// Unknown names and options are input errors that list the known ones.
std::unique_ptr<ChatTemplate> make_chat_template(const std::string& name, const Json& options,
                                                 const std::filesystem::path& model_folder);

// Throws an input error that names a token of the format's turns which is not one token of `tokenizer`: it would be trained in pieces.
void check_turn_tokens(const ChatTemplate& chat, const Tokenizer& tokenizer);

struct TokenizedChat {
  std::vector<int64_t> ids;
  std::vector<uint8_t> loss_mask;  // 1 = trained
};

enum class LossOn { kAssistant, kLast, kAll };  // data.loss_on

// Tokenises the whole text at once and marks every token that holds a byte of a trained range (of the last one only
// with kLast, all tokens with kAll) and none of a withheld one. A token over a range's begin, as when an answer begins
// with a newline, counts as trained, as in transformers.
TokenizedChat tokenize_chat(const ChatText& chat, const Tokenizer& tokenizer, LossOn loss_on);

}  // namespace moraine
