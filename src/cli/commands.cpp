#include "cli/commands.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "text/chat/answer_syntax.h"
#include "text/chat/chat_format.h"

namespace moraine {
namespace {

Flag model_flag() { return {"--model", "DIR", "the checkpoint: a Hugging Face folder", &CommandArgs::model, true}; }
Flag adapters_flag(bool required = false) {
  return {"--adapter", "DIR[=W]",
          "a PEFT adapter to put on the model, times a weight (default 1); may be given repeatedly: their sum",
          &CommandArgs::adapters, required};
}
Flag ranks_flag() { return {"--ranks", "N", "processes to start on this machine", &CommandArgs::ranks}; }
Flag json_flag(std::string text) { return {"--json", "", std::move(text), &CommandArgs::json}; }
Flag seed_flag(std::string text) { return {"--seed", "S", std::move(text), &CommandArgs::seed}; }

Flag syntax_flag() {
  return {
      "--syntax", "NAME",
      "how answers write thinking and tool calls: auto (the chat format's own), " + join_choices(answer_syntax_names()),
      &CommandArgs::syntax};
}

Command train_command() {
  Command c{"train", "fine-tune a model as a recipe says; ends with a PEFT adapter on disk",
            "RECIPE.yaml [section.key=value ...]"};
  c.positionals = {{"RECIPE.yaml", "what to train, on what, how", &CommandArgs::recipe}};
  c.flags = {ranks_flag()};
  c.runs_on_ranks = true;
  c.takes_overrides = true;
  c.examples = {"moraine train recipe.yaml", "moraine train recipe.yaml train.steps=100 save.dir=runs/short"};
  c.run = run_train;
  return c;
}

Command verify_command() {
  Command c{"verify", "load a model as train would and prove every byte on every rank",
            "RECIPE.yaml [section.key=value ...] [--ranks N] [--json]"};
  c.positionals = {{"RECIPE.yaml", "its model, mesh and load sections are used", &CommandArgs::recipe}};
  c.flags = {ranks_flag(), json_flag("print {\"ranks\": [...]}, what load.json holds, alone")};
  c.runs_on_ranks = true;
  c.takes_overrides = true;
  c.examples = {"moraine verify recipe.yaml --ranks 4 mesh.ep=2", "moraine verify recipe.yaml load.mode=node"};
  c.run = run_verify;
  return c;
}

Command recipe_command() {
  Command c{"recipe", "what a recipe may say: all keys, their defaults and meanings",
            "[SECTION|SECTION.KEY] [--schema|--markdown]"};
  c.positionals = {{"KEY", "a section, or one key: train, train.steps", &CommandArgs::key, false}};
  c.flags = {{"--schema", "", "print a JSON schema, for editors that complete and check YAML", &CommandArgs::schema},
             {"--markdown", "", "print docs/recipe.md", &CommandArgs::markdown}};
  c.examples = {"moraine recipe", "moraine recipe load.mode", "moraine recipe --schema > recipe.schema.json"};
  c.run = run_recipe;
  return c;
}

Command plan_command() {
  Command c{"plan", "what a run will read, hold and send on each rank, and whether it fits; starts nothing",
            "RECIPE.yaml [section.key=value ...] [--world N --ranks-per-node M] [flags]"};
  c.positionals = {{"RECIPE.yaml", "the run; neither weights nor data need to be there, config.json is enough",
                    &CommandArgs::recipe}};
  c.flags = {
      {"--world", "N", "ranks (default: the fewest that the recipe's mesh fits)", &CommandArgs::world},
      {"--ranks-per-node", "M", "ranks per machine (default: up to 8)", &CommandArgs::ranks_per_node},
      {"--memory-per-rank", "SIZE", "say whether it fits, and if not, what would: 80GiB, 512MB",
       &CommandArgs::memory_per_rank},
      {"--device", "NAME[,KEY=VALUE...]",
       "predict how long a step takes on h100, h200, b200 or cpu, and which meshes are fastest; the device's "
       "figures may be others: h200,pcie=25GB/s,network=25GB/s,host=128GiB (also memory, bf16, fp32, hbm, nvlink, "
       "launch, context, communicator, exchange_peer)",
       &CommandArgs::device},
      json_flag("print one JSON object alone: a row for every rank")};
  c.takes_overrides = true;
  c.examples = {
      "moraine plan recipe.yaml --world 8 mesh.ep=8 --memory-per-rank 80GiB",
      "moraine plan recipe.yaml --world 8 mesh.ep=auto --device h100,network=25GB/s",
      "moraine plan recipe.yaml model.path=Qwen3-30B-A3B/config.json --world 1024 --ranks-per-node 8 mesh.ep=8 --json"};
  c.run = run_plan;
  return c;
}

Command score_command() {
  Command c{"score", "loss of a file of tokens, with or without an adapter",
            "--model DIR [--adapter DIR[=W] ...] --tokens FILE [flags] [section.key=value ...]"};
  c.flags = {
      model_flag(),
      adapters_flag(),
      {"--tokens", "FILE", "safetensors with input_ids [B,T] and, if any, attention_mask and labels",
       &CommandArgs::tokens, true},
      {"--out", "FILE", "write loss and token_loss [B,T-1] there (safetensors)", &CommandArgs::out},
      {"--logits", "", "write logits [B,T,V] to --out too", &CommandArgs::logits},
      {"--grads", "FILE", "write d loss / d adapter there, named as in adapter_model.safetensors", &CommandArgs::grads},
      json_flag("print {\"loss\", \"tokens\"} alone"),
      ranks_flag()};
  c.runs_on_ranks = true;
  c.takes_overrides = true;
  c.examples = {"moraine score --model Qwen3-30B-A3B --adapter runs/short/adapter --tokens eval.safetensors",
                "moraine score --model Qwen3-30B-A3B --adapter runs/style/adapter --adapter runs/facts/adapter=0.5 "
                "--tokens eval.safetensors",
                "moraine score --model tiny --tokens batch.safetensors model.dtype=float32 --out scores.safetensors"};
  c.run = run_score;
  return c;
}

Command generate_command() {
  Command c{"generate", "let a model answer, with or without an adapter",
            "--model DIR [--adapter DIR[=W] ...] (--prompt TEXT | --chat FILE.json) [flags] [section.key=value ...]"};
  c.flags = {
      model_flag(),
      adapters_flag(),
      {"--prompt", "TEXT", "asked as a user's message, in the checkpoint's chat format when it has one",
       &CommandArgs::prompt},
      {"--chat", "FILE", "a conversation to go on with: {\"messages\": [...], \"tools\": [...]}", &CommandArgs::chat},
      {"--tools", "FILE", "a JSON list of tools that the model may call", &CommandArgs::tools},
      {"--template-option", "NAME=VALUE",
       "an option of the chat format, a variable of a template: enable_thinking=false; may be given several times",
       &CommandArgs::template_option},
      {"--max-new-tokens", "N", "at most so many tokens (default 128)", &CommandArgs::max_new_tokens},
      {"--temperature", "T", "0, the default, always takes the likeliest token; 1 samples as the model says",
       &CommandArgs::temperature},
      seed_flag("of the sampling (default 0)"),
      {"--parse", "", "take the answer apart: a message with content, reasoning_content and tool_calls",
       &CommandArgs::parse_answer},
      syntax_flag(),
      json_flag("print {\"text\", \"ids\", \"prompt_tokens\"} alone; with --parse also message, or error"),
      ranks_flag()};
  c.runs_on_ranks = true;
  c.takes_overrides = true;
  c.examples = {"moraine generate --model Qwen3-30B-A3B --adapter runs/short/adapter --prompt \"Who are you?\"",
                "moraine generate --model Qwen3-30B-A3B --chat chat.json --tools tools.json --parse "
                "--template-option enable_thinking=false"};
  c.run = run_generate;
  return c;
}

Command inspect_command() {
  Command c{"inspect", "what a checkpoint or an adapter holds; reads headers only",
            "MODEL_DIR|ADAPTER_DIR [--hash|--check] [--for PROGRAM --model DIR] [--json]"};
  c.positionals = {{"DIR", "a Hugging Face checkpoint or a PEFT adapter", &CommandArgs::folder}};
  c.flags = {
      {"--hash", "", "write a manifest of hashes of every tensor and file", &CommandArgs::hash},
      {"--check", "", "compare every byte with a manifest that --hash wrote", &CommandArgs::check},
      {"--manifest", "FILE", "the manifest (default: moraine-hashes.json in the folder)", &CommandArgs::manifest},
      {"--for", "PROGRAM",
       "what peft, vllm or sglang does with each key of the adapter; ends with 1 where it does not read all of them",
       &CommandArgs::server},
      {"--model", "DIR", "for --for: the checkpoint that the adapter is for; its config.json is enough",
       &CommandArgs::model},
      json_flag("print one JSON object alone")};
  c.examples = {"moraine inspect Qwen3-30B-A3B", "moraine inspect runs/short/adapter",
                "moraine inspect runs/short/adapter --for vllm --model Qwen3-30B-A3B",
                "moraine inspect Qwen3-30B-A3B --check"};
  c.run = run_inspect;
  return c;
}

Command report_command() {
  Command c{"report", "write report.html of a run again, from the files in its folder", "RUN_DIR"};
  c.positionals = {{"RUN_DIR", "the run's save.dir, finished or not", &CommandArgs::folder}};
  c.examples = {"moraine report runs/short"};
  c.run = run_report;
  return c;
}

// Of {"completion", …}: the keys that some format takes from the row.
std::string completion_keys() {
  std::string keys = "\"completion\"";
  for (const ChatFormat& format : chat_formats()) {
    for (const std::string& key : format.completion_keys) keys += ", \"" + key + "\"";
  }
  return keys;
}

Command tokenize_command() {
  const std::vector<std::string> formats = chat_format_names();
  Command c{"tokenize", "show how text or chats become tokens, and which of them are trained",
            "--model DIR (--text TEXT | --texts FILE.jsonl | --messages FILE | --parse FILE.jsonl) [flags] "
            "[data.key=value ...]"};
  c.flags = {
      {"--model", "DIR", "the checkpoint: a Hugging Face folder (--parse with --template needs none)",
       &CommandArgs::model},
      {"--text", "TEXT", "one text", &CommandArgs::text},
      {"--texts", "FILE", "JSON lines of {\"text\"}", &CommandArgs::texts},
      {"--messages", "FILE", "what training makes of a file, folder or pattern, of any format that data.train takes",
       &CommandArgs::messages},
      {"--parse", "FILE",
       fmt::format("JSON lines of {{{}}} to take apart; \"messages\" and \"tools\" say what a completion follows",
                   completion_keys()),
       &CommandArgs::parse},
      syntax_flag(),
      {"--parse-without-eos", "", "of --parse: completions may lack the token that ends a turn",
       &CommandArgs::parse_without_eos},
      {"--template", "NAME", "chat format: auto (default), " + join_choices(formats), &CommandArgs::template_name},
      {"--chat-template", "FILE.jinja",
       "a template's own text, for --messages (no --model is needed: its options are then all variables of the "
       "template)",
       &CommandArgs::chat_template},
      {"--template-options", "JSON", "options of the chat format, e.g. {\"enable_thinking\": false}",
       &CommandArgs::template_options},
      json_flag("print one JSON object per row: text, ids, loss_mask, generation_prompt; of --parse message, error")};
  c.takes_overrides = true;
  c.examples = {
      "moraine tokenize --model Qwen3-30B-A3B --messages chats.jsonl",
      "moraine tokenize --model Qwen3-30B-A3B --messages chats.jsonl data.loss_on=last data.variables={NAME: Ada}",
      "moraine tokenize --chat-template chat_template.jinja --messages chats.jsonl --json",
      "moraine tokenize --template deepseek_v4 --parse completions.jsonl --json"};
  c.run = run_tokenize;
  return c;
}

Command init_command() {
  Command c{"init", "write a random checkpoint of a config.json's shape, for trying things out",
            "--config CONFIG.json --out DIR [--dtype D] [--seed S]"};
  c.flags = {{"--config", "FILE", "the config.json", &CommandArgs::config, true},
             {"--out", "DIR", "a new or empty folder", &CommandArgs::out, true},
             {"--dtype", "D", "bfloat16 or float32 (default: what the config says)", &CommandArgs::dtype},
             seed_flag("of the random values (default 0)")};
  c.examples = {"moraine init --config Qwen3-30B-A3B/config.json --out random --dtype bfloat16"};
  c.run = run_init;
  return c;
}

Flag max_shard_size_flag() {
  return {"--max-shard-size", "SIZE", "of a safetensors file: 500MB, 5GB (the default)", &CommandArgs::max_shard_size};
}

Command merge_command() {
  Command c{"merge", "fold an adapter into its model: a checkpoint that needs no adapter",
            "--model DIR --adapter DIR[=W] ... --out DIR [--keep-format] [flags]"};
  c.flags = {model_flag(),
             adapters_flag(/*required=*/true),
             {"--out", "DIR", "a new or empty folder", &CommandArgs::out, true},
             {"--keep-format", "", "quantise merged FP8 and FP4 weights again, instead of writing all in bfloat16",
              &CommandArgs::keep_format},
             {"--score", "FILE", "tokens, as of score: say their loss with the adapter and with what was written",
              &CommandArgs::score_tokens},
             json_flag("print one JSON object alone: with --keep-format the error of every tensor"),
             max_shard_size_flag()};
  c.examples = {"moraine merge --model Qwen3-30B-A3B --adapter runs/short/adapter --out merged",
                "moraine merge --model Qwen3-30B-A3B-FP8 --adapter runs/short/adapter --out merged --keep-format "
                "--score eval.safetensors"};
  c.run = run_merge;
  return c;
}

Command merge_adapters_command() {
  Command c{"merge-adapters", "write several adapters of one model as one, each with a weight",
            "--adapter DIR[=W] --adapter DIR[=W] ... --out DIR [--method cat|linear] [--model DIR]"};
  c.flags = {{"--adapter", "DIR[=W]", "an adapter and its weight (default 1)", &CommandArgs::adapters, true},
             {"--method", "M",
              "as PEFT's add_weighted_adapter: cat (default), the exact sum, of the summed rank; or linear, factor by "
              "factor at the same rank, which is only near the sum",
              &CommandArgs::method},
             {"--model", "DIR",
              "the checkpoint that the adapters are for, config.json is enough (default: the folder that they name)",
              &CommandArgs::model},
             {"--out", "DIR", "a new or empty folder", &CommandArgs::out, true}};
  c.examples = {
      "moraine merge-adapters --model Qwen3-30B-A3B --adapter runs/style/adapter --adapter runs/facts/adapter=0.5 "
      "--out both"};
  c.run = run_merge_adapters;
  return c;
}

Command export_command() {
  Command c{"export", "write an adapter in the layout that a library or a server reads",
            "--model DIR --adapter DIR --layout L --out DIR"};
  c.flags = {{"--model", "DIR", "the checkpoint that the adapter is for; its config.json is enough",
              &CommandArgs::model, true},
             {"--adapter", "DIR", "the adapter, in any of the layouts", &CommandArgs::adapter, true},
             {"--layout", "L",
              "peft, peft-0.19.0 (of 0.18 to 0.19.0), per-expert (2-D factors for each expert and projection), "
              "shared-outer (of adapter.experts: shared_outer, those of all experts stacked), vllm or sglang (the one "
              "that it reads of this family)",
              &CommandArgs::layout, true},
             {"--out", "DIR", "a new or empty folder", &CommandArgs::out, true}};
  c.examples = {
      "moraine export --model Qwen3-30B-A3B --adapter runs/short/adapter --layout vllm --out adapter-for-vllm"};
  c.run = run_export;
  return c;
}

Command convert_command() {
  Command c{"convert", "write a checkpoint in another dtype, FP8 and FP4 weights dequantised",
            "--model DIR --out DIR --dtype bfloat16"};
  c.flags = {model_flag(),
             {"--out", "DIR", "a new or empty folder", &CommandArgs::out, true},
             {"--dtype", "D", "bfloat16 or float32", &CommandArgs::dtype, true},
             max_shard_size_flag()};
  c.examples = {"moraine convert --model DeepSeek-V4-Flash --out DeepSeek-V4-Flash-bf16 --dtype bfloat16"};
  c.run = run_convert;
  return c;
}

// Rows of two columns, the first padded to the same width.
std::string columns(const std::vector<std::pair<std::string, std::string>>& rows) {
  size_t width = 0;
  for (const auto& [left, right] : rows) width = std::max(width, left.size());
  std::string text;
  for (const auto& [left, right] : rows) text += fmt::format("  {:<{}}   {}\n", left, width, right);
  return text;
}

}  // namespace

const std::vector<Command>& commands() {
  static const std::vector<Command> table{
      train_command(),    recipe_command(),         plan_command(),    verify_command(),   score_command(),
      generate_command(), report_command(),         inspect_command(), tokenize_command(), init_command(),
      merge_command(),    merge_adapters_command(), export_command(),  convert_command()};
  return table;
}

std::string program_help() {
  std::vector<std::pair<std::string, std::string>> rows;
  for (const Command& command : commands()) rows.emplace_back(command.name, command.summary);
  return "moraine fine-tunes Mixture-of-Experts language models with LoRA: from a Hugging Face checkpoint on disk to "
         "a\n"
         "PEFT adapter on disk.\n\n"
         "Usage:\n"
         "  moraine COMMAND [flags] [section.key=value ...]\n\n"
         "Commands:\n" +
         columns(rows) +
         "\n"
         "A first run:\n"
         "  moraine inspect MODEL_DIR                              is it a model that can be trained?\n"
         "  moraine tokenize --model MODEL_DIR --messages FILE     what will be trained in the chats?\n"
         "  moraine plan RECIPE.yaml --memory-per-rank 80GiB       will it fit?\n"
         "  moraine train RECIPE.yaml                              train\n"
         "  moraine generate --model MODEL_DIR --adapter SAVE_DIR/adapter --prompt \"Who are you?\"\n\n"
         "`moraine COMMAND --help` lists a command's flags; `moraine --version` says which version this is.\n"
         "Flags and section.key=value, which override the recipe's keys, may be mixed in any order.\n"
         "Exit codes: 0 done, 1 failed while running, 2 wrong usage, recipe or input.\n";
}

std::string command_help(const Command& command) {
  std::string text = fmt::format("moraine {}: {}\n\nUsage:\n  moraine {} {}\n\n", command.name, command.summary,
                                 command.name, command.usage);
  std::vector<std::pair<std::string, std::string>> rows;
  for (const Positional& positional : command.positionals) rows.emplace_back(positional.value, positional.text);
  for (const Flag& flag : command.flags) {
    rows.emplace_back(flag.value.empty() ? flag.name : flag.name + " " + flag.value,
                      flag.text + (flag.required ? " (required)" : ""));
  }
  if (command.takes_overrides)
    rows.emplace_back("section.key=value", "a recipe key, e.g. model.dtype=float32 (moraine recipe lists them)");
  text += "Arguments, in any order:\n" + columns(rows) + "\nExamples:\n";
  for (const std::string& example : command.examples) text += "  " + example + "\n";
  return text;
}

}  // namespace moraine
