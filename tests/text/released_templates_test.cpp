// Templates of released checkpoints that no built-in format is for, through the Jinja engine: what transformers
// renders.
#include <gtest/gtest.h>

#include "base/file.h"
#include "text/chats.h"

namespace moraine {
namespace {

class ReleasedTemplate : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(, ReleasedTemplate,
                         testing::Values("qwen3_coder", "qwen3_thinking_2507", "qwen3_6", "qwen3_8", "glm_4_5",
                                         "kimi_k2", "minimax_m2"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(ReleasedTemplate, RendersAsTransformersDoes) {
  const std::string name = "released/" + std::string(GetParam());
  // As a checkpoint's own, which is none of the built-in formats.
  const Folder folder;
  folder.write("chat_template.jinja", read_text_file(kGolden / "templates" / (name + ".jinja")));
  for (const OrderedJson& row : golden_rows(name)) {
    SCOPED_TRACE(row["messages"].dump() + row["options"].dump());
    const auto chat = make_chat_template("auto", Json::parse(row["options"].dump()), folder.path);
    const ChatEncoder& encoder = *chat->encoder;
    EXPECT_EQ(encoder.inference_text(row["messages"], row["tools"]), row["text"]);
    OrderedJson question = row["messages"];
    question.erase(question.size() - 1);
    EXPECT_EQ(encoder.generation_prompt(question, row["tools"]), row["generation_prompt"]);
    const ChatText training = encoder.training_text(row["messages"], row["tools"]);
    EXPECT_EQ(training.text, row["text"]);
    size_t answers = 0;
    for (const OrderedJson& message : row["messages"]) answers += message["role"] == "assistant";
    EXPECT_EQ(training.trained.size(), answers);
  }
}

}  // namespace
}  // namespace moraine
