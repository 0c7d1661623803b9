#include "distributed/control/heartbeat.h"

#include "base/json.h"

namespace moraine {

std::string Heartbeat::to_json() const {
  const Json json{{"count", count},         {"stage", stage}, {"last_collective", last_collective},
                  {"sequences", sequences}, {"done", done},   {"end_signal", end_signal}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Heartbeat Heartbeat::from_json(const std::string& text) {
  const Json json = Json::parse(text);
  Heartbeat beat;
  json.at("count").get_to(beat.count);
  json.at("stage").get_to(beat.stage);
  json.at("last_collective").get_to(beat.last_collective);
  json.at("sequences").get_to(beat.sequences);
  json.at("done").get_to(beat.done);
  json.at("end_signal").get_to(beat.end_signal);
  return beat;
}

std::string heartbeat_key(int64_t rank) { return "heartbeat/" + std::to_string(rank); }

std::optional<Heartbeat> read_heartbeat(const std::optional<std::string>& text) try {
  return text ? std::optional(Heartbeat::from_json(*text)) : std::nullopt;
} catch (const Json::exception&) {
  return std::nullopt;
}

HeartbeatWatch::Clock::duration HeartbeatWatch::look(const std::optional<Heartbeat>& beat, Clock::time_point now) {
  constexpr auto kLongestLook = std::chrono::seconds(2);
  if (now - last_look_ > kLongestLook) last_change_ += now - last_look_;
  last_look_ = now;
  if (beat && beat->count != last_count_) {
    last_count_ = beat->count;
    last_change_ = now;
  }
  return now - last_change_;
}

}  // namespace moraine
