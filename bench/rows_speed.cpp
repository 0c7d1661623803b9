// How fast chats become training rows: a file read, rendered, masked and tokenised as `moraine train` does it.
//
//   rows_speed MODEL_FOLDER FILE SECONDS [section.key=value ...]
//
// Reads the file again and again for that long, with OMP_NUM_THREADS threads, and prints {"rows", "tokens", "seconds",
// "cpu_seconds"}, the least of each: the processor's, of all threads, tell more on a busy machine. The folder needs no
// more than a tokenizer and a chat template.
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "base/error.h"
#include "config/recipe.h"
#include "text/rows/dataset.h"

using namespace moraine;

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "rows_speed MODEL_FOLDER FILE SECONDS [section.key=value ...]\n");
    return 2;
  }
  try {
    const DataConfig config = recipe_from_overrides({argv + 4, argv + argc}).data;
    const Tokenizer tokenizer = Tokenizer::from_folder(argv[1]);
    const auto chat = make_chat_template(config.chat_template, config.template_options, argv[1], config.template_name);
    double fastest = 1e30, least = 1e30, total = 0;
    Dataset data;
    while (total < std::atof(argv[3])) {
      const auto start = std::chrono::steady_clock::now();
      const std::clock_t begin = std::clock();
      data = load_dataset({argv[2]}, config, &tokenizer, chat.get(), tokenizer.vocab_size());
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      fastest = std::min(fastest, seconds);
      least = std::min(least, static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
      total += seconds;
    }
    int64_t tokens = 0;
    for (const Sample& sample : data.samples) tokens += static_cast<int64_t>(sample.input_ids.size());
    fmt::print("{{\"rows\": {}, \"tokens\": {}, \"seconds\": {}, \"cpu_seconds\": {}}}\n", data.rows, tokens, fastest,
               least);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
